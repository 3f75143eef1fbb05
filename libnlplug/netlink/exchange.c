/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug_exchange(): send a request over a netlink socket and take everything that comes back for it.
 *
 *	request:  message 1 | message 2 | ... | message n	one sendmsg
 *	answer:   object or error, ... , the last one's ACK	a recvmsg each; a request that succeeds has the ACK only
 *
 * In one call and under a lock of its own, so that threads do not take each other's answers and no signal handler of
 * Python's runs between question and answer. That is also what makes a toggle cheap: one call into C, nothing to
 * allocate, and no lock of Python's, which reads the clock.
 *
 * The kernel carries out a route request inside sendmsg and has queued the answer when that returns, so nothing here
 * waits: an answer that is not there will not come.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <linux/gen_stats.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "attributes.h"
#include "exchange.h"

enum {
	DATAGRAM = 32768,	/* bytes; a dump fills what it is given, up to this, and one object needs far less */
	STATS_PACKETS64 = 8,	/* TCA_STATS_PKT64, which headers older than Linux 5.5 lack */
};

struct libnlplug_line {
	pthread_mutex_t lock;
	int fd;
	union {
		struct nlmsghdr header;
		char bytes[DATAGRAM];
	} datagrams[2];		/* not on the stack: a thread's may be smaller */
};

static struct libnlplug_answer no_memory = { .error = ENOMEM };

/* A line over a socket that stays the caller's; NULL without memory. */
struct libnlplug_line *libnlplug_line_new(int fd)
{
	struct libnlplug_line *line = malloc(sizeof *line);

	if (line) {
		pthread_mutex_init(&line->lock, NULL);
		line->fd = fd;
	}
	return line;
}

/* After this the socket is not used any more: exchanges fail with EBADF. Waits for the one that is under way. */
void libnlplug_line_close(struct libnlplug_line *line)
{
	pthread_mutex_lock(&line->lock);
	line->fd = -1;
	pthread_mutex_unlock(&line->lock);
}

void libnlplug_line_free(struct libnlplug_line *line)
{
	free(line);
}

void libnlplug_answer_free(struct libnlplug_answer *answer)
{
	if (answer != &no_memory)
		free(answer);
}

/* What was said, and one datagram more; for NULL a new answer. */
static struct libnlplug_answer *append(struct libnlplug_answer *answer, const char *datagram, size_t length)
{
	size_t before = answer ? answer->length : 0;
	struct libnlplug_answer *longer;

	if (answer == &no_memory)
		return answer;
	longer = realloc(answer, sizeof *longer + before + NLMSG_ALIGN(length));
	if (!longer) {
		free(answer);
		return &no_memory;
	}
	if (!answer)
		longer->error = 0;
	memcpy(longer->messages + before, datagram, length);
	longer->length = before + NLMSG_ALIGN(length);
	return longer;
}

static int send_request(int fd, const char *messages, size_t length)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct iovec part = { .iov_base = (char *)messages, .iov_len = length };
	struct msghdr request = { .msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &part, .msg_iovlen = 1 };

	return sendmsg(fd, &request, MSG_NOSIGNAL) < 0 ? errno : 0;
}

/* Whether the datagram ends the answer to the request whose last message has this number. */
static int ends(const struct nlmsghdr *header, ssize_t length, uint32_t last)
{
	for (; NLMSG_OK(header, length); header = NLMSG_NEXT(header, length))
		if ((header->nlmsg_type == NLMSG_ERROR || header->nlmsg_type == NLMSG_DONE) && header->nlmsg_seq == last)
			return 1;
	return 0;
}

static int says_done(const struct nlmsghdr *header)
{
	return header->nlmsg_type == NLMSG_ERROR && ((const struct nlmsgerr *)NLMSG_DATA(header))->error == 0;
}

/* Take up to ``count`` datagrams with one call; how many came, or -1. */
static int receive(int fd, struct mmsghdr *datagrams, unsigned int count)
{
	ssize_t size;

	if (count > 1)
		return recvmmsg(fd, datagrams, count, MSG_DONTWAIT, NULL);
	size = recvmsg(fd, &datagrams->msg_hdr, MSG_DONTWAIT);
	datagrams->msg_len = size;
	return size < 0 ? -1 : 1;
}

/*
 * Send the messages, of which the last has the number ``last`` and asks for an ACK, and collect what the kernel says.
 * NULL: all is done, and there is nothing to tell. Else the errors and objects, to be freed, with an ``error``: negative
 * if the request could not be sent, positive if something that should have come did not (then nothing is queued any
 * more).
 */
