/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The drop-in port calls libnl's rtnl_qdisc_add() through these functions. Python programs have threads and signals, so
 * they send one request at a time and give each request its own answer.
 *
 * The mutex is in C because a Python lock reads the clock. Where that is a system call, it costs half a toggle.
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
static uint32_t awaited;	/* the sequence number of the request in progress */
static char *said;		/* the buffer for what is to be said about it */
const char libnlplug_lost[] = "the kernel's answer was lost";

/*
 * Set the action of a plug with ``set``, which may be NULL, and send it with ``add``, under the lock. Return the result
 * of ``add``. If the kernel refuses and gives a reason, copy it to ``sentence``, which may be NULL; if the kernel's answer
 * was lost, copy libnlplug_lost. Return -1 if the qdisc has no device, because libnl would abort the process.
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
	if (said)
		*said = '\0';
	if (set)
		set(qdisc);
	error = add(sk, qdisc, flags);
	pthread_mutex_unlock(&turn);
	return error;
}

/* rtnl_qdisc_add() without TCA_OPTIONS. libnl puts it last, and with a limit of 0 if none was set. */
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
 * Receive the answer to the request in progress. Drop unread answers to earlier requests, so that they do not fill the
 * socket, even if the answer to this request was lost.
 */
static int receive(struct nl_sock *sk, struct sockaddr_nl *from, unsigned char **answer, struct ucred **credentials)
{
	const int has_sentence = NLM_F_CAPPED | NLM_F_ACK_TLVS;
	struct nlattr *sentence = NULL;
	struct nlmsghdr *header;
	int size, error = 0;

	for (;;) {
		size = nl_recv(sk, from, answer, credentials);
		if (size <= 0 && error) {
			if (said)
				memcpy(said, libnlplug_lost, sizeof libnlplug_lost);
			return error;
		}
		if (size <= 0) {	/* 0: the descriptor is another socket's now */
			error = size ? size : -nl_syserr2nlerr(EBADF);
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
 * Let receive() match answers to requests on this socket. libnl's own check would refuse every later answer after one
 * lost answer. Ask the kernel for its sentences, which Linux 4.12 and newer send.
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

/* Reset the lock in a forked child: a thread that exists only in the parent may have held it. */
void libnlplug_new_turn(void)
{
	pthread_mutex_init(&turn, NULL);
}

/* The index of a device in the socket's network namespace, or -errno. ioctl() needs no netlink answer. */
int libnlplug_ifindex(struct nl_sock *sk, const char *device)
{
	struct ifreq request = { 0 };

	if (!*device || strlen(device) >= IFNAMSIZ || strchr(device, ':'))	/* ioctl() would cut the name at a colon */
		return -ENODEV;
	memcpy(request.ifr_name, device, strlen(device));
	return ioctl(nl_socket_get_fd(sk), SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}
