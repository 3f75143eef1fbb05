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
 *		  a buffer failed		says so, ends the hold			IDLE
 *		RELEASE				says how that hold ended, or NOT_ON	IDLE
 *		END, nonsense, holder gone	ends					-
 *	HELD	HOLD				refuses: EBUSY				HELD
 *		RELEASE of this hold		ends the hold, says how			IDLE
 *		  the time is up		the same, with drop if so asked		IDLE
 *		RELEASE of another		says NOT_ON				HELD
 *		the time is up			ends the hold, with drop if so asked	IDLE, or - if detached
 *		nonsense, holder gone		ends the hold, with drop if so asked	-
 *		END; SIGTERM, visitor's END	ends the hold				-
 *		namespace abandoned		ends the hold				-
 *	both	HOLD that makes no sense	refuses: EINVAL				the same
 *
 * To end a hold, the guard sends release or drop, repeats it every 10 ms if it failed for a passing reason, and then gives
 * the marks back. A holder that waits longer than 1 s is told the failure. The holder is gone when its socket is closed,
 * its pidfd is readable, it is dying, or it runs another program. A detached hold goes on without its holder until its time
 * is up, and its guard ends then; only such a hold is ended by SIGTERM and by a visitor's END, or when namespace.c finds
 * that nobody else uses the network namespace. This program has neither Python nor libnl: it shares nothing with the
 * holder that could fail in both. It allocates everything but the marks before it says that it is ready.
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
	COMMANDS, HOLDER, STAT, NETLINK,	/* descriptors: the holder's socket, its pidfd and /proc/PID/stat; netlink */
	MARKS,			/* of what is polled, the place after those */
	PORTION = 32,		/* plugs in one send */
	AT_ONCE = 3,		/* datagrams in one recvmmsg(): a plug's counters, the kernel's notice of the change, the answer */
	TRIES = 100,		/* before a holder that waits is told that its release fails for a passing reason */
	PAUSE = 10000000,	/* nanoseconds between two tries, and between two looks at the holder */
	SECOND = 1000000000,	/* nanoseconds; also between two looks at the namespace, and for a missed signal */
	EXITING = 0x4, SIGNALED = 0x400,	/* PF_EXITING and PF_SIGNALED of the kernel's include/linux/sched.h */
	CLOSE_RANGE = 436,	/* a system call that the C library may be too old to know */
	COUNTING = 1 << 30,	/* in the number of a message that asks for counters */
	NOTHING = -1,		/* the number of no message */
};

struct plug {
	struct guard_place place;
	int counted;			/* whether the last message's question was answered with counters */
	struct gnet_stats_queue counters;
	uint32_t drops_before;		/* at buffer; UINT32_MAX if unknown */
	uint32_t queue_length, carrier_downs;	/* the device's txqueuelen, and how often its carrier has gone */
};

static struct guard_config *config;
static struct plug *plugs;
static int32_t *errors;				/* of the last message, for each plug */
static struct pollfd *polled;
static unsigned int count, marks;
static unsigned long long holder_stack;		/* where its program has its stack; 0 where that is hidden */

static int held, leaving;			/* the state; whether this guard ends with the hold that is on */
static struct guard_question hold;		/* what began the hold that is on */
static int64_t now, begun;			/* CLOCK_MONOTONIC, nanoseconds; ``now`` is when it was last read */
static struct guard_answer last;		/* how the hold that is on, or was on last, ends */
static int links_known;				/* whether each queue_length and carrier_downs is */
static volatile sig_atomic_t told_to_end;

static int64_t read_clock(clockid_t clock)
{
	struct timespec read;

	clock_gettime(clock, &read);
	return read.tv_sec * (int64_t)SECOND + read.tv_nsec;
}

static int64_t time_left(void)
{
	return held && hold.timeout ? hold.timeout - (now - begun) : INT64_MAX;
}

static int passing(int error)
{
	return error == ENOMEM || error == ENOBUFS || error == EAGAIN || error == EBUSY;
}

