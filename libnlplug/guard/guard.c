/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug-guard: the dead-man switch. It holds plugs for a process that asks it to, and releases them when that
 * process asks for it, dies, or holds for longer than it said it would.
 *
 *	holder ---questions---> [0] guard ---buffer, release, drop---> kernel ---changes of links and qdiscs---> guard
 *	       ---pidfd-------> [1]       ---marks: "this plug is being held", one abstract socket a plug---> everybody
 *
 * It acts alone: nobody else sends what begins or ends a hold, and every state is a variable of this process, changed
 * in one loop, watch(). So no message can cross another one, and no hold is on that is not watched.
 *
 *	state	what happens			what it does				state after
 *	IDLE	HOLD				takes the marks, sends buffer		HELD
 *		  a mark is taken		says which one				IDLE
 *		  a buffer failed		sends release				ENDING
 *		RELEASE				says how that hold ended, or NOT_ON	IDLE
 *		END, holder gone		ends					-
 *	HELD	HOLD				refuses: EBUSY				HELD
 *		RELEASE of this hold		sends release				ENDING
 *		RELEASE of another		says NOT_ON				HELD
 *		its time is up			sends release or drop			ENDING, leaving if detached
 *		holder gone			sends release or drop			ENDING, leaving
 *		END, SIGTERM, visitor's END	sends release				ENDING, leaving
 *	ENDING	done, or refused for good	gives the marks back, answers RELEASE	IDLE
 *		failed for a passing reason	sends it again 10 ms later		ENDING
 *		HOLD				refuses: EBUSY				ENDING
 *		RELEASE of this hold		answers when it is done, or after 1 s	ENDING
 *		END, holder gone		goes on					ENDING, leaving
 *
 * ENDING is over at once but for a passing failure; a guard that is leaving ends when it is IDLE. The holder is gone
 * when its socket is closed, its pidfd is readable, all its threads are dying, or it has executed another program; a
 * detached hold does not care, and it alone hears SIGTERM and a visitor's END.
 *
 * A program of its own, with neither Python nor libnl, so that it shares nothing with the holder that could fail
 * together with it, started in the plugs' network namespace. All that it needs is there before it says that it is
 * ready; then it allocates nothing but its marks. What kills its cgroup or pid namespace kills it with the holder.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
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

#include "protocol.h"

enum {
	COMMANDS,		/* descriptor 0: the socket of the holder */
	HOLDER,			/* descriptor 1: the holder's pidfd */
	EVENTS,			/* what is polled after these two: changes of links and qdiscs, */
	VISITOR,		/* the last one that came to a detached hold and may yet ask, */
	MARKS,			/* and the marks */
	PORTION = 500,		/* plugs in one send */
	ANSWER = 4096,		/* bytes of the socket's buffer that the answers about one plug may take */
	TRIES = 100,		/* before the holder is told that its release fails for a passing reason */
	PAUSE = 10000000,	/* nanoseconds between two tries, and between two looks at the holder */
	DYING = 0x404,		/* PF_EXITING and PF_SIGNALED of the kernel's include/linux/sched.h */
	QUESTION = 1 << 30,	/* in the number of a message: asks for the counters */
};

struct plug {
	struct guard_place place;
	int error;			/* of the last message */
	int counted, counted_before;	/* whether the counters were read with the last message, and with buffer */
	struct gnet_stats_queue counters;
	uint32_t drops_before;
	uint32_t queue_length;		/* the device's txqueuelen, once it is known */
	int queue_length_known;
};

union datagram {
	struct nlmsghdr header;
	char bytes[PORTION * 128];
};

static struct guard_config *config;
static struct plug *plugs;
static unsigned int count, portion = 1, marks;
static struct pollfd *polled;
static int route = -1, events = -1, threads = -1;
static unsigned long long holder_stack;		/* where the holder's program has its stack; 0 where that is hidden */
static struct guard_info info;
static volatile sig_atomic_t told_to_end;

static enum { IDLE, HELD, ENDING } state;
static struct guard_question hold;		/* the one that is on */
static int64_t begun;				/* CLOCK_MONOTONIC, nanoseconds */
static enum guard_message ending;		/* ENDING: what is sent */
static int tries, asked, leaving;		/* ENDING: how often; whether the holder waits. Whether this is to end */
static struct guard_answer last;		/* how the last hold ended, for RELEASE */
static uint32_t lost, lost_at;			/* during the hold that is on */
static int links_known;

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