struct libnlplug_answer *libnlplug_exchange(struct libnlplug_line *line, const char *messages, size_t length,
					    uint32_t last)
{
	int one_message = length <= NLMSG_ALIGN(((const struct nlmsghdr *)messages)->nlmsg_len);
	struct libnlplug_answer *answer = NULL;
	int over = 0, lost = 0, error = 0, unsent;

	pthread_mutex_lock(&line->lock);
	unsent = line->fd < 0 ? EBADF : send_request(line->fd, messages, length);
	while (!unsent && !error && !over) {
		struct iovec parts[] = { { line->datagrams + 0, DATAGRAM }, { line->datagrams + 1, DATAGRAM } };
		struct mmsghdr received[] = { { .msg_hdr = { .msg_iov = parts + 0, .msg_iovlen = 1 } },
					      { .msg_hdr = { .msg_iov = parts + 1, .msg_iovlen = 1 } } };
		int count = receive(line->fd, received, one_message ? 1 : 2);

		if (count < 0 && errno == ENOBUFS)
			lost = ENOBUFS;		/* the queue was full; what is in it can still be read */
		else if (count < 0 && errno != EINTR)
			error = lost ? lost : errno;
		for (int i = 0; i < count; i++) {
			size_t size = received[i].msg_len;

			if (size < sizeof line->datagrams[i].header)
				continue;
			over |= ends(&line->datagrams[i].header, size, last);
			if (received[i].msg_hdr.msg_flags & MSG_TRUNC)
				lost = EMSGSIZE;
			if (!says_done(&line->datagrams[i].header))
				answer = append(answer, line->datagrams[i].bytes, size);
		}
	}
	if (error)
		while (recv(line->fd, &over, 1, MSG_DONTWAIT) >= 0)
			;	/* nothing stays that the next request could take for its own */
	pthread_mutex_unlock(&line->lock);

	error = unsent ? -unsent : error ? error : lost;
	if (error) {
		answer = answer ? answer : append(NULL, "", 0);
		if (answer != &no_memory)
			answer->error = error;
	}
	return answer;
}

/*
 * What a message of the kernel shows of a qdisc; 0 where it shows none. (libnl reads the options of each kind too, which
 * nobody here asks for, and crashes on a message that is not as it should be; so it does with links.)
 */
int libnlplug_read_qdisc(const char *message, size_t length, struct libnlplug_qdisc *qdisc)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)message;
	const struct tcmsg *place = NLMSG_DATA(header);
	const char *at = message + NLMSG_SPACE(sizeof *place), *end = message + length;
	const struct nlattr *kind = length < NLMSG_SPACE(sizeof *place) ? NULL : attribute_find(at, end, TCA_KIND);
	struct gnet_stats_basic basic = { 0 };
	struct gnet_stats_queue queue = { 0 };
	const struct nlattr *stats;
	uint64_t packets;

	if (!kind || header->nlmsg_type != RTM_NEWQDISC)
		return 0;
	stats = attribute_find(at, end, TCA_STATS2);
	attribute_copy(attribute_inside(stats, TCA_STATS_BASIC), &basic, sizeof basic);
	attribute_copy(attribute_inside(stats, TCA_STATS_QUEUE), &queue, sizeof queue);
	packets = basic.packets;	/* 32 bits; the kernel shows 64 where they are not enough */
	attribute_copy(attribute_inside(stats, STATS_PACKETS64), &packets, sizeof packets);
	*qdisc = (struct libnlplug_qdisc){
		.ifindex = place->tcm_ifindex,
		.handle = place->tcm_handle,
		.parent = place->tcm_parent,
		.qlen = queue.qlen,
		.backlog = queue.backlog,
		.drops = queue.drops,
		.packets = packets,
		.bytes = basic.bytes,
	};
	attribute_copy(kind, qdisc->kind, sizeof qdisc->kind - 1);
	return 1;
}

/* What a message of the kernel shows of a link; 0 where it shows none. */
int libnlplug_read_link(const char *message, size_t length, struct libnlplug_link *link)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)message;
	const struct ifinfomsg *info = NLMSG_DATA(header);
	const char *at = message + NLMSG_SPACE(sizeof *info), *end = message + length;
	const struct nlattr *name = length < NLMSG_SPACE(sizeof *info) ? NULL : attribute_find(at, end, IFLA_IFNAME);

	if (!name || header->nlmsg_type != RTM_NEWLINK)
		return 0;
	*link = (struct libnlplug_link){ .ifindex = info->ifi_index, .mtu = 1500, .txqueuelen = 1000 };
	attribute_copy(name, link->name, sizeof link->name - 1);
	attribute_copy(attribute_find(at, end, IFLA_MTU), &link->mtu, sizeof link->mtu);
	attribute_copy(attribute_find(at, end, IFLA_TXQLEN), &link->txqueuelen, sizeof link->txqueuelen);
	return 1;
}
