/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug_spawn(): start a program beside this process that is not this process's child.
 *
 *	caller --clone--> middle --clone--> program		middle ends at once, so the program is init's child
 *
 * A direct child would surprise a caller that handles SIGCHLD or calls wait(): exec sets a child's exit signal to
 * SIGCHLD. The middle does not exec, and its exit signal is 0: no signal is sent for it, and only a wait that asks for
 * such children (__WCLONE) sees it. Both clones borrow the caller's memory until the program is loaded, as vfork does:
 * the price does not grow with the caller, and only the calling thread stands still.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

/* Numbers that every architecture shares, for C libraries whose headers are older than the calls (5.3 and 5.9). */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
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

/* A right that the caller was given without being root would be lost at exec: hand CAP_NET_ADMIN on. */
static void keep_net_admin(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (geteuid() == 0 || syscall(SYS_capget, &header, data))
		return;
	data[CAP_TO_INDEX(CAP_NET_ADMIN)].inheritable |= CAP_TO_MASK(CAP_NET_ADMIN);
	if (!syscall(SYS_capset, &header, data))
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0);
}

static void close_from(int first)
{
	if (!syscall(SYS_close_range, first, ~0U, 0))
		return;
	for (int fd = first, end = sysconf(_SC_OPEN_MAX); fd < end; fd++)
		close(fd);
}

static int program(void *arg)
{
	static char *const nothing[] = { NULL };
	struct spawn *spawn = arg;
	int moved[2];

	setsid();
	keep_net_admin();
	for (int i = 0; i < 2; i++) {
		moved[i] = fcntl(spawn->fds[i], F_DUPFD, 3);
		if (moved[i] < 0)
			goto failed;
	}
	for (int i = 0; i < 2; i++)
		if (dup2(moved[i], i) < 0)
			goto failed;
	close_from(2);
	execve(spawn->path, spawn->argv, nothing);
failed:
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
 * Start ``path`` with ``commands`` as its descriptor 0, a pidfd of the calling process as 1, and nothing else. It keeps
 * the calling thread's namespaces. Returns its pid, or a negative errno: no descriptor or process is left behind then.
 */
int libnlplug_spawn(const char *path, char *const argv[], int commands)
{
	struct spawn spawn = { .path = path, .argv = argv, .fds = { commands, -1 } };
	sigset_t all, before;
	char *stacks;
	pid_t pid;

	spawn.fds[1] = syscall(SYS_pidfd_open, getpid(), 0);
	if (spawn.fds[1] < 0)
		return -errno;
	stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stacks == MAP_FAILED) {
		spawn.error = errno;
		close(spawn.fds[1]);
		return -spawn.error;
	}
	spawn.stack = stacks + STACK;

	/*
	 * A handler of the caller's must not run in the borrowed memory. (sigprocmask() means the calling thread alone on
	 * Linux; pthread_sigmask() is the same, but glibc's newer version of it would bind the module to glibc 2.32.)
	 */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = clone(middle, stacks + STACK, CLONE_VM | CLONE_VFORK, &spawn);
	if (pid < 0)
		spawn.error = errno;
	else
		while (waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR)
			;
	sigprocmask(SIG_SETMASK, &before, NULL);

	munmap(stacks, 2 * STACK);
	close(spawn.fds[1]);
	return spawn.error ? -spawn.error : spawn.pid;
}
