/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug-guard: a dead man's switch. It holds plugs for a process that asks it to, and releases them when that
 * process asks for it, dies, executes another program, or holds for longer than it said.
 *
 *	holder ---questions---> [0] guard ---buffer, release, drop---> kernel ---changes of links and qdiscs---> guard
 *	       ---pidfd-------> [1]       ---marks: "this plug is held", one abstract unix socket a plug---> everybody
 *
 * The guard acts alone: nobody else sends what begins or ends a hold. Each state is a variable of this process, changed
 * in one loop, watch(). So no message can cross another, and every hold is watched from its first moment.
 *
 *	state	what happens			what the guard does			state after
 *	IDLE	HOLD				takes the marks, sends buffer		HELD
 *		  a mark is taken		says which one				IDLE
 *		  a buffer failed		says so, sends release			ENDING
 *		RELEASE				says how that hold ended, or NOT_ON	IDLE
 *		END, holder gone		ends					-
 *	HELD	HOLD				refuses: EBUSY				HELD
 *		RELEASE of this hold		sends release				ENDING
 *		RELEASE of another		says NOT_ON				HELD
 *		the time is up			sends release, or drop if so asked	ENDING
 *		holder gone			sends release, or drop if so asked	ENDING, leaving
 *		END; SIGTERM, visitor's END	sends release				ENDING, leaving
 *		namespace abandoned		sends release				ENDING, leaving
 *	ENDING	done, or refused for good	gives the marks back, answers RELEASE	IDLE
 *		failed for a passing reason	sends it again 10 ms later		ENDING
 *		HOLD				refuses: EBUSY				ENDING
 *		RELEASE of this hold		answers when it is done, or after 1 s	ENDING
 *		END, holder gone		goes on					ENDING, leaving
 *
 * A guard that is leaving ends as soon as it is IDLE. The holder is gone when its socket is closed, its pidfd is
 * readable, it is dying, or it runs another program. A detached hold goes on without its holder; only such a hold is
 * ended by SIGTERM and by a visitor's END, or when namespace.c finds that nobody else uses the network namespace. This
 * program has neither Python nor libnl: it shares nothing with the holder that could fail in both. It allocates all it
 * needs, but the marks, before it says that it is ready.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/gen_stats.h>
#include <linux/if.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include "../netlink/attributes.h"
#include "namespace.h"
#include "protocol.h"

enum {
	COMMANDS, HOLDER,	/* descriptors 0 and 1: the holder's socket, its pidfd. They are polled, and then */
	CHANGES, VISITOR, MARKS,	/* the netlink socket, the last one who came to a mark, and the marks */
	PORTION = 32,		/* plugs in one send */
	ROOM = 512 * 1024,	/* bytes of the netlink socket's queue; the kernel allows twice as many */
	TRIES = 100,		/* before the holder is told that its release fails for a passing reason */
	PAUSE = 10000000,	/* nanoseconds between two tries, and between two looks at the holder */
	TICK = 1000000000,	/* nanoseconds between two looks at the namespace, and for a signal that was missed */
	EXITING = 0x4, SIGNALED = 0x400,	/* PF_EXITING and PF_SIGNALED of the kernel's include/linux/sched.h */
	PIDFD_OPEN = 434, CLOSE_RANGE = 436,	/* system calls that a C library may be too old to know */
	COUNTING = 1 << 30,	/* in the number of a message that asks for counters */
	NOTHING = -1,		/* the number of no message */
};

struct plug {
	struct guard_place place;
	int counted;			/* whether the last message's question was answered with counters */
	struct gnet_stats_queue counters;
	uint32_t drops_before;		/* at buffer; UINT32_MAX if unknown */
	uint32_t queue_length;		/* the device's txqueuelen */
};

static struct guard_config *config;
static struct plug *plugs;
static int32_t *errors;				/* of the last message, for each plug */
static struct pollfd *polled;
static unsigned int count, marks;
static int sk, holder_stat;
static struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK | 1 << (RTNLGRP_TC - 1) };
static unsigned long long holder_stack;		/* where its program has its stack; 0 where that is hidden */

