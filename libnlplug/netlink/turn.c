// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the drop-in port needs around libnl's rtnl_qdisc_add(), because Python programs have threads and signals:
 * one request at a time, each with its own answer.
 *
 * The mutex is here because a lock of Python's reads the clock, which costs half a toggle where that is a system call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/if.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "libnl_functions.h"
#include "turn.h"

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static uint32_t awaited;	/* the number of the request in progress */
static char *said;		/* where the kernel's sentence about it goes */

/*
 * Set the action of a plug and send it with ``add``, while no other thread does; what ``add`` returns. ``set`` may be
 * NULL. If the kernel gives a reason for a refusal, it is put into ``sentence``, which may be NULL.
 * -1 without a device: libnl would abort the process.
 */
int libnlplug_in_turn(int (*set)(struct rtnl_qdisc *qdisc),
		      int (*add)(struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags),
		      struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags, char sentence[200])
{
	int error;

	if (!rtnl_tc_get_ifindex((struct rtnl_tc *)qdisc))
		return -1;
	pthread_mutex_lock(&turn);
	awaited = nl_socket_use_seq(sk) + 1;
	said = sentence;
	if (set)
		set(qdisc);
	error = add(sk, qdisc, flags);
	pthread_mutex_unlock(&turn);
	return error;
}

/* rtnl_qdisc_add() without TCA_OPTIONS, which libnl puts last, with a limit of 0 where none was set. */
int libnlplug_add_without_options(struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags)
{
	struct nl_msg *msg;
	struct nlattr *options;
	int error = rtnl_qdisc_build_add_request(qdisc, flags, &msg);

	if (error < 0)
		return error;
	options = nlmsg_find_attr(nlmsg_hdr(msg), sizeof(struct tcmsg), TCA_OPTIONS);
	if (options)
		nlmsg_hdr(msg)->nlmsg_len = (char *)options - (char *)nlmsg_hdr(msg);
	return nl_send_sync(sk, msg);
}

/*
 * Receive the answer to the request in progress. Older answers, which nobody has read, are dropped; so that they do not
 * fill the socket, also where this one is lost.
 */
static int receive(struct nl_sock *sk, struct sockaddr_nl *from, unsigned char **answer, struct ucred **credentials)
{
	const int has_sentence = NLM_F_CAPPED | NLM_F_ACK_TLVS;
	struct nlattr *sentence = NULL;
	struct nlmsghdr *header;
	int size, error = 0;

	for (;;) {
		size = nl_recv(sk, from, answer, credentials);
		if (size <= 0 && error)
			return error;
		if (size <= 0) {
			error = size;
			continue;
		}
		header = (struct nlmsghdr *)*answer;
		if (nlmsg_ok(header, size) && header->nlmsg_seq == awaited)
			break;
		free(*answer);
		*answer = NULL;
	}
	if (header->nlmsg_type == NLMSG_ERROR && (header->nlmsg_flags & has_sentence) == has_sentence)
		sentence = nlmsg_find_attr(header, sizeof(struct nlmsgerr), NLMSGERR_ATTR_MSG);
	if (sentence && said)
		nla_strlcpy(said, sentence, 200);
	return size;
}

/*
 * Match answers to requests on this socket by receive() instead of libnl's check, which refuses everything for ever
 * after one lost answer. Ask for the kernel's sentences, which Linux 4.12 and newer have.
 */
void libnlplug_match_answers(struct nl_sock *sk)
{
	struct nl_cb *callbacks = nl_socket_get_cb(sk);
	const int one = 1;

	nl_socket_disable_seq_check(sk);
	nl_cb_overwrite_recv(callbacks, receive);
	nl_cb_put(callbacks);
	setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one);
	setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
}

/* In a forked child: a thread that is only in the parent may have had its turn. */
void libnlplug_new_turn(void)
{
	pthread_mutex_init(&turn, NULL);
}

/* The index of a device in the socket's network namespace, or -errno. One link is looked up, and no answer to read. */
int libnlplug_ifindex(struct nl_sock *sk, const char *device)
{
	struct ifreq request = { 0 };

	if (!*device || strlen(device) >= IFNAMSIZ || strchr(device, ':'))	/* ioctl() would cut at a colon */
		return -ENODEV;
	memcpy(request.ifr_name, device, strlen(device));
	return ioctl(nl_socket_get_fd(sk), SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}
