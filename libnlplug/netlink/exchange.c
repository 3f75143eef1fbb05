/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug_exchange(): send a request over a netlink socket and receive its whole answer.
 *
 *	request:  message 1 | message 2 | ... | message n	one sendmsg
 *	answer:   objects and errors, ... , ACK of message n	a recvmsg each; only the ACK if all succeed
 *
 * It is one call, under a lock of its own. No other thread can take the answer, and no Python signal handler runs between
 * request and answer. A toggle is cheap for the same reason: it makes one call into C, allocates nothing, and takes no
 * Python lock, which would read the clock.
 *
 * The kernel carries out a route request inside sendmsg and queues the answer before sendmsg returns. So this code never
 * waits: an answer that is not queued by then was lost.
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
	DATAGRAM = 32768,	/* bytes; the kernel fills at most this many in a dump, and one object needs far less */
	STATS_PACKETS64 = 8,	/* TCA_STATS_PKT64; headers before Linux 5.5 lack it */
};

struct libnlplug_line {
	pthread_mutex_t lock;
	int fd;
	union {
		struct nlmsghdr header;
		char bytes[DATAGRAM];
	} datagrams[2];		/* not on the stack, because a thread's stack may be smaller */
};

static struct libnlplug_answer no_memory = { .error = ENOMEM };

/* A line that uses the caller's socket, or NULL without memory. The caller closes the socket. */
struct libnlplug_line *libnlplug_line_new(int fd)
{
	struct libnlplug_line *line = malloc(sizeof *line);

	if (line) {
		pthread_mutex_init(&line->lock, NULL);
		line->fd = fd;
	}
	return line;
}

/* Wait for the exchange in progress. Later exchanges fail with EBADF and do not use the socket. */
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

/*
 * Enlarge the receive buffer to ``wanted`` bytes, as far as the system allows, and return 1 and both sizes, or 0 if the
 * line is closed. The lock keeps two callers from making a buffer smaller again that the other one has enlarged.
 */
int libnlplug_line_enlarge(struct libnlplug_line *line, int wanted, struct libnlplug_sizes *sizes)
{
	int half = wanted / 2;		/* the kernel doubles it */
	socklen_t length = sizeof(int);
	int open;

	pthread_mutex_lock(&line->lock);
	open = line->fd >= 0;
	if (open) {
		getsockopt(line->fd, SOL_SOCKET, SO_SNDBUF, &sizes->send, &length);
		getsockopt(line->fd, SOL_SOCKET, SO_RCVBUF, &sizes->receive, &length);
		if (sizes->receive < wanted &&
		    setsockopt(line->fd, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof half) < 0)
			setsockopt(line->fd, SOL_SOCKET, SO_RCVBUF, &half, sizeof half);
		getsockopt(line->fd, SOL_SOCKET, SO_RCVBUF, &sizes->receive, &length);
	}
	pthread_mutex_unlock(&line->lock);
	return open;
}

void libnlplug_answer_free(struct libnlplug_answer *answer)
{
	if (answer != &no_memory)
		free(answer);
}

/* Append a datagram to an answer. If the answer is NULL, make a new one. */
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

/* 1 if the datagram ends the answer to the request whose last message has the sequence number ``last``. */
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

/* Receive up to ``count`` datagrams with one call. Return their number, or -1. */
static int receive(int fd, struct mmsghdr *datagrams, unsigned int count)
{
	int received;

	if (count > 1) {
		received = recvmmsg(fd, datagrams, count, MSG_DONTWAIT, NULL);
	} else {
		ssize_t size = recvmsg(fd, &datagrams->msg_hdr, MSG_DONTWAIT);

		datagrams->msg_len = size;
		received = size < 0 ? -1 : 1;
	}
	if (received > 0 && !datagrams->msg_len) {	/* the descriptor is another socket's now, which is at its end */
		errno = EBADF;
		return -1;
	}
	return received;
}

/*
 * Send the messages and receive the kernel's answer. The last message has the sequence number ``last`` and asks for an
 * ACK. Return NULL if every message succeeded and there are no objects. Otherwise return the errors and objects; the
 * caller frees them. ``error`` in them is negative if the request could not be sent, and positive if a part of the answer
 * was lost. In that case the socket's queue is empty afterwards.
 */
struct libnlplug_answer *libnlplug_exchange(struct libnlplug_line *line, const char *messages, size_t length,
					    uint32_t last)
{
	int one_message = length <= NLMSG_ALIGN(((const struct nlmsghdr *)messages)->nlmsg_len);
	struct libnlplug_answer *answer = NULL;
	int over = 0, lost = 0, error = 0, unsent;
	char rest;

	pthread_mutex_lock(&line->lock);
	unsent = line->fd < 0 ? EBADF : send_request(line->fd, messages, length);
	while (!unsent && !error && !over) {
		struct iovec parts[] = { { line->datagrams + 0, DATAGRAM }, { line->datagrams + 1, DATAGRAM } };
		struct mmsghdr received[] = { { .msg_hdr = { .msg_iov = parts + 0, .msg_iovlen = 1 } },
					      { .msg_hdr = { .msg_iov = parts + 1, .msg_iovlen = 1 } } };
		int count = receive(line->fd, received, one_message ? 1 : 2);

		if (count < 0 && errno == ENOBUFS)
			lost = ENOBUFS;		/* the queue was full; the answers in it can still be read */
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
		while (recv(line->fd, &rest, 1, MSG_DONTWAIT) > 0)
			;	/* empty the queue, so that the next request gets only its own answer */
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
 * Read a qdisc from a message of the kernel. Return 0 if the message is not about a qdisc. (libnl's parser would also
 * parse the options of each kind, and crashes on a malformed message. The same is true for links.)
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
	packets = basic.packets;	/* 32 bits; the kernel adds a 64-bit counter if they are not enough */
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

/* Read a link from a message of the kernel. Return 0 if the message is not about a link. */
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