static enum { IDLE, HELD, ENDING } state;
static struct guard_question hold;		/* the one that is on */
static int64_t begun;				/* CLOCK_MONOTONIC, nanoseconds */
static int tries, asked, leaving;		/* ENDING: how often it failed; whether the holder waits. See above */
static struct guard_answer last;		/* how the hold that is on, or was on last, ends */
static int links_known;				/* whether each txqueuelen is */
static volatile sig_atomic_t told_to_end;

static int64_t now_on(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int64_t time_left(void)
{
	return hold.timeout ? hold.timeout - (now_on(CLOCK_MONOTONIC) - begun) : INT64_MAX;
}

static int passing(int error)
{
	return error == ENOMEM || error == ENOBUFS || error == EAGAIN || error == EBUSY;
}

/*
 * Note if a plug may have lost packets by this change. The kernel empties the queues of a link that goes down or whose
 * txqueuelen changes, and a plug when that, what it stands in, or the root is deleted, or clsact comes or goes.
 */
static void read_change(const struct nlmsghdr *header)
{
	const struct ifinfomsg *link = NLMSG_DATA(header);
	const struct tcmsg *qdisc = NLMSG_DATA(header);		/* its index stands where a link's does */
	const char *at = (char *)header + NLMSG_SPACE(sizeof *link), *end = (char *)header + header->nlmsg_len;
	int is_link = header->nlmsg_type == RTM_NEWLINK || header->nlmsg_type == RTM_DELLINK, why;
	int deleted = header->nlmsg_type == RTM_DELLINK || header->nlmsg_type == RTM_DELQDISC;

	if (header->nlmsg_len < NLMSG_LENGTH(sizeof *qdisc) || (is_link && link->ifi_family != AF_UNSPEC) ||
	    (!is_link && !deleted && header->nlmsg_type != RTM_NEWQDISC))
		return;
	for (struct plug *plug = plugs; plug < plugs + count; plug++) {
		uint32_t before = plug->queue_length, parent = plug->place.parent;

		if (plug->place.ifindex != qdisc->tcm_ifindex)
			continue;
		if (is_link) {
			attribute_copy(attribute_find(at, end, IFLA_TXQLEN), &plug->queue_length, sizeof before);
			why = deleted || !(link->ifi_flags & IFF_UP) ? GUARD_LINK_DOWN :
			      !(link->ifi_flags & IFF_LOWER_UP) ? GUARD_NO_CARRIER :
			      plug->queue_length != before ? GUARD_QUEUE_LENGTH : 0;
		} else {
			why = qdisc->tcm_parent == TC_H_INGRESS ? GUARD_CLSACT :
			      deleted && (qdisc->tcm_parent == TC_H_ROOT || qdisc->tcm_parent == parent ||
					  qdisc->tcm_handle == TC_H_MAJ(parent)) ? GUARD_REPLACED : 0;
		}
		if (why && !last.lost) {
			last.lost = why;
			last.plug = plug - plugs;
		}
	}
}

/* Read an answer of the kernel about a plug: an error, 0 for done, or counters. */
static void read_answer(const struct nlmsghdr *header, unsigned int number)
{
	const char *at = (char *)header + NLMSG_SPACE(sizeof(struct tcmsg)), *end = (char *)header + header->nlmsg_len;
	struct plug *plug = plugs + (number & ~COUNTING);
	const struct nlattr *found;

	if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_len >= NLMSG_LENGTH(sizeof(int)) && number < count) {
		errors[number] = -*(int *)NLMSG_DATA(header);
	} else if (header->nlmsg_type == RTM_NEWQDISC && number & COUNTING) {	/* not of what was sent */
		found = attribute_inside(attribute_find(at, end, TCA_STATS2), TCA_STATS_QUEUE);
		attribute_copy(found, &plug->counters, sizeof plug->counters);
		plug->counted = found && attribute_size(found) >= sizeof plug->counters;
	}
}

/*
 * Read what waits in the netlink socket: changes, and answers to what was sent, up to the one to message ``final``. The
 * kernel has queued that before send() returns. Returns ENOBUFS if it is missing.
 */