/* The attribute of this type among those that begin at ``at``, if it has so many bytes; else NULL. */
static const void *attribute(const struct rtattr *at, int left, int type, size_t size)
{
	for (; RTA_OK(at, left); at = RTA_NEXT(at, left))
		if ((at->rta_type & NLA_TYPE_MASK) == type)
			return RTA_PAYLOAD(at) < size ? NULL : at;
	return NULL;
}

static void note_lost(unsigned int plug, enum guard_lost why)
{
	if (!lost) {
		lost = why;
		lost_at = plug;
	}
}

/* A link has changed, or is shown: the kernel empties its queues when it goes down or its txqueuelen changes. */
static void read_link(const struct nlmsghdr *header)
{
	const struct ifinfomsg *link = NLMSG_DATA(header);
	int left = (int)header->nlmsg_len - (int)NLMSG_LENGTH(sizeof *link);
	const struct rtattr *found = left < 0 ? NULL : attribute(IFLA_RTA(link), left, IFLA_TXQLEN, 4);

	for (struct plug *plug = plugs; left >= 0 && link->ifi_family == AF_UNSPEC && plug < plugs + count; plug++) {
		if (plug->place.ifindex != link->ifi_index)
			continue;
		if (header->nlmsg_type == RTM_DELLINK || !(link->ifi_flags & IFF_UP))
			note_lost(plug - plugs, GUARD_LINK_DOWN);
		else if (!(link->ifi_flags & IFF_LOWER_UP))
			note_lost(plug - plugs, GUARD_NO_CARRIER);
		if (!found)
			continue;
		if (plug->queue_length_known && memcmp(&plug->queue_length, RTA_DATA(found), 4))
			note_lost(plug - plugs, GUARD_QUEUE_LENGTH);
		memcpy(&plug->queue_length, RTA_DATA(found), 4);
		plug->queue_length_known = 1;
	}
}

/* A qdisc has changed: a plug, what it stands in or the root was deleted; or clsact or ingress has come or gone. */
static void read_change(const struct nlmsghdr *header)
{
	const struct tcmsg *changed = NLMSG_DATA(header);

	if (header->nlmsg_len < NLMSG_LENGTH(sizeof *changed) ||
	    (header->nlmsg_type != RTM_DELQDISC && changed->tcm_parent != TC_H_INGRESS))
		return;
	for (struct plug *plug = plugs; plug < plugs + count; plug++) {
		if (plug->place.ifindex != changed->tcm_ifindex)
			continue;
		if (changed->tcm_parent == TC_H_INGRESS)
			note_lost(plug - plugs, GUARD_CLSACT);
		else if (changed->tcm_parent == TC_H_ROOT || changed->tcm_parent == plug->place.parent ||
			 changed->tcm_handle == TC_H_MAJ(plug->place.parent))
			note_lost(plug - plugs, GUARD_REPLACED);
	}
}

static void read_counters(const struct nlmsghdr *header, struct plug *plug)
{
	int left = (int)header->nlmsg_len - (int)NLMSG_LENGTH(sizeof(struct tcmsg));
	const struct rtattr *found = left < 0 ? NULL : attribute(TCA_RTA(NLMSG_DATA(header)), left, TCA_STATS2, 0);

	if (found)
		found = attribute(RTA_DATA(found), RTA_PAYLOAD(found), TCA_STATS_QUEUE, sizeof plug->counters);
	if (!found)
		return;
	memcpy(&plug->counters, RTA_DATA(found), sizeof plug->counters);
	plug->counted = 1;
}

/*
 * Take what is queued: the answers to what was sent, up to the ACK of message ``final``; or what has happened to links
 * and qdiscs, which is queued between holds too, and read before the next one. ENOBUFS where not all of it was there.
 */
