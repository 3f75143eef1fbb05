/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The holder's side in C: libnlplug_spawn() starts a program beside this process that is not this process's child, and
 * libnlplug_ask() asks it something.
 *
 *	caller --clone--> middle --vfork--> program		middle ends at once, so the program is init's child
 *
 * A direct child would surprise a caller that handles SIGCHLD or calls wait(), because exec sets a child's exit signal
 * to SIGCHLD. The middle does not exec, and its exit signal is 0: only a wait with __WCLONE sees it. Both borrow the
 * caller's memory until the program is loaded: the price does not grow with the caller, and only the calling thread
 * waits. A child subreaper is none for that moment. To PID 1 the program is a child all the same; see guard/client.py.
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
#include <sys/wait.h>
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
 * The program gets the caller's rights. exec would take CAP_NET_ADMIN from a user who has it, so hand it on. It would
 * give root back what root has given up for now, so give that up for good.
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
 * Start ``path`` with ``commands`` as its descriptor 0, and with what has no close-on-exec flag. It keeps the calling
 * thread's namespaces. Returns its pid, or a negative errno: no process is left behind then.
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
 * Ask and take the answer: its length in bytes, 0 if the other end is closed, or a negative errno. One call, so that no
 * signal handler of Python's runs between the two. The socket's options say how long either may take.
 */
long libnlplug_ask(int fd, const void *question, size_t size, void *answer, size_t room)
{
	ssize_t done;

	while ((done = send(fd, question, size, MSG_NOSIGNAL)) < 0 && errno == EINTR)
		;
	while (done >= 0 && (done = recv(fd, answer, room, 0)) < 0 && errno == EINTR)
		done = 0;
	return done < 0 ? -errno : done;
}
