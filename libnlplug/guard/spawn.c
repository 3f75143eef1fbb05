/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The holder's side in C: libnlplug_spawn() starts a program that is not a child of this process, and libnlplug_ask()
 * asks it a question.
 *
 *	caller --clone--> middle --vfork--> program		middle ends at once, so the program is init's child
 *
 * A direct child would surprise a caller that handles SIGCHLD or calls wait(), because exec sets a child's exit signal
 * to SIGCHLD. The middle does not exec, and its exit signal is 0: only a wait with __WCLONE sees it. Both borrow the
 * caller's memory until the program is loaded: the cost does not grow with that memory, and only the calling thread
 * waits. A caller that is a child subreaper stops being one for that moment. If the caller is PID 1, the program becomes
 * its child anyway; see guard/client.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/capability.h>

enum { STACK = 128 * 1024 };

struct spawn {
	const char *path;
	char *const *argv;
	int commands;
	volatile int pid, error;
};

/*
 * Give the program the caller's rights. exec would take CAP_NET_ADMIN from a user who has it, so hand it on. exec would
 * also give root the rights back that it has given up for a time, so give them up for good.
 */
static void keep_rights(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_capget, &header, data))
		return;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		data[i].permitted = data[i].effective;
	data[0].inheritable |= data[0].effective & CAP_TO_MASK(CAP_NET_ADMIN);
	if (!syscall(SYS_capset, &header, data))
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0);
}

static int middle(void *arg)
{
	static char *const nothing[] = { NULL };
	struct spawn *spawn = arg;

	spawn->pid = vfork();
	if (!spawn->pid) {
		setsid();
		keep_rights();
		if (!dup2(spawn->commands, 0) && !fcntl(0, F_SETFD, 0))
			execve(spawn->path, spawn->argv, nothing);
	}
	if (spawn->pid <= 0)
		spawn->error = errno;
	_exit(0);
}

/*
 * Start the program ``path`` with ``commands`` as its descriptor 0. It inherits the descriptors without close-on-exec
 * flag, and the calling thread's namespaces. Return its pid, or a negative errno if no process was started.
 */
int libnlplug_spawn(const char *path, char *const argv[], int commands)
{
	struct spawn spawn = { .path = path, .argv = argv, .commands = commands };
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	sigset_t all, before;
	int reaper = 0, pid;

	if (stack == MAP_FAILED)
		return -errno;
	/*
	 * The caller's signal handlers must not run in the borrowed memory. (On Linux, sigprocmask() is for the calling
	 * thread. glibc's newer pthread_sigmask() would bind the module to glibc 2.32.)
	 */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	prctl(PR_GET_CHILD_SUBREAPER, &reaper, 0, 0, 0);
	if (reaper)
		prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
	pid = clone(middle, stack + STACK, CLONE_VM | CLONE_VFORK, &spawn);
	if (pid < 0)
		spawn.error = errno;
	while (pid > 0 && waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR)
		;
	if (reaper)
		prctl(PR_SET_CHILD_SUBREAPER, reaper, 0, 0, 0);
	sigprocmask(SIG_SETMASK, &before, NULL);
	munmap(stack, STACK);
	return spawn.error ? -spawn.error : spawn.pid;
}

/*
 * Return whether the time of SO_RCVTIMEO is over since ``first``, which is 0 before. A wait that a signal interrupts begins
 * anew, so a program's timer could make it last for ever.
 */
static int is_late(int fd, time_t *first)
{
	struct timespec now;
	struct timeval limit = { 0 };
	socklen_t size = sizeof limit;

	clock_gettime(CLOCK_MONOTONIC, &now);
	*first = *first ? *first : now.tv_sec;
	getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size);
	return limit.tv_sec && now.tv_sec - *first > limit.tv_sec;
}

/*
 * Send a question and receive the answer. Return its length in bytes, 0 if the other end is closed, or a negative errno.
 * This is one call, so that no Python signal handler runs between the two. The socket's options limit the time of each.
 */
long libnlplug_ask(int fd, const void *question, size_t size, void *answer, size_t room)
{
	time_t first = 0;
	ssize_t done;

	while ((done = send(fd, question, size, MSG_NOSIGNAL)) < 0 && errno == EINTR)
		;
	while (done >= 0 && (done = recv(fd, answer, room, 0)) < 0 && errno == EINTR && !is_late(fd, &first))
		done = 0;
	return done < 0 ? -errno : done;
}
