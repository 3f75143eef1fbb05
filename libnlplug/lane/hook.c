/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ask what NETLINK_ROUTE does not tell about a device's hooks, in the network namespace of the calling thread. The
 * numbers are those of the kernel's headers, which never change; a C library may have older headers.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <unistd.h>

#include "netlink/attributes.h"

/* linux/bpf.h, linux/membarrier.h */
enum { PROG_QUERY = 16, TCX_INGRESS = 46, TCX_EGRESS = 47, BARRIER_GLOBAL = 1 };

/* linux/netfilter.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h */
enum { FAMILY_INET = 1, FAMILY_NETDEV = 5, INET_INGRESS = 5, NETDEV_INGRESS = 0 };
enum { NEW_CHAIN = 10 << 8 | 3, GET_CHAIN = 10 << 8 | 4 };
enum { CHAIN_TABLE = 1, CHAIN_NAME = 3, CHAIN_HOOK = 4, HOOK_NUMBER = 1, HOOK_DEVICE = 3, HOOK_DEVICES = 4 };
enum { DEVICE_NAME = 1, DEVICE_PREFIX = 2 };

/*
 * The number of BPF programs that are attached to the device by tcx (Linux 6.6), or a negative errno: -EINVAL where the
 * kernel knows no tcx. They run before the filters of clsact and can end the classification.
 *
 * The kernel writes the revision, however short it was told that the structure is.
 */
int libnlplug_tcx_programs(int ifindex, int ingress)
{
	struct {
		uint32_t target, attach_type, flags, attach_flags;
		uint64_t ids;
		uint32_t count, unused;
		uint64_t flags_of_programs, links, flags_of_links, revision;
	} query = { .target = ifindex, .attach_type = ingress ? TCX_INGRESS : TCX_EGRESS };

	if (syscall(SYS_bpf, PROG_QUERY, &query, sizeof query))
		return -errno;
	return query.count;
}

/* Wait until every processor has finished with the packets it works on now. Return 0, or a negative errno. */
int libnlplug_wait_for_readers(void)
{
	return syscall(SYS_membarrier, BARRIER_GLOBAL, 0, 0) ? -errno : 0;
}

/* Whether a chain's hook is at the ingress of the device. */
static int is_ingress_of(int family, const struct nlattr *hook, const char *device)
{
	const struct nlattr *number = attribute_inside(hook, HOOK_NUMBER);
	const struct nlattr *one = attribute_inside(hook, HOOK_DEVICE);
	const struct nlattr *list = attribute_inside(hook, HOOK_DEVICES);
	uint32_t wanted = family == FAMILY_NETDEV ? NETDEV_INGRESS : INET_INGRESS;
	uint32_t is;

	if (!number || attribute_size(number) != sizeof is)
		return 0;
	attribute_copy(number, &is, sizeof is);
	if ((family != FAMILY_NETDEV && family != FAMILY_INET) || ntohl(is) != wanted)
		return 0;
	if (one && !strncmp(attribute_start(one), device, attribute_size(one)))
		return 1;
	if (!list)
		return 0;
	one = attribute_at(attribute_start(list), attribute_end(list));
	for (; one; one = attribute_after(one, attribute_end(list))) {
		size_t length = strnlen(attribute_start(one), attribute_size(one));
		int type = one->nla_type & NLA_TYPE_MASK;

		if (!strncmp(attribute_start(one), device, length) && (type == DEVICE_PREFIX || !device[length]))
			return 1;
	}
	return 0;
}

/* Read one message of the dump. Return 1 for such a chain, 0 for another, a negative errno, or ENOENT for the end. */
static int look_at(struct nlmsghdr *header, const char *device, char *name, size_t size)
{
	char *payload = NLMSG_DATA(header), *end = (char *)header + header->nlmsg_len;
	const struct nlattr *hook, *table, *chain;

	if (header->nlmsg_type == NLMSG_DONE)
		return ENOENT;
	if (header->nlmsg_type == NLMSG_ERROR) {
		int error = end - payload < (int)sizeof error ? 0 : ((struct nlmsgerr *)payload)->error;

		return error < 0 ? error : -EPROTO;
	}
	if (header->nlmsg_type != NEW_CHAIN || end - payload < 4)
		return 0;
	hook = attribute_find(payload + 4, end, CHAIN_HOOK);
	table = attribute_find(payload + 4, end, CHAIN_TABLE);
	chain = attribute_find(payload + 4, end, CHAIN_NAME);
	if (!hook || !table || !chain || !is_ingress_of(*payload, hook, device))
		return 0;
	snprintf(name, size, "%s %.*s %.*s", *payload == FAMILY_NETDEV ? "netdev" : "inet",
		 (int)attribute_size(table), attribute_start(table),
		 (int)attribute_size(chain), attribute_start(chain));
	return 1;
}

/*
 * Return 1 if nftables has a chain at the ingress of the device, with its name as 'nft list chain' takes it; else 0, or a
 * negative errno. Packets that an ifb gives back to a device's ingress skip that hook (net/core/dev.c).
 */
int libnlplug_ingress_chain(const char *device, char *name, size_t size)
{
	struct {
		struct nlmsghdr header;
		char family_version_and_id[4];
	} request = { { sizeof request, GET_CHAIN, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, "" };
	struct timeval patience = { .tv_sec = 2 };
	const size_t room = 32768;
	char *answers = malloc(room);	/* the stack of a thread may be smaller */
	int fd = answers ? socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER) : -1;
	int found = fd < 0 ? -errno : 0;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (!found && send(fd, &request, sizeof request, 0) < 0)
		found = -errno;
	while (!found) {
		struct nlmsghdr *header = (struct nlmsghdr *)answers;
		ssize_t length = recv(fd, answers, room, 0);

		if (length < 0 && errno == EINTR)
			continue;
		if (length <= 0)
			found = length ? -errno : -EPROTO;
		for (; !found && NLMSG_OK(header, length); header = NLMSG_NEXT(header, length))
			found = look_at(header, device, name, size);
	}
	if (fd >= 0)
		close(fd);
	free(answers);
	return found == ENOENT ? 0 : found;
}