static int take(int fd, uint32_t final)
{
	static union datagram datagram;
	int lacking = 0, length;

	for (;;) {
		struct nlmsghdr *header = &datagram.header;

		length = recv(fd, &datagram, sizeof datagram, MSG_DONTWAIT);
		if (length < 0 && errno == EAGAIN)
			return fd == route ? ENOBUFS : lacking;
		if (length < 0 && errno != EINTR)
			lacking = ENOBUFS;	/* more than the queue takes, of which the first ones are in it */
		for (; length > 0 && NLMSG_OK(header, (unsigned int)length); header = NLMSG_NEXT(header, length)) {
			uint32_t number = header->nlmsg_seq & ~QUESTION;

			if (header->nlmsg_type == RTM_NEWLINK || header->nlmsg_type == RTM_DELLINK)
				read_link(header);
			else if (fd == events && (header->nlmsg_type == RTM_NEWQDISC || header->nlmsg_type == RTM_DELQDISC))
				read_change(header);
			else if (header->nlmsg_type == RTM_NEWQDISC && number < count)
				read_counters(header, plugs + number);
			else if (header->nlmsg_type == NLMSG_ERROR && header->nlmsg_seq < count &&
				 header->nlmsg_len >= NLMSG_LENGTH(sizeof(int))) {
				plugs[number].error = -((struct nlmsgerr *)NLMSG_DATA(header))->error;
				if (number == final)
					return lacking;
			}
		}
	}
}

static void read_events(void)
{
	if (!take(events, 0))
		return;
	note_lost(0, GUARD_UNSEEN);
	links_known = 0;
}

/* Write the message for a plug; how long it is. */
static size_t write_message(char *to, enum guard_message what, const struct guard_place *place, uint32_t number)
{
	const struct nlmsghdr *message = (struct nlmsghdr *)config->messages[what];
	struct nlmsghdr *header = memcpy(to, message, message->nlmsg_len);
	struct tcmsg *written = NLMSG_DATA(header);

	header->nlmsg_seq = number;
	written->tcm_ifindex = place->ifindex;	/* stands where a link's message has it, too */
	if (what != GUARD_ASK_LINK) {
		written->tcm_handle = place->handle;
		written->tcm_parent = place->parent;
	}
	return NLMSG_ALIGN(message->nlmsg_len);
}

/*
 * Send this message for the first ``many`` plugs, as many at a time as the sockets take, with ``counting`` each after a
 * question about the plug's counters. The error of each is with it. Returns one of them, a passing one rather than
 * others, 0 where there is none. To send any of them twice does no harm.
 */
static int act(enum guard_message what, unsigned int many, int counting)
{
	static union datagram request;
	int result = 0, error;

	for (unsigned int at = 0, end; at < many; at = end) {
		size_t length = 0, final = 0;

		for (end = at; end < many && end - at < portion; end++) {
			plugs[end].error = plugs[end].counted = 0;
			if (counting)
				length += write_message(request.bytes + length, GUARD_ASK_COUNTERS, &plugs[end].place, end | QUESTION);
			final = length;
			length += write_message(request.bytes + length, what, &plugs[end].place, end);
		}
		((struct nlmsghdr *)(request.bytes + final))->nlmsg_flags |= NLM_F_ACK;
		do
			error = send(route, &request, length, MSG_NOSIGNAL) < 0 ? errno : 0;
		while (error == EINTR);
		error = error ? error : take(route, end - 1);
		for (unsigned int i = at; i < end; i++) {
			plugs[i].error = plugs[i].error ? plugs[i].error : error;
			if (plugs[i].error && (!result || passing(plugs[i].error)))
				result = plugs[i].error;
		}
	}
	return result;
}

static void remove_marks(void)
{
	while (marks)
		close(polled[MARKS + --marks].fd);
}

/* The marks say "held" to everyone in the namespace; 0, or an errno and in *taken which mark it was about. */
static int make_marks(uint32_t *taken)
{
	int error = 0, spare;

	while (!error && marks < count) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		const struct guard_place *place = &plugs[marks].place;
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		int size = sprintf(address.sun_path + 1, "libnlplug-hold/%d/%x", place->ifindex, place->parent);

		polled[MARKS + marks] = (struct pollfd){ .fd = fd, .events = POLLIN };
		marks += fd >= 0;
		if (fd < 0 || bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + size) ||
		    listen(fd, 128)) {
			error = errno;
			*taken = marks - (fd >= 0);
		}
	}
	spare = error ? -1 : fcntl(COMMANDS, F_DUPFD_CLOEXEC, 0);	/* who asks for the holder takes one more */
	if (spare >= 0)
		close(spare);
	else
		error = error ? error : errno;
	if (error)
		remove_marks();
	return error;
}