static int take(uint32_t final)
{
	static union { struct nlmsghdr header; char bytes[32768]; } datagram;
	int length;

	for (;;) {
		const struct nlmsghdr *header = &datagram.header;

		length = recv(sk, &datagram, sizeof datagram, MSG_DONTWAIT);
		if (length < 0 && errno == EAGAIN)
			return ENOBUFS;
		if (length < 0 && errno != EINTR) {	/* the queue was full; what is in it can still be read */
			links_known = 0;
			last.lost = last.lost ? last.lost : GUARD_UNSEEN;
		}
		for (; length > 0 && NLMSG_OK(header, (unsigned int)length); header = NLMSG_NEXT(header, length)) {
			if (header->nlmsg_pid != address.nl_pid || header->nlmsg_type == RTM_NEWLINK)
				read_change(header);
			else if ((header->nlmsg_seq & ~COUNTING) < count)
				read_answer(header, header->nlmsg_seq);
			if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_seq == final)
				return 0;
		}
	}
}

/* Write the message for a plug; returns its length. */
static size_t write_message(char *to, enum guard_message what, uint32_t number)
{
	const struct nlmsghdr *message = (struct nlmsghdr *)config->messages[what];
	const struct guard_place *place = &plugs[number & ~COUNTING].place;
	struct nlmsghdr *header = memcpy(to, message, message->nlmsg_len);
	struct tcmsg *written = NLMSG_DATA(header);

	header->nlmsg_seq = number;
	written->tcm_ifindex = place->ifindex;
	if (what != GUARD_ASK_LINK) {
		written->tcm_handle = place->handle;
		written->tcm_parent = place->parent;
	}
	return NLMSG_ALIGN(message->nlmsg_len);
}

/*
 * Send this message for every plug, after a question about its counters if ``counting``. Each plug's error is kept.
 * Returns one of them, a passing one if there is one, or 0. To send a message twice does no harm.
 */
static int act(enum guard_message what, int counting)
{
	static char request[PORTION * 128] __attribute__((aligned(NLMSG_ALIGNTO)));
	int result = 0, error;

	for (unsigned int at = 0, end; at < count; at = end) {
		size_t length = 0, final = 0;

		for (end = at; end < count && end < at + PORTION; end++) {
			errors[end] = plugs[end].counted = 0;
			if (counting)
				length += write_message(request + length, GUARD_ASK_COUNTERS, end | COUNTING);
			final = length;
			length += write_message(request + length, what, end);
		}
		((struct nlmsghdr *)(request + final))->nlmsg_flags |= NLM_F_ACK;
		error = send(sk, request, length, MSG_NOSIGNAL) < 0 ? errno : take(end - 1);
		for (; at < end; at++) {
			errors[at] = errors[at] ? errors[at] : error;
			result = errors[at] && (!result || passing(errors[at])) ? errors[at] : result;
		}
	}
	return result;
}

static void remove_marks(void)
{
	while (marks)
		close(polled[MARKS + --marks].fd);
}

/* The marks say "held" to everyone in the namespace. 0, or an errno and in *plug whose mark could not be made. */
static int make_marks(uint32_t *plug)
{
	while (marks < count) {
		struct sockaddr_un name = { .sun_family = AF_UNIX };
		const struct guard_place *place = &plugs[marks].place;
		int size = sprintf(name.sun_path + 1, "libnlplug-hold/%d/%x", place->ifindex, place->parent), error;
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name.sun_family + 1 + size) ||
		    listen(fd, 128)) {
			error = errno;
			*plug = marks;
			close(fd);
			remove_marks();
			return error;
		}
		polled[MARKS + marks++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	return 0;
}