/*
 * Note if a plug may have lost packets by this change. The kernel empties the queues of a link that goes down or whose
 * txqueuelen changes, and all qdiscs of a device if clsact is added or deleted. A driver may empty them while it changes
 * its queues, and has no carrier meanwhile. A plug that was made again has lost its packets, whatever was deleted above it.
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
		uint32_t length = plug->queue_length, downs = plug->carrier_downs;

		if (plug->place.ifindex != qdisc->tcm_ifindex)
			continue;
		if (is_link) {
			attribute_copy(attribute_find(at, end, IFLA_TXQLEN), &plug->queue_length, sizeof length);
			attribute_copy(attribute_find(at, end, IFLA_CARRIER_DOWN_COUNT), &plug->carrier_downs, sizeof downs);
			why = deleted || !(link->ifi_flags & IFF_UP) ? GUARD_LINK_DOWN :
			      !(link->ifi_flags & IFF_LOWER_UP) || plug->carrier_downs != downs ? GUARD_NO_CARRIER :
			      plug->queue_length != length ? GUARD_QUEUE_LENGTH : 0;
		} else {
			why = qdisc->tcm_parent == TC_H_INGRESS ? GUARD_CLSACT :
			      qdisc->tcm_parent == plug->place.parent &&
			      (deleted || header->nlmsg_flags & NLM_F_REPLACE) ? GUARD_REPLACED : 0;
		}
		if (why && !last.lost) {
			last.lost = why;
			last.plug = plug - plugs;
		}
	}
}

/* Read an answer of the kernel about a plug: an error, 0 for done, or counters. */
static void read_answer(const struct nlmsghdr *header, unsigned int seq)
{
	const char *at = (char *)header + NLMSG_SPACE(sizeof(struct tcmsg)), *end = (char *)header + header->nlmsg_len;
	struct plug *plug = plugs + (seq & ~COUNTING);
	const struct nlattr *found;

	if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_len >= NLMSG_LENGTH(sizeof(int)) && seq < count) {
		errors[seq] = -*(int *)NLMSG_DATA(header);
	} else if (header->nlmsg_type == RTM_NEWQDISC && seq & COUNTING) {	/* not of what was sent */
		found = attribute_inside(attribute_find(at, end, TCA_STATS2), TCA_STATS_QUEUE);
		attribute_copy(found, &plug->counters, sizeof plug->counters);
		plug->counted = found && attribute_size(found) >= sizeof plug->counters;
	}
}

/*
 * Read what waits in the netlink socket: changes, and answers to what was sent, up to the one to message ``final``. The
 * kernel has queued that before send() returns. Returns ENOBUFS if it is missing, or the errno if nothing can be read.
 */
static int take(uint32_t final)
{
	static union { struct nlmsghdr header; char bytes[32768]; } datagrams[AT_ONCE];
	struct iovec parts[AT_ONCE];
	struct mmsghdr messages[AT_ONCE] = { 0 };
	int received, found = 0, failed = 0;

	for (int i = 0; i < AT_ONCE; i++) {
		parts[i] = (struct iovec){ datagrams + i, sizeof *datagrams };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = parts + i, .msg_iovlen = 1 };
	}
	while (!found) {
		received = recvmmsg(NETLINK, messages, AT_ONCE, MSG_DONTWAIT, NULL);
		if (received < 0 && (errno == EAGAIN || failed++))
			return errno == EAGAIN ? ENOBUFS : errno;
		if (received < 0) {	/* the queue was full; what is in it can still be read */
			links_known = 0;
			last.lost = last.lost ? last.lost : GUARD_UNSEEN;
		}
		for (int i = 0; i < received; i++) {
			const struct nlmsghdr *header = &datagrams[i].header;
			int length = messages[i].msg_len;

			for (; NLMSG_OK(header, (unsigned int)length); header = NLMSG_NEXT(header, length)) {
				if (header->nlmsg_pid != config->port || header->nlmsg_type == RTM_NEWLINK)
					read_change(header);
				else if ((header->nlmsg_seq & ~COUNTING) < count)
					read_answer(header, header->nlmsg_seq);
				found |= header->nlmsg_type == NLMSG_ERROR && header->nlmsg_seq == final;
			}
		}
	}
	return 0;
}

/* Write the message for a plug; returns its length. */
static size_t write_message(char *to, enum guard_message what, uint32_t seq)
{
	const struct nlmsghdr *message = (struct nlmsghdr *)config->messages[what];
	const struct guard_place *place = &plugs[seq & ~COUNTING].place;
	struct nlmsghdr *header = memcpy(to, message, message->nlmsg_len);
	struct tcmsg *written = NLMSG_DATA(header);

	header->nlmsg_seq = seq;
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
		error = send(NETLINK, request, length, MSG_NOSIGNAL) < 0 ? errno : take(end - 1);
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

/* Make the marks, which say "held" to everyone in the namespace. Return 0, or an errno and in *plug whose mark failed. */
static int make_marks(uint32_t *plug)
{
	while (marks < count) {
		struct sockaddr_un name = { .sun_family = AF_UNIX };
		const struct guard_place *place = &plugs[marks].place;
		int size = sprintf(name.sun_path + 1, "libnlplug-hold/%d/%x", place->ifindex, place->parent), error;
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		polled[MARKS + marks++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name.sun_family + 1 + size) ||
		    listen(fd, 128)) {
			error = errno;
			*plug = marks - 1;
			remove_marks();
			return error;
		}
	}
	return 0;
}