/* Answer, with the errors of the plugs where there are any. */
static void answer(struct guard_answer *answer)
{
	static struct {
		struct guard_answer answer;
		struct guard_failure failures[1024];
	} said;

	answer->failures = 0;
	for (unsigned int i = 0; answer->step == GUARD_PLUG && i < count && answer->failures < 1024; i++)
		if (plugs[i].error)
			said.failures[answer->failures++] = (struct guard_failure){ i, plugs[i].error };
	said.answer = *answer;
	send(COMMANDS, &said, sizeof *answer + answer->failures * sizeof *said.failures, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ENDING: send what ends the hold. The marks go last: until then nobody else can have begun a hold that this ends. */
static void try_to_end(void)
{
	int counting = last.outcome == GUARD_RELEASED;

	last.error = act(ending, count, counting);
	last.step = last.error ? GUARD_PLUG : 0;
	if (passing(last.error) && ++tries < TRIES)
		return;
	if (!passing(last.error)) {
		last.held = now_on(CLOCK_MONOTONIC) - begun;
		last.known = counting;
		for (struct plug *plug = plugs; plug < plugs + count; plug++) {
			last.known &= plug->counted && plug->counted_before && plug->counters.drops >= plug->drops_before;
			last.packets += plug->counters.qlen;
			last.bytes += plug->counters.backlog;
			last.dropped += plug->counters.drops - plug->drops_before;
		}
		if (counting && time_left() <= 0)
			last.outcome = GUARD_EXPIRED;	/* this guard did not run in time */
		read_events();
		last.lost = lost;
		last.plug = lost_at;
		remove_marks();
		state = IDLE;
		polled[EVENTS].fd = -1;
		polled[HOLDER].fd = leaving ? -1 : HOLDER;
	}
	if (asked)
		answer(&last);
	asked = 0;
}

static void end_hold(enum guard_message what, enum guard_outcome outcome)
{
	state = ENDING;
	ending = what;
	tries = 0;
	last = (struct guard_answer){ .id = hold.id, .outcome = outcome };
	try_to_end();
}

/* The holder is gone or late. */
static void expire(void)
{
	end_hold(hold.drop ? GUARD_SEND_DROP : GUARD_SEND_RELEASE, GUARD_EXPIRED);
}

/* This guard ends as soon as nothing is held: because its holder is gone, or said END. */
static void leave(int gone)
{
	leaving = 1;
	polled[COMMANDS].fd = polled[HOLDER].fd = -1;
	if (state == HELD && gone)
		expire();
	else if (state == HELD)
		end_hold(GUARD_SEND_RELEASE, GUARD_RELEASED);
}

static void note_end(int number)
{
	(void)number;
	told_to_end = 1;
}

static void begin_hold(const struct guard_question *question)
{
	struct guard_answer said = { .id = question->id, .step = GUARD_CONFIG };

	if (state != IDLE)
		said.error = EBUSY;
	else if (!question->id || question->timeout < 0 || (question->detached && !question->timeout))
		said.error = EINVAL;	/* a detached hold without a timeout would be ended by nobody */
	else if ((said.error = make_marks(&said.plug)))
		said.step = GUARD_MARK;
	if (said.error) {
		answer(&said);
		return;
	}
	hold = *question;
	info.detached = hold.detached;
	read_events();
	if (!links_known)
		act(GUARD_ASK_LINK, count, 0);
	links_known = 1;
	lost = lost_at = 0;
	polled[HOLDER].fd = hold.detached ? -1 : HOLDER;
	polled[EVENTS].fd = events;
	signal(SIGTERM, hold.detached ? note_end : SIG_IGN);
	begun = now_on(CLOCK_MONOTONIC);
	state = HELD;
	said.error = act(GUARD_SEND_BUFFER, count, 1);
	said.step = said.error ? GUARD_PLUG : 0;
	for (struct plug *plug = plugs; plug < plugs + count; plug++) {
		plug->counted_before = plug->counted;
		plug->drops_before = plug->counters.drops;
	}
	answer(&said);
	if (said.error)
		end_hold(GUARD_SEND_RELEASE, GUARD_NOT_ON);
}

static void obey(void)
{
	struct guard_question question = { 0 };
	ssize_t length = recv(COMMANDS, &question, sizeof question, MSG_DONTWAIT | MSG_TRUNC);
	struct guard_answer not_on = { .id = question.id };

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length != sizeof question || question.what < GUARD_HOLD || question.what > GUARD_END) {
		if (state != IDLE && hold.detached && length <= 0)
			polled[COMMANDS].fd = -1;	/* it goes on without the holder */
		else
			leave(1);
	} else if (question.what == GUARD_HOLD)
		begin_hold(&question);
	else if (question.what == GUARD_END)
		leave(0);
	else if (state != IDLE && question.id == hold.id) {
		asked = 1;
		if (state == HELD && time_left() <= 0)
			expire();
		else if (state == HELD)
			end_hold(GUARD_SEND_RELEASE, GUARD_RELEASED);
	} else
		answer(state == IDLE && question.id == last.id ? &last : &not_on);
}

/* A visitor has asked for something, or has gone. With the right, he may end a detached hold. */
static void obey_visitor(void)
{
	struct guard_question question = { 0 };
	struct ucred peer = { .uid = -1 };
	socklen_t size = sizeof peer;
	int fd = polled[VISITOR].fd;

	polled[VISITOR].fd = -1;
	if (recv(fd, &question, sizeof question, MSG_DONTWAIT) == sizeof question && question.what == GUARD_END &&
	    !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) && (peer.uid == 0 || peer.uid == geteuid()) &&
	    hold.detached)
		leave(0);
	close(fd);
}