/* Answer, with the errors of all plugs if they are what the answer is about. */
static void answer(const struct guard_answer *answer)
{
	const struct iovec parts[] = { { (void *)answer, sizeof *answer }, { errors, count * sizeof *errors } };
	struct msghdr message = { .msg_iov = (struct iovec *)parts, .msg_iovlen = answer->step == GUARD_PLUG ? 2 : 1 };

	sendmsg(COMMANDS, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ENDING: send what ends the hold. The marks go last: until then nobody else can have begun a hold that this ends. */
static void try_to_end(void)
{
	int drop = last.outcome == GUARD_EXPIRED && hold.drop, counting = last.outcome == GUARD_RELEASED;

	last.error = act(drop ? GUARD_SEND_DROP : GUARD_SEND_RELEASE, counting && !tries);
	last.step = last.error ? GUARD_PLUG : 0;
	if (passing(last.error) && ++tries < TRIES)
		return;
	if (!passing(last.error)) {
		last.held = now_on(CLOCK_MONOTONIC) - begun;
		last.known = counting;
		for (struct plug *plug = plugs; plug < plugs + count; plug++) {
			last.known &= plug->counted && plug->counters.drops >= plug->drops_before;
			last.packets += plug->counters.qlen;
			last.bytes += plug->counters.backlog;
			last.dropped += plug->counters.drops - plug->drops_before;
		}
		if (counting && time_left() <= 0)
			last.outcome = GUARD_EXPIRED;	/* this guard did not run in time */
		remove_marks();
		state = IDLE;
	}
	if (asked)
		answer(&last);
	asked = 0;
}

static void end_hold(enum guard_outcome outcome)
{
	state = ENDING;
	tries = 0;
	last.outcome = outcome;
	try_to_end();
}

static void leave(enum guard_outcome outcome)
{
	leaving = 1;
	if (state == HELD)
		end_hold(outcome);
}

static void begin_hold(const struct guard_question *question)
{
	struct guard_answer said = { .id = question->id, .step = GUARD_CONFIG };

	if (state != IDLE) {
		said.error = EBUSY;
	} else if (!question->id || question->timeout < 0 || (question->detached && !question->timeout)) {
		said.error = EINVAL;	/* nobody would end a detached hold without a timeout */
	} else {
		said.error = make_marks(&said.plug);
		said.step = GUARD_MARK;
	}
	if (said.error) {
		answer(&said);
		return;
	}
	hold = *question;
	told_to_end = 0;
	take(NOTHING);		/* what has changed before */
	if (!links_known)
		act(GUARD_ASK_LINK, 0);
	links_known = 1;
	last = (struct guard_answer){ .id = hold.id };
	begun = now_on(CLOCK_MONOTONIC);
	state = HELD;
	said.error = act(GUARD_SEND_BUFFER, 1);
	said.step = said.error ? GUARD_PLUG : 0;
	for (struct plug *plug = plugs; plug < plugs + count; plug++)
		plug->drops_before = plug->counted ? plug->counters.drops : UINT32_MAX;
	answer(&said);
	if (said.error)
		end_hold(GUARD_NOT_ON);
}

static void obey(void)
{
	struct guard_question question = { 0 };
	ssize_t length = recv(COMMANDS, &question, sizeof question, MSG_DONTWAIT | MSG_TRUNC);
	struct guard_answer not_on = { .id = question.id };

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length <= 0 && state != IDLE && hold.detached)
		leaving = 1;	/* once the hold is over */
	else if (length != sizeof question || question.what < GUARD_HOLD || question.what > GUARD_END)
		leave(GUARD_EXPIRED);
	else if (question.what == GUARD_HOLD)
		begin_hold(&question);
	else if (question.what == GUARD_END)
		leave(GUARD_RELEASED);
	else if (state == IDLE || question.id != hold.id)
		answer(state == IDLE && question.id == last.id ? &last : &not_on);
	else {
		asked = 1;
		if (state == HELD)
			end_hold(time_left() <= 0 ? GUARD_EXPIRED : GUARD_RELEASED);
	}
}

/* The last visitor has asked for something, or has gone. With the right to it, he may end a detached hold. */
static void obey_visitor(void)
{
	struct guard_question question = { 0 };
	struct ucred peer = { .uid = -1 };
	socklen_t size = sizeof peer;
	int fd = polled[VISITOR].fd;

	polled[VISITOR].fd = -1;
	if (recv(fd, &question, sizeof question, MSG_DONTWAIT) == sizeof question && question.what == GUARD_END &&
	    hold.detached && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) &&
	    (!peer.uid || peer.uid == geteuid()))
		leave(GUARD_RELEASED);
	close(fd);
}