/* Send the holder an answer, with the errno of each plug from the last message. */
static void answer(const struct guard_answer *answer)
{
	struct iovec parts[] = { { (void *)answer, sizeof *answer }, { errors, count * sizeof *errors } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	sendmsg(COMMANDS, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* End the hold. The marks go last, so that this cannot end anybody else's hold. ``asked``: the holder waits. */
static void end_hold(enum guard_outcome outcome, int asked)
{
	int drop = outcome == GUARD_EXPIRED && hold.drop;

	last.outcome = outcome;
	last.counted = outcome == GUARD_RELEASED;
	for (int tries = 0;; last.counted = 0) {	/* the first try may have released: later there is less to count */
		last.error = act(drop ? GUARD_SEND_DROP : GUARD_SEND_RELEASE, last.counted);
		last.step = last.error ? GUARD_PLUG : 0;
		if (!passing(last.error))
			break;
		if (++tries == TRIES && asked) {
			answer(&last);
			asked = 0;
		}
		usleep(PAUSE / 1000);
	}
	now = read_clock(CLOCK_MONOTONIC);
	last.held = now - begun;
	for (struct plug *plug = plugs; plug < plugs + count; plug++) {
		last.counted &= plug->counted && plug->counters.drops >= plug->drops_before;
		last.packets += plug->counters.qlen;
		last.bytes += plug->counters.backlog;
		last.dropped += plug->counters.drops - plug->drops_before;
	}
	if (outcome == GUARD_RELEASED && time_left() <= 0)
		last.outcome = GUARD_EXPIRED;	/* this guard did not run in time */
	remove_marks();
	held = 0;
	if (asked)
		answer(&last);
}

static void leave(enum guard_outcome outcome)
{
	leaving = 1;
	if (held)
		end_hold(outcome, 0);
}

static void begin_hold(const struct guard_question *question)
{
	struct guard_answer said = { .id = question->id };

	/* Nobody would end a detached hold without a timeout. */
	if (!question->id || question->timeout < 0 || (question->detached && !question->timeout))
		said.error = EINVAL;
	else if (held)
		said.error = EBUSY;
	else if ((said.error = make_marks(&said.plug)))
		said.step = GUARD_MARK;
	if (said.error) {
		answer(&said);
		return;
	}
	hold = *question;
	told_to_end = 0;
	take(NOTHING);		/* what has changed before */
	if (!links_known)
		links_known = !act(GUARD_ASK_LINK, 0);
	last = (struct guard_answer){ .id = hold.id };
	now = begun = read_clock(CLOCK_MONOTONIC);
	held = 1;
	said.error = act(GUARD_SEND_BUFFER, 1);
	said.step = said.error ? GUARD_PLUG : 0;
	for (struct plug *plug = plugs; plug < plugs + count; plug++)
		plug->drops_before = plug->counted ? plug->counters.drops : UINT32_MAX;
	answer(&said);
	if (said.error)
		end_hold(GUARD_NOT_ON, 0);
}

static void obey(void)
{
	struct guard_question question = { 0 };
	ssize_t length = recv(COMMANDS, &question, sizeof question, MSG_DONTWAIT | MSG_TRUNC);
	struct guard_answer not_on = { .id = question.id };

	if (length < 0 && errno == EAGAIN)
		return;
	if (length <= 0 && held && hold.detached)
		leaving = 1;
	else if (length != sizeof question || question.what < GUARD_HOLD || question.what > GUARD_END)
		leave(GUARD_EXPIRED);
	else if (question.what == GUARD_HOLD)
		begin_hold(&question);
	else if (question.what == GUARD_END)
		leave(GUARD_RELEASED);
	else if (held && question.id == hold.id)
		end_hold(time_left() <= 0 ? GUARD_EXPIRED : GUARD_RELEASED, 1);
	else
		answer(!held && question.id == last.id ? &last : &not_on);
}

/* Tell a visitor of a mark who holds. A visitor that comes from ``end`` and has the right ends a detached hold. */
static void receive_visitor(int mark)
{
	static const char end[] = "\0libnlplug-end/";
	struct guard_info info = { config->holder, hold.detached, getpid(), 0, hold.timeout, 0, hold.limit };
	struct sockaddr_un from = { 0 };
	struct ucred visitor = { .uid = -1 };
	socklen_t from_size = sizeof from, size = sizeof visitor;
	int fd = accept4(mark, (struct sockaddr *)&from, &from_size, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		usleep(PAUSE / 1000);	/* if no descriptor is left, the visitor stays: do not spin */
		return;
	}
	info.since = read_clock(CLOCK_REALTIME) - (read_clock(CLOCK_MONOTONIC) - begun);
	send(fd, &info, sizeof info, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (hold.detached && !memcmp(from.sun_path, end, sizeof end - 1) &&
	    !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &visitor, &size) && (!visitor.uid || visitor.uid == geteuid()))
		leave(GUARD_RELEASED);
	close(fd);
}

/*
 * Whether the holder is dying, or runs another program. The pidfd tells of its death only after its memory is freed and
 * its core is written, 0.1 s or more for each GB, and never of another program; a child may keep the socket open.
 * EXITING counts only if one thread is left, because it is the flag of the first thread alone.
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

	if (pread(STAT, line, sizeof line - 1, 0) <= 0 || !strrchr(line, ')') ||
	    sscanf(strrchr(line, ')'), words, &flags, &left, &stack) < 3)
		return 0;
	holder_stack = holder_stack ? holder_stack : stack;
	return flags & SIGNALED || (flags & EXITING && left == 1) || (stack && stack != holder_stack);
}

static void watch(void)
{
	while (!leaving || held) {
		int looks = held && !hold.detached, ready;
		int64_t left, most = looks ? PAUSE : held ? SECOND : INT64_MAX;
		struct timespec wait;

		if (held && !looks)	/* the next look may be far: what was done since ``now`` must not delay it */
			now = read_clock(CLOCK_MONOTONIC);
		left = time_left();
		left = left < 0 ? 0 : left > most ? most : left;
		wait = (struct timespec){ left / SECOND, left % SECOND };
		polled[COMMANDS].fd = leaving ? -1 : COMMANDS;
		polled[HOLDER].fd = held && hold.detached ? -1 : HOLDER;
		polled[NETLINK].fd = held ? NETLINK : -1;
		for (unsigned int i = 0; i < MARKS + marks; i++)
			polled[i].revents = 0;
		ready = ppoll(polled, MARKS + marks, &wait, NULL);
		now = held ? read_clock(CLOCK_MONOTONIC) : now;
		/* What the holder asked for counts, even if it has died since. */
		if (polled[COMMANDS].revents)
			obey();
		else if (told_to_end && held && hold.detached)
			leave(GUARD_RELEASED);
		else if (polled[HOLDER].revents || (looks && holder_left()))
			leave(GUARD_EXPIRED);
		else if (!ready && leaving && namespace_is_abandoned())
			leave(GUARD_RELEASED);
		if (time_left() <= 0)
			end_hold(GUARD_EXPIRED, 0);
		if (polled[NETLINK].revents)
			take(NOTHING);
		for (unsigned int i = 0; i < marks; i++)
			if (polled[MARKS + i].revents)
				receive_visitor(polled[MARKS + i].fd);
	}
}

static void note_end(int signum)
{
	(void)signum;
	told_to_end = 1;
}

/* Reset what the guard has inherited from the holder. It may lack the right for some of it: that is tried. */
static void reset(void)
{
	const int first = sched_get_priority_max(SCHED_FIFO), usual = 0;	/* struct sched_param has one member */
	sigset_t none;
	cpu_set_t every;
	int fd;

	if (syscall(CLOSE_RANGE, COMMANDS + 1, ~0U, 0)) {	/* it came with Linux 5.9 */
		DIR *all = opendir("/proc/self/fd");
		struct dirent *one;

		while (all && (one = readdir(all)))
			if (atoi(one->d_name) > 0 && atoi(one->d_name) != dirfd(all))
				close(atoi(one->d_name));
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
	/* A holder that spins on its processor, at any priority, must not keep its guard from running. */
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

/* Read the configuration and allocate everything, before the answer says that the guard is ready. */
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

/* Take the configuration, which the kernel gives to this process with the descriptors from HOLDER to NETLINK. */
static int serve(void)
{
	struct guard_answer said = { .step = GUARD_CONFIG };
	ssize_t length = recv(COMMANDS, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	struct iovec part = { NULL, length };
	char room[CMSG_SPACE((MARKS - HOLDER) * sizeof(int))];
	struct msghdr message = { NULL, 0, &part, 1, room, sizeof room, 0 };

	part.iov_base = config = length > 0 ? calloc(1, length) : NULL;
	if (!config || recvmsg(COMMANDS, &message, 0) != length)
		return 1;
	said.error = read_config(length);
	if (!said.error)
		holder_left();	/* to know its program */
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