/* Tell who connects to a mark who holds. */
static void tell_visitor(int mark)
{
	const struct timespec pause = { .tv_nsec = PAUSE };
	int visitor = accept4(mark, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (visitor < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			nanosleep(&pause, NULL);	/* no descriptor or memory, and the visitor stays: this must not spin */
		return;
	}
	info.timeout = hold.timeout;
	info.limit = hold.limit;
	info.since = now_on(CLOCK_REALTIME) - (now_on(CLOCK_MONOTONIC) - begun);
	send(visitor, &info, sizeof info, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (hold.detached) {	/* one at a time; who is not heard comes again */
		int before = polled[VISITOR].fd;

		polled[VISITOR] = (struct pollfd){ .fd = visitor, .events = POLLIN };
		visitor = before;
	}
	if (visitor >= 0)
		close(visitor);
}

/* The flags and the stack of a thread, words 9 and 28 of its stat. 1; -1 where it is not there, 0 where it is hidden. */
static int read_thread(const char *tid, unsigned long *flags, unsigned long long *stack)
{
	char path[32], line[1024], *at;
	ssize_t length;
	int fd;

	*flags = *stack = 0;
	snprintf(path, sizeof path, "%s/stat", tid);
	fd = openat(threads, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -1 : 0;
	length = read(fd, line, sizeof line - 1);
	close(fd);
	if (length <= 0)
		return length < 0 && errno == ESRCH ? -1 : 0;
	line[length] = 0;
	at = strrchr(line, ')');
	for (int word = 2; at && word < 28; word++) {
		at = strchr(at + 1, ' ');
		if (at && word == 8)	/* it stands before the next one */
			*flags = strtoul(at, NULL, 10);
	}
	*stack = at ? strtoull(at, NULL, 10) : 0;
	return 1;
}

/*
 * Whether the whole holder is dying, or has executed another program. Its pidfd tells the first only after its memory
 * is freed and its core is written, 0.1 s or more for each GB; and never the second, while a child may keep its end of
 * the conversation open. A thread that has gone counts as dying, one that is hidden as alive (/proc with hidepid).
 */
static int holder_left(void)
{
	char entries[2048] __attribute__((aligned(8)));
	struct entry {
		uint64_t ino;
		int64_t off;
		unsigned short length;
		unsigned char type;
		char name[];
	} *entry;
	unsigned long long stack;
	unsigned long flags;
	int seen = 0;
	long length;

	if (threads < 0 || lseek(threads, 0, SEEK_SET) < 0)
		return 0;
	while ((length = syscall(SYS_getdents64, threads, entries, sizeof entries)) > 0)
		for (long at = 0; at < length; at += entry->length) {
			entry = (struct entry *)(entries + at);
			if (*entry->name == '.' || read_thread(entry->name, &flags, &stack) < 0)
				continue;
			holder_stack = holder_stack ? holder_stack : stack;
			if (stack && stack != holder_stack)
				return 1;
			if (!(flags & DYING))
				return 0;
			seen = 1;
		}
	return seen && !length;
}

static void watch(void)
{
	while (!leaving || state != IDLE) {
		int looks = state == HELD && !hold.detached;
		int64_t left = state == HELD ? time_left() : INT64_MAX;
		struct timespec wait = { 0 };
		sigset_t none;

		if ((looks || state == ENDING) && left > PAUSE)
			left = PAUSE;
		if (left > 0)
			wait = (struct timespec){ left / 1000000000, left % 1000000000 };
		sigemptyset(&none);
		if (ppoll(polled, MARKS + marks, left == INT64_MAX ? NULL : &wait, &none) < 0)
			for (unsigned int i = 0; i < MARKS + marks; i++)
				polled[i].revents = 0;
		/* What the holder asked for counts, even if it has died since. */
		if (polled[COMMANDS].revents)
			obey();
		else if (told_to_end)
			leave(0);
		else if (polled[HOLDER].revents || (looks && holder_left()))
			leave(1);
		else if (state == ENDING)
			try_to_end();
		if (state == HELD && time_left() <= 0) {
			leaving |= hold.detached;
			expire();
		}
		if (polled[EVENTS].revents)
			read_events();
		if (polled[VISITOR].revents)
			obey_visitor();
		for (unsigned int i = 0; i < marks; i++)
			if (polled[MARKS + i].revents)
				tell_visitor(polled[MARKS + i].fd);
	}
}

/* Nothing that the holder has open stays open here. */
static void close_others(void)
{
	struct dirent *one;
	DIR *all;

#ifdef SYS_close_range
	if (!syscall(SYS_close_range, 2, ~0U, 0))
		return;
#endif
	all = opendir("/proc/self/fd");
	while (all && (one = readdir(all)))
		if (atoi(one->d_name) > 1 && atoi(one->d_name) != dirfd(all))
			close(atoi(one->d_name));
	for (int fd = 2; !all && fd < 65536; fd++)
		close(fd);
	if (all)
		closedir(all);
}

/* What the holder was given, or has set for itself, is not for its guard. What takes a right that it may lack is tried. */
static void reset(void)
{
	const int first = sched_get_priority_max(SCHED_FIFO), usual = 0;	/* struct sched_param has one member */
	sigset_t only_in_ppoll;
	cpu_set_t every;
	int score;

	/*
	 * A service manager sends what ends a service to all its processes: SIGTERM, or SIGABRT where its watchdog finds
	 * that it hangs, or what its unit says. A fault of the guard's own ends it all the same: the kernel forces that.
	 */
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
	sigemptyset(&only_in_ppoll);
	sigaddset(&only_in_ppoll, SIGTERM);
	sigprocmask(SIG_SETMASK, &only_in_ppoll, NULL);
	umask(077);
	for (int which = 0; which < (int)RLIM_NLIMITS; which++) {
		struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

		if (setrlimit(which, &limit) && !getrlimit(which, &limit)) {
			limit.rlim_cur = limit.rlim_max;	/* a mark is a descriptor, and a group may have thousands */
			setrlimit(which, &limit);
		}
	}
	/* A holder that spins on its processor, and with whatever priority, must not keep its guard from running. */
	memset(&every, 0xff, sizeof every);
	sched_setaffinity(0, sizeof every, &every);
	if (!sched_getscheduler(0) || syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &first)) {
		syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &usual);
		for (int nice = -20; nice < 0 && setpriority(PRIO_PROCESS, 0, nice); nice++)
			;
	}
	score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (score >= 0) {
		if (write(score, "-1000", 5) < 0)
			errno = 0;
		close(score);
	}
	mlockall(MCL_CURRENT | MCL_FUTURE);
}

/* The holder's threads in /proc, or -1. The pidfd's own number there is right whichever pid namespace /proc shows. */
static int open_threads(void)
{
	FILE *lines = fopen("/proc/self/fdinfo/1", "re");
	char line[64], path[32];
	int pid = 0;

	while (lines && fgets(line, sizeof line, lines) && !sscanf(line, "Pid: %d", &pid))
		;
	if (lines)
		fclose(lines);
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	return pid > 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
}

static int read_config(size_t length)
{
	const struct guard_place *places = (struct guard_place *)(config + 1);

	if (length < sizeof *config || config->version != GUARD_VERSION || !config->count ||
	    length != sizeof *config + (size_t)config->count * sizeof *places)
		return EPROTO;
	for (int i = 0; i <= GUARD_ASK_LINK; i++) {
		const struct nlmsghdr *message = (struct nlmsghdr *)config->messages[i];

		if (message->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)) + (i < GUARD_ASK_LINK ? 4 : 0) ||
		    message->nlmsg_len > sizeof config->messages[i])
			return EPROTO;
	}
	plugs = calloc(config->count, sizeof *plugs);
	polled = calloc(MARKS + config->count, sizeof *polled);
	if (!plugs || !polled)
		return ENOMEM;
	count = config->count;
	for (unsigned int i = 0; i < count; i++)
		plugs[i].place = places[i];
	return 0;
}

