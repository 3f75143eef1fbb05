/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug-guard: the dead-man switch. It waits beside a process that holds a plug and releases the plug when that
 * process dies or holds for longer than it said it would.
 *
 *	          commands            +-------+   release or drop, when the pidfd or the clock says so
 *	holder <----------------> [0] | guard | -----------------------------------------------> kernel
 *	   ^----- pidfd ---------- [1] |       | marks: "this plug is being held", one abstract socket a plug
 *	   ^----- /proc/PID/task ----- |       |
 *	   `----> timer, page -------> +-------+
 *
 * A program of its own, with neither Python nor libnl, so that it shares nothing with the holder that could fail
 * together with it: no memory, no locks, no descriptors. It is started in the network namespace of the plug. Everything
 * that it needs is there before it says that it is ready; from then on it allocates nothing but its marks, and those
 * before the holder begins to hold. It dies with its cgroup and with its pid namespace: what kills the holder through
 * one of these kills the guard too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "protocol.h"

enum {
	COMMANDS,		/* descriptor 0: the socket of the holder */
	HOLDER,			/* descriptor 1: the holder's pidfd */
	TIMER,			/* what is polled after these two: the timer, if there is one, and the marks */
	MARKS,
	BATCH_MAX = 32768,	/* bytes in one send; a socket's default buffer takes several times that */
	TRIES = 100,		/* of a release that the kernel could not do for a passing reason, 10 ms apart */
	DYING = 0x404,		/* PF_EXITING and PF_SIGNALED of the kernel's include/linux/sched.h */
};

static char *config;
static struct pollfd *polled;
static unsigned int marks;
static int route = -1;
static int threads = -1;
static int timer = -1;
static struct guard_info info;
static struct guard_page own_page;
static struct guard_page *page = &own_page;	/* the holder's, if it came with the configuration */
static int expiry_error;
static volatile sig_atomic_t told_to_end;

struct batch {
	char *messages;
	size_t length;
};

static struct batch release_batch, drop_batch;

static int state(void)
{
	return __atomic_load_n(&page->state, __ATOMIC_ACQUIRE) & 0xff;
}

static int is_on(void)
{
	return state() == GUARD_HELD || state() == GUARD_LEAVING;
}

/* The holder changes it too: whether it was ``from``, and with whatever number is ``to`` now. */
static int change_state(enum guard_state from, enum guard_state to)
{
	uint32_t before = __atomic_load_n(&page->state, __ATOMIC_ACQUIRE);
	uint32_t after = to < GUARD_TAKING ? to : (before & ~0xffU) | to;

	return (before & 0xff) == from &&
	       __atomic_compare_exchange_n(&page->state, &before, after, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static int64_t now_on(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int64_t until_deadline(void)
{
	return page->timeout - (now_on(CLOCK_MONOTONIC) - page->begun);
}

/* The first error among the answers that are queued, 0 for none. The kernel queued them before the send returned. */
static int take_answers(void)
{
	char answers[8192];
	int error = 0, lost = 0;
	ssize_t length;

	while ((length = recv(route, answers, sizeof answers, MSG_DONTWAIT)) > 0 || errno == EINTR || errno == ENOBUFS) {
		struct nlmsghdr *header = (struct nlmsghdr *)answers;

		if (length <= 0) {
			if (errno == ENOBUFS)
				lost = errno;	/* more errors than the queue takes, of which the first ones are in it */
			continue;
		}
		for (; NLMSG_OK(header, length); header = NLMSG_NEXT(header, length))
			if (header->nlmsg_type == NLMSG_ERROR && !error)
				error = -((struct nlmsgerr *)NLMSG_DATA(header))->error;
	}
	return error ? error : lost;
}

/* Send all messages, as many at a time as a socket takes; the first error of the kernel, 0 for none. */
static int send_once(const struct batch *batch)
{
	size_t at = 0;
	int error = 0;

	while (at < batch->length) {
		struct nlmsghdr *last = NULL;
		size_t end = at;
		ssize_t sent;
		int one;

		while (end < batch->length) {
			struct nlmsghdr *header = (struct nlmsghdr *)(batch->messages + end);

			if (end > at && end + NLMSG_ALIGN(header->nlmsg_len) - at > BATCH_MAX)
				break;
			last = header;
			end += NLMSG_ALIGN(header->nlmsg_len);
		}
		last->nlmsg_flags |= NLM_F_ACK;
		do
			sent = send(route, batch->messages + at, end - at, 0);
		while (sent < 0 && errno == EINTR);
		one = sent < 0 ? errno : take_answers();
		error = error ? error : one;
		at = end;
	}
	return error;
}

static int passing(int error)
{
	return error == ENOMEM || error == ENOBUFS || error == EAGAIN || error == EBUSY;
}

/*
 * To release twice does no harm, so a batch that failed for a passing reason is sent again as a whole; without end
 * where nobody is left who could do it otherwise.
 */
static int send_batch(const struct batch *batch, int without_end)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	int error = send_once(batch);

	for (int tries = 1; passing(error) && (without_end || tries < TRIES); tries++) {
		nanosleep(&pause, NULL);
		error = send_once(batch);
	}
	return error;
}

/* Whether this process may change qdiscs here: the kernel asks for the right before it looks for the device. */
static int permission(void)
{
	struct nlmsghdr *first = (struct nlmsghdr *)release_batch.messages;
	struct tcmsg *request = NLMSG_DATA(first);
	struct batch probe = { release_batch.messages, NLMSG_ALIGN(first->nlmsg_len) };
	int index = request->tcm_ifindex;
	int error;

	request->tcm_ifindex = INT32_MAX;
	error = send_batch(&probe, 0);
	request->tcm_ifindex = index;
	first->nlmsg_flags &= ~NLM_F_ACK;
	return error == ENODEV ? 0 : error ? error : EPROTO;
}

static void remove_marks(void)
{
	for (unsigned int i = 0; i < marks; i++)
		close(polled[MARKS + i].fd);
	marks = 0;
}

/* The marks say "held" to everyone in the namespace; 0, or an errno and in *taken which mark it was about. */
static int make_marks(uint32_t length, uint32_t *taken)
{
	const char *name = drop_batch.messages + drop_batch.length;
	const char *end = name + length;
	int spare;

	for (; name < end; name += strlen(name) + 1) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		size_t size = strlen(name);
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		memcpy(address.sun_path + 1, name, size);
		if (fd < 0 || bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + size) ||
		    listen(fd, 16)) {
			int error = errno;

			*taken = marks;
			if (fd >= 0)
				close(fd);
			remove_marks();
			return error;
		}
		polled[MARKS + marks++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	/* Who asks for the holder takes one descriptor more. */
	spare = fcntl(COMMANDS, F_DUPFD_CLOEXEC, 0);
	if (spare < 0) {
		int error = errno;

		remove_marks();
		return error;
	}
	close(spare);
	return 0;
}

static void note_end(int number)
{
	(void)number;
	told_to_end = 1;
}

static int start_hold(const struct guard_command *command, uint32_t marks_length, uint32_t *taken)
{
	/* A detached hold without a timeout would be ended by nobody and nothing. */
	int senseless = command->timeout < 0 || (command->detached && !command->timeout);
	int error;

	if (senseless)
		return EINVAL;
	if (!change_state(GUARD_KEPT, GUARD_TAKING)) {
		if (state() != GUARD_FREE)
			return EBUSY;
		error = make_marks(marks_length, taken);
		if (error)
			return error;
	}
	page->begun = now_on(CLOCK_MONOTONIC);
	page->timeout = command->timeout;
	page->limit = command->limit;
	page->drop = command->drop;
	page->since = command->since;
	info.detached = command->detached;
	expiry_error = 0;
	/* The holder's death means nothing to a detached hold. */
	polled[HOLDER].fd = command->detached ? -1 : HOLDER;
	/* A detached guard can be told that it is no longer needed; and to release now, before what comes next kills it. */
	signal(SIGUSR1, command->detached ? SIG_DFL : SIG_IGN);
	signal(SIGTERM, command->detached ? note_end : SIG_IGN);
	__atomic_store_n(&page->state, command->number << 8 | GUARD_HELD, __ATOMIC_RELEASE);
	return 0;
}

/* The marks go last: until then nobody else can have begun a hold that this could end. */
static int end_hold(const struct batch *batch, int without_end)
{
	int error = send_batch(batch, without_end);

	polled[HOLDER].fd = HOLDER;
	remove_marks();
	__atomic_store_n(&page->state, GUARD_FREE, __ATOMIC_RELEASE);
	return error;
}

/* The holder is dead or late. One that was about to release, and only that, is helped; it may yet do it again. */
static void holder_failed(void)
{
	if (change_state(GUARD_HELD, GUARD_ENDING))
		expiry_error = end_hold(page->drop ? &drop_batch : &release_batch, 1);
	else if (state() == GUARD_LEAVING)
		send_batch(&release_batch, 0);
}

/* Whether the command is about the hold that is on: the one of this number, or any for 0. */
static int is_about(uint32_t number)
{
	return is_on() && (!number || (number & 0xffffff) == __atomic_load_n(&page->state, __ATOMIC_ACQUIRE) >> 8);
}

static void obey(uint32_t marks_length)
{
	struct guard_command command;
	struct guard_answer answer = { 0 };
	ssize_t length = recv(COMMANDS, &command, sizeof command, MSG_DONTWAIT);

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length != sizeof command || command.what == GUARD_END) {
		/* The end of the conversation. A detached hold goes on without one. */
		if (is_on() && info.detached) {
			polled[COMMANDS].fd = -1;
			return;
		}
		holder_failed();
		_exit(0);
	}
	if (command.what == GUARD_HOLD)
		answer.error = start_hold(&command, marks_length, &answer.mark);
	else if (is_about(command.number) &&
		 (change_state(GUARD_HELD, GUARD_ENDING) || change_state(GUARD_LEAVING, GUARD_ENDING)))
		answer.error = end_hold(&release_batch, 0);
	else {
		answer.expired = 1;
		answer.error = expiry_error;
	}
	send(COMMANDS, &answer, sizeof answer, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Marks that were only kept for the next hold are given up: the visitor sees that nobody holds. */
static void tell_visitor(int mark)
{
	int visitor;

	if (change_state(GUARD_KEPT, GUARD_FREE)) {
		remove_marks();
		return;
	}
	visitor = accept4(mark, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (visitor < 0)
		return;
	info.timeout = page->timeout;
	info.limit = page->limit;
	info.since = page->since ? page->since : now_on(CLOCK_REALTIME) - (now_on(CLOCK_MONOTONIC) - page->begun);
	send(visitor, &info, sizeof info, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(visitor);
}

/*
 * Whether a thread of the holder is on its way out; -1 where it is not there: it has ended, or is hidden from the guard
 * (/proc with hidepid, and a holder that changed its user since). The flags are the seventh word after the name's ')'.
 */
static int thread_dying(const char *tid)
{
	char path[32], line[512], *at;
	ssize_t length;
	int fd;

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
	for (int words = 0; at && words < 7; words++)
		at = strchr(at + 1, ' ');
	return at && (strtoul(at, NULL, 10) & DYING) != 0;
}

/*
 * Whether the whole holder is. Its pidfd says so only after its memory is freed and its core is written, 0.1 s or more
 * for each GB, and for so long nothing would flow; /proc shows it as soon as the threads have seen their end.
 */
static int holder_dying(void)
{
	char entries[2048] __attribute__((aligned(8)));
	struct entry {
		uint64_t ino;
		int64_t off;
		unsigned short length;
		unsigned char type;
		char name[];
	};
	int seen = 0;
	long length;

	if (lseek(threads, 0, SEEK_SET) < 0)
		return 0;
	while ((length = syscall(SYS_getdents64, threads, entries, sizeof entries)) > 0)
		for (long at = 0; at < length; at += ((struct entry *)(entries + at))->length) {
			const char *name = ((struct entry *)(entries + at))->name;

			if (*name == '.')
				continue;
			switch (thread_dying(name)) {
			case 0:
				return 0;
			case 1:
				seen = 1;
			}
		}
	return seen && !length;
}

static void watch(uint32_t marks_length)
{
	for (;;) {
		int moving = state() == GUARD_TAKING || state() == GUARD_LEAVING;	/* the holder says no word then */
		int look = moving || (is_on() && !info.detached && threads >= 0);
		int timed = state() == GUARD_HELD && page->timeout;
		int64_t left = timed ? until_deadline() : GUARD_LOOK;
		struct timespec wait = { 0 };
		sigset_t none;
		uint64_t times;

		if (look && left > GUARD_LOOK)
			left = GUARD_LOOK;
		if (left > 0)
			wait = (struct timespec){ left / 1000000000, left % 1000000000 };
		sigemptyset(&none);
		if (ppoll(polled, MARKS + marks, look || timed ? &wait : NULL, &none) < 0)
			for (unsigned int i = 0; i < MARKS + marks; i++)
				polled[i].revents = 0;
		/* A hold has begun, and has perhaps ended since: the state tells. */
		if (polled[TIMER].revents && read(polled[TIMER].fd, &times, sizeof times) < 0)
			errno = 0;
		/* What the holder asked for counts, even if it has died since. */
		if (polled[COMMANDS].revents)
			obey(marks_length);
		if (told_to_end || polled[HOLDER].revents || (look && is_on() && threads >= 0 && holder_dying())) {
			holder_failed();
			_exit(0);
		}
		if (is_on() && page->timeout && until_deadline() <= 0) {
			holder_failed();
			if (info.detached)
				_exit(0);
			continue;
		}
		for (unsigned int i = 0; i < marks; i++)
			if (polled[MARKS + i].revents)
				tell_visitor(polled[MARKS + i].fd);
	}
}

/* The holder's threads in /proc, or -1. The pidfd's own number there is right whichever pid namespace /proc shows. */
static int open_threads(void)
{
	char text[512], path[32], *pid;
	int fd = open("/proc/self/fdinfo/1", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	if (length <= 0)
		return -1;
	text[length] = 0;
	pid = strstr(text, "\nPid:");
	if (!pid || atoi(pid + 5) <= 0)
		return -1;
	snprintf(path, sizeof path, "/proc/%d/task", atoi(pid + 5));
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Whether these are messages about qdiscs, one after the other, and nothing else. */
static int well_formed(const struct batch *batch)
{
	size_t at = 0, left;

	while ((left = batch->length - at) >= NLMSG_LENGTH(sizeof(struct tcmsg))) {
		size_t length = ((struct nlmsghdr *)(batch->messages + at))->nlmsg_len;

		/* NLMSG_ALIGN() makes 0 of the largest lengths. */
		if (length < NLMSG_LENGTH(sizeof(struct tcmsg)) || length > left || NLMSG_ALIGN(length) > left)
			return 0;
		at += NLMSG_ALIGN(length);
	}
	return at && at == batch->length;
}

/* Whether these are names that a socket can have, each with its NUL. */
static int well_named(const char *names, size_t length)
{
	size_t size;

	for (const char *end = names + length; names < end; names += size + 1) {
		size = strnlen(names, end - names);
		if (!size || size >= sizeof ((struct sockaddr_un *)0)->sun_path || size == (size_t)(end - names))
			return 0;
	}
	return 1;
}

/* The page says that the guard is there, until the kernel takes that away, however the guard ends. */
static void show_life(void)
{
	static struct robust_list_head list;

	list.list.next = (struct robust_list *)&page->alive_entry;
	list.futex_offset = offsetof(struct guard_page, alive) - offsetof(struct guard_page, alive_entry);
	memcpy(&page->alive_entry, &(struct robust_list *){ &list.list }, sizeof(struct robust_list *));
	if (!syscall(SYS_set_robust_list, &list, sizeof list))
		__atomic_store_n(&page->alive, syscall(SYS_gettid), __ATOMIC_RELEASE);
}

/* Take the configuration, and the page and the timer that may come with it; whether that worked. */
static int receive(size_t length)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec part = { .iov_base = config, .iov_len = length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof control };
	struct stat file;
	int came[2];
	void *shared = MAP_FAILED;

	if (recvmsg(COMMANDS, &message, MSG_CMSG_CLOEXEC) != (ssize_t)length)
		return 0;
	if (message.msg_controllen < CMSG_LEN(sizeof came) || control.header.cmsg_type != SCM_RIGHTS ||
	    control.header.cmsg_len != CMSG_LEN(sizeof came))
		return 1;
	memcpy(came, CMSG_DATA(&control.header), sizeof came);
	if (!fstat(came[0], &file) && file.st_size >= (off_t)sizeof *page) /* beyond its end a file cannot be read */
		shared = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, came[0], 0);
	close(came[0]);
	if (shared == MAP_FAILED)
		return 0;
	page = shared;
	timer = came[1];
	return 1;
}

/* Everything that can fail, before the answer that says it did not. */
static int prepare(const struct guard_config *head, ssize_t length)
{
	struct rlimit files;
	sigset_t only_in_ppoll;
	int score;

	if (length < (ssize_t)sizeof *head ||
	    (size_t)length != sizeof *head + (size_t)head->marks_length + head->release_length + head->drop_length)
		return EPROTO;
	release_batch = (struct batch){ config + sizeof *head, head->release_length };
	drop_batch = (struct batch){ release_batch.messages + head->release_length, head->drop_length };
	if (!well_formed(&release_batch) || !well_formed(&drop_batch) ||
	    !well_named(drop_batch.messages + drop_batch.length, head->marks_length))
		return EPROTO;
	info.holder = head->holder;
	info.guard = getpid();
	polled = calloc(MARKS + head->marks_length / 2, sizeof *polled);
	if (!polled)
		return ENOMEM;
	polled[COMMANDS] = (struct pollfd){ .fd = COMMANDS, .events = POLLIN };
	polled[HOLDER] = (struct pollfd){ .fd = HOLDER, .events = POLLIN };
	polled[TIMER] = (struct pollfd){ .fd = timer, .events = POLLIN };

	/*
	 * A service manager sends what ends a service to all its processes: SIGTERM, or SIGABRT where its watchdog finds
	 * that it hangs, or what its unit says. A fault of the guard's own ends it all the same: the kernel forces that.
	 */
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
	sigemptyset(&only_in_ppoll);
	sigaddset(&only_in_ppoll, SIGTERM);
	sigprocmask(SIG_SETMASK, &only_in_ppoll, NULL);
	if (chdir("/"))
		return errno;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;	/* a mark is a descriptor, and a group may have thousands of them */
		setrlimit(RLIMIT_NOFILE, &files);
	}

	/* Both need rights that the holder may not have; without them the guard works, a little less surely. */
	score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (score >= 0) {
		if (write(score, "-1000", 5) < 0)
			errno = 0;
		close(score);
	}
	mlockall(MCL_CURRENT | MCL_FUTURE);

	route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (route < 0)
		return errno;
	threads = open_threads();
	show_life();
	return permission();
}

int main(void)
{
	struct guard_config head = { 0 };
	struct guard_answer answer = { 0 };
	struct pollfd first[] = { { .fd = COMMANDS, .events = POLLIN }, { .fd = HOLDER, .events = POLLIN } };
	ssize_t length = 0;

	/* A child of the holder may keep its end of the conversation open after it. */
	if (poll(first, 2, -1) > 0 && first[COMMANDS].revents)
		length = recv(COMMANDS, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	config = length > 0 ? calloc(1, length) : NULL;
	if (!config || !receive(length))
		return 1;
	memcpy(&head, config, (size_t)length < sizeof head ? (size_t)length : sizeof head);
	answer.error = prepare(&head, length);
	send(COMMANDS, &answer, sizeof answer, MSG_NOSIGNAL);
	if (answer.error)
		return 1;
	watch(head.marks_length);
}