/* Tell who connects to a mark who holds. Only the last one is listened to; who is not heard comes again. */
static void tell_visitor(int mark)
{
	struct guard_info info = { config->holder, hold.detached, getpid(), 0, hold.timeout, 0, hold.limit };
	int fd = accept4(mark, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		usleep(PAUSE / 1000);	/* no descriptor is left, say, and the visitor stays: this must not spin */
		return;
	}
	info.since = now_on(CLOCK_REALTIME) - (now_on(CLOCK_MONOTONIC) - begun);
	send(fd, &info, sizeof info, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (polled[VISITOR].fd >= 0)
		close(polled[VISITOR].fd);
	polled[VISITOR].fd = fd;
}

/*
 * Whether the holder is dying, or runs another program. Its pidfd tells the first only after its memory is freed and
 * its core is written, 0.1 s or more for each GB. It never tells the second, and a child may keep the socket open.
 * EXITING means its first thread alone, unless there is no other one.
 */
static int holder_left(void)
{
	/* the 9th word of its stat are the flags, the 20th the number of threads, the 28th where the stack begins */
	static const char words[] = ") %*c %*s %*s %*s %*s %*s %u %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d"
				    " %*s %*s %*s %*s %*s %*s %*s %llu";
	unsigned long long stack = 0;
	char line[1024] = "";
	unsigned int flags;
	int left;

	if (pread(holder_stat, line, sizeof line - 1, 0) <= 0 || !strrchr(line, ')') ||
	    sscanf(strrchr(line, ')'), words, &flags, &left, &stack) < 3)
		return 0;
	holder_stack = holder_stack ? holder_stack : stack;
	return flags & SIGNALED || (flags & EXITING && left == 1) || (stack && stack != holder_stack);
}

static void watch(void)
{
	while (!leaving || state != IDLE) {
		int looks = state == HELD && !hold.detached;
		int64_t left = state == HELD ? time_left() : INT64_MAX, most = looks || state == ENDING ? PAUSE : TICK;
		struct timespec wait;
		int ready;

		left = left < 0 ? 0 : state != IDLE && left > most ? most : left;
		wait = (struct timespec){ left / 1000000000, left % 1000000000 };
		polled[COMMANDS].fd = leaving ? -1 : COMMANDS;
		polled[HOLDER].fd = leaving || (state != IDLE && hold.detached) ? -1 : HOLDER;
		polled[CHANGES].fd = state == HELD ? sk : -1;
		ready = ppoll(polled, MARKS + marks, &wait, NULL);
		if (ready < 0)
			for (unsigned int i = 0; i < MARKS + marks; i++)
				polled[i].revents = 0;
		/* What the holder asked for counts, even if it has died since. */
		if (polled[COMMANDS].revents)
			obey();
		else if (told_to_end && hold.detached && state == HELD)
			leave(GUARD_RELEASED);
		else if (polled[HOLDER].revents || (looks && holder_left()))
			leave(GUARD_EXPIRED);
		else if (state == ENDING)
			try_to_end();
		else if (!ready && leaving && namespace_is_abandoned())
			leave(GUARD_RELEASED);
		if (state == HELD && time_left() <= 0)
			end_hold(GUARD_EXPIRED);
		if (polled[CHANGES].revents)
			take(NOTHING);
		if (polled[VISITOR].revents)
			obey_visitor();
		for (unsigned int i = 0; i < marks; i++)
			if (polled[MARKS + i].revents)
				tell_visitor(polled[MARKS + i].fd);
	}
}

static void note_end(int signum)
{
	(void)signum;
	told_to_end = 1;
}

/* What the holder was given, or has set for itself, is not for its guard. What needs a right it may lack is tried. */
static void reset(void)
{
	const int first = sched_get_priority_max(SCHED_FIFO), usual = 0;	/* struct sched_param has one member */
	sigset_t none;
	cpu_set_t every;
	int fd;

	if (syscall(CLOSE_RANGE, 1, ~0U, 0)) {	/* it came with Linux 5.9 */
		DIR *all = opendir("/proc/self/fd");
		struct dirent *one;

		while (all && (one = readdir(all)))
			if (atoi(one->d_name) > 0 && atoi(one->d_name) != dirfd(all))
				close(atoi(one->d_name));
		for (fd = 1; !all && fd < 4096; fd++)
			close(fd);
		if (all)
			closedir(all);
	}
	/* A service manager sends what ends a service to all its processes: SIGTERM, or what its unit says. */
	for (int signum = 1; signum < NSIG; signum++)
		signal(signum, SIG_IGN);
	signal(SIGTERM, note_end);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(077);
	for (int which = 0; which < (int)RLIM_NLIMITS; which++) {
		struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

		if (setrlimit(which, &limit) && !getrlimit(which, &limit)) {
			limit.rlim_cur = limit.rlim_max;	/* a group may need thousands of marks */
			setrlimit(which, &limit);
		}
	}
	/* A holder that spins on its processor, and with whatever priority, must not keep its guard from running. */
	memset(&every, 0xff, sizeof every);
	sched_setaffinity(0, sizeof every, &every);
	if (sched_getscheduler(0) && syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &first))
		syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &usual);
	setpriority(PRIO_PROCESS, 0, -20);
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	dprintf(fd, "-1000");
	close(fd);
	mlockall(MCL_CURRENT | MCL_FUTURE);
}