static int open_sockets(void)
{
	struct sockaddr_nl groups = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK | 1 << (RTNLGRP_TC - 1) };
	int *sockets[] = { &route, &events };
	int room = ANSWER * (count < PORTION ? count : PORTION) / 2;	/* which the kernel doubles */
	socklen_t size = sizeof room;

	for (int i = 0; i < 2; i++) {
		*sockets[i] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
		if (*sockets[i] < 0)
			return errno;
		if (room > 65536 && setsockopt(*sockets[i], SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
			setsockopt(*sockets[i], SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
	}
	if (bind(events, (struct sockaddr *)&groups, sizeof groups) || getsockopt(route, SOL_SOCKET, SO_RCVBUF, &room, &size))
		return errno;
	portion = room < ANSWER ? 1 : room / ANSWER > PORTION ? PORTION : room / ANSWER;
	return 0;
}

/* Whether this process may change qdiscs here: the kernel asks for the right before it looks for the device. */
static int permission(void)
{
	int error;

	plugs->place.ifindex = INT32_MAX;
	error = act(GUARD_SEND_RELEASE, 1, 0);
	plugs->place = *(struct guard_place *)(config + 1);
	return error == ENODEV ? 0 : error ? error : EPROTO;
}

/* Everything that can fail comes before the answer that says it did not. */
static int serve(void)
{
	struct pollfd first[] = { { .fd = COMMANDS, .events = POLLIN }, { .fd = HOLDER, .events = POLLIN } };
	struct guard_answer said = { .step = GUARD_CONFIG };
	ssize_t length = 0;

	/* A child of the holder may keep its end of the conversation open after it. */
	if (poll(first, 2, -1) > 0 && first[COMMANDS].revents)
		length = recv(COMMANDS, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	config = length > 0 ? calloc(1, length) : NULL;
	if (!config || recv(COMMANDS, config, length, 0) != length)
		return 1;
	said.error = read_config(length);
	if (!said.error) {
		info.holder = config->holder;
		info.guard = getpid();
		polled[COMMANDS] = first[COMMANDS];
		polled[HOLDER] = first[HOLDER];
		polled[EVENTS] = polled[VISITOR] = (struct pollfd){ .fd = -1, .events = POLLIN };
		said.step = GUARD_SOCKET;
		said.error = open_sockets();
	}
	if (!said.error) {
		threads = open_threads();
		holder_left();
		said.step = GUARD_PERMISSION;
		said.error = permission();
	}
	send(COMMANDS, &said, sizeof said, MSG_NOSIGNAL);
	if (!said.error)
		watch();
	return said.error != 0;
}

int main(void)
{
	close_others();
	reset();
	return chdir("/") || serve();
}
