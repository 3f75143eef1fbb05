/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The holder's side in C: libnlplug_spawn() starts a program beside this process that is not this process's child, and
 * libnlplug_ask() asks it something.
 *
 *	caller --clone--> middle --clone--> program		middle ends at once, so the program is init's child
 *
 * A direct child would surprise a caller that handles SIGCHLD or calls wait(): exec sets a child's exit signal to
 * SIGCHLD. The middle does not exec, and its exit signal is 0: no signal is sent for it, and only a wait that asks for
 * such children (__WCLONE) sees it. Both clones borrow the caller's memory until the program is loaded, as vfork does:
 * the price does not grow with the caller, and only the calling thread stands still. A caller that is a child subreaper
 * is none for that moment. PID 1 gets the program as its child all the same; guard/client.py says what that means.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434	/* on every architecture, for C libraries whose headers are older than Linux 5.3 */
#endif

enum { STACK = 64 * 1024 };

struct spawn {
	const char *path;
	char *const *argv;
	int fds[2];
	char *stack;
	volatile pid_t pid;
	volatile int error;
};

/*
 * The program has the caller's rights. One that the caller was given without being root would be lost at exec: hand
 * CAP_NET_ADMIN on. One that it has given up, if for a while, comes back to root at exec, unless it is forgone here.
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
	data[CAP_TO_INDEX(CAP_NET_ADMIN)].inheritable |=
		data[CAP_TO_INDEX(CAP_NET_ADMIN)].effective & CAP_TO_MASK(CAP_NET_ADMIN);
	if (!syscall(SYS_capset, &header, data))
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0);
}

static int program(void *arg)
{
	static char *const nothing[] = { NULL };
	struct spawn *spawn = arg;
	int first, second;

	setsid();
	keep_rights();
	first = fcntl(spawn->fds[0], F_DUPFD_CLOEXEC, 3);
	second = fcntl(spawn->fds[1], F_DUPFD_CLOEXEC, 3);
	if (first >= 0 && second >= 0 && dup2(first, 0) == 0 && dup2(second, 1) == 1)
		execve(spawn->path, spawn->argv, nothing);
	spawn->error = errno;
	_exit(127);
}

static int middle(void *arg)
{
	struct spawn *spawn = arg;

	spawn->pid = clone(program, spawn->stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, spawn);
	if (spawn->pid < 0)
		spawn->error = errno;
	_exit(0);
}

/*
 * Where the caller has unshared its pid namespace for its children, its next child becomes PID 1 of that. It must not be
 * the middle, which ends: make children in the caller's own namespace until undone. 0, or an errno and nothing done.
 */
static int use_own_pid_namespace(int *other)
{
	static const char own_name[] = "/proc/thread-self/ns/pid", name[] = "/proc/thread-self/ns/pid_for_children";
	char own[64] = "", children[64] = "";
	int fd, done;

	*other = -1;
	if (readlink(own_name, own, sizeof own - 1) <= 0 ||
	    (readlink(name, children, sizeof children - 1) < 0 && errno != ENOENT) || !strcmp(own, children))
		return 0;
	*other = *children ? open(name, O_RDONLY | O_CLOEXEC) : -2;
	fd = *other == -1 ? -1 : open(own_name, O_RDONLY | O_CLOEXEC);
	done = fd < 0 ? errno : setns(fd, CLONE_NEWPID) ? errno : 0;
	if (fd >= 0)
		close(fd);
	if (done && *other >= 0)
		close(*other);
	*other = done ? -1 : *other;
	return done;
}

static void undo_own_pid_namespace(int other)
{
	if (other == -2)
		unshare(CLONE_NEWPID);	/* nobody was in the one before, and nobody can have entered it: it was as good as none */
	if (other < 0)
		return;
	setns(other, CLONE_NEWPID);
	close(other);
}

/*
 * Start ``path`` with ``commands`` as its descriptor 0, a pidfd of the calling process as 1, and what has no
 * close-on-exec flag. It keeps the calling thread's namespaces. Returns its pid, or a negative errno, and in *step what
 * failed: no descriptor or process is left behind then.
 */
int libnlplug_spawn(const char *path, char *const argv[], int commands, const char **step)
{
	struct spawn spawn = { .path = path, .argv = argv, .fds = { commands, -1 } };
	char *stacks = MAP_FAILED;
	int reaper = 0, other = -1;
	sigset_t all, before;
	pid_t pid;

	*step = "pidfd_open";
	spawn.fds[1] = syscall(SYS_pidfd_open, getpid(), 0);
	if (spawn.fds[1] < 0)
		return -errno;
	*step = "mmap";
	stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stacks == MAP_FAILED) {
		spawn.error = errno;
	} else {
		*step = "setns";
		spawn.error = use_own_pid_namespace(&other);
	}
	if (!spawn.error) {
		/*
		 * A handler of the caller's must not run in the borrowed memory. (sigprocmask() means the calling thread alone on
		 * Linux; pthread_sigmask() is the same, but glibc's newer version of it would bind the module to glibc 2.32.)
		 */
		*step = "clone and exec";
		spawn.stack = stacks + STACK;
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, &before);
		prctl(PR_GET_CHILD_SUBREAPER, &reaper, 0, 0, 0);
		if (reaper)
			prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
		pid = clone(middle, stacks + STACK, CLONE_VM | CLONE_VFORK, &spawn);
		if (pid < 0)
			spawn.error = errno;
		else
			while (waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR)
				;
		if (reaper)
			prctl(PR_SET_CHILD_SUBREAPER, reaper, 0, 0, 0);
		undo_own_pid_namespace(other);
		sigprocmask(SIG_SETMASK, &before, NULL);
	}
	if (stacks != MAP_FAILED)
		munmap(stacks, 2 * STACK);
	close(spawn.fds[1]);
	return spawn.error ? -spawn.error : spawn.pid;
}

/*
 * Ask and take the answer: how many bytes it has, 0 where the other end is closed, or a negative errno. In one call, so
 * that no signal handler of Python's comes between the two. How long either may take is for the socket's options to say.
 */
long libnlplug_ask(int fd, const void *question, size_t size, void *answer, size_t room)
{
	ssize_t done;

	do
		done = send(fd, question, size, MSG_NOSIGNAL);
	while (done < 0 && errno == EINTR);
	while (done >= 0 && (done = recv(fd, answer, room, 0)) < 0 && errno == EINTR)
		done = 0;
	return done < 0 ? -errno : done;
}