/* Open the holder's state in /proc. Its pidfd tells its number there, whichever pid namespace /proc shows. */
static void open_stat(void)
{
	FILE *lines = fopen("/proc/self/fdinfo/1", "re");
	char line[64], path[32];
	int pid = 0;

	while (lines && fgets(line, sizeof line, lines) && !sscanf(line, "Pid: %d", &pid))
		;
	if (lines)
		fclose(lines);
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	holder_stat = open(path, O_RDONLY | O_CLOEXEC);
	holder_left();
}

/* Take the configuration: 0, or an errno. */
static int read_config(size_t length)
{
	const struct guard_place *places = (struct guard_place *)(config + 1);

	if (length < sizeof *config || config->version != GUARD_VERSION || !config->count ||
	    length != sizeof *config + (size_t)config->count * sizeof *places)
		return EPROTO;
	for (int i = 0; i <= GUARD_ASK_LINK; i++) {
		uint32_t length = ((struct nlmsghdr *)config->messages[i])->nlmsg_len;

		if (length < NLMSG_LENGTH(sizeof(struct ifinfomsg)) || length > sizeof config->messages[i])
			return EPROTO;
	}
	plugs = calloc(config->count, sizeof *plugs);
	polled = calloc(MARKS + config->count, sizeof *polled);
	errors = calloc(config->count, sizeof *errors);
	if (!plugs || !polled || !errors)
		return ENOMEM;
	count = config->count;
	for (unsigned int i = 0; i < count; i++)
		plugs[i].place = places[i];
	for (int i = 0; i < MARKS; i++)
		polled[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
	return 0;
}

/* Open the netlink socket, which hears of links and qdiscs: 0, or an errno. */
static int open_socket(void)
{
	struct sockaddr *name = (struct sockaddr *)&address;
	socklen_t size = sizeof address;
	const int room = ROOM;

	sk = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (sk < 0 || bind(sk, name, size) || getsockname(sk, name, &size))
		return errno;
	if (setsockopt(sk, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
		setsockopt(sk, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
	return 0;
}

/* Everything that can fail comes before the answer that says it did not. */
static int serve(void)
{
	struct guard_answer said = { .step = GUARD_CONFIG };
	ssize_t length = recv(COMMANDS, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);

	config = length > 0 ? calloc(1, length) : NULL;
	if (!config || recv(COMMANDS, config, length, 0) != length)
		return 1;
	said.error = read_config(length);
	if (!said.error) {
		said.step = GUARD_PIDFD;
		said.error = syscall(PIDFD_OPEN, config->holder, 0) == HOLDER ? 0 : errno;
	}
	if (!said.error) {
		open_stat();
		said.step = GUARD_SOCKET;
		said.error = open_socket();
	}
	send(COMMANDS, &said, sizeof said, MSG_NOSIGNAL);
	if (!said.error)
		watch();
	return said.error != 0;
}

int main(void)
{
	reset();
	return chdir("/") || serve();
}
