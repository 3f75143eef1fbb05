/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether guards alone keep this network namespace alive. The kernel does not tell who refers to a namespace, so this
 * looks for threads in it, descriptors of it, and mounts of it ('ip netns add' makes one). It looks at every process,
 * but only at its own mount namespace's mounts. It does not see the sockets of a process in another namespace. If it
 * may not look at everything, it says no: only root in the first pid namespace sees all processes.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "namespace.h"

#define FIRST_PID_NAMESPACE 0xEFFFFFFCU		/* PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h */

static char wanted[64], program[4096];		/* "net:[number]", and the guard's own program */

/* Whether a symbolic link has this text. That of an ended process has not. One that cannot be read counts as if it had. */
static int says(int folder, const char *link, const char *text)
{
	char found[sizeof program];
	ssize_t length = readlinkat(folder, link, found, sizeof found);

	if (length < 0)
		return errno != ENOENT && errno != ESRCH;
	return (size_t)length == strlen(text) && !memcmp(found, text, length);
}

/* Whether ``test`` is true for an entry of the folder. */
static int any(int at, const char *name, int (*test)(int folder, const char *entry))
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = 0;
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!folder) {
		found = errno != ENOENT && errno != ESRCH;
		if (fd >= 0)
			close(fd);
		return found;
	}
	while (!found && (entry = readdir(folder)))
		found = isdigit((unsigned char)*entry->d_name) && test(dirfd(folder), entry->d_name);
	closedir(folder);
	return found;
}

/* A descriptor of a mount of the namespace has the mount's name in /proc/PID/fd, so look at its inode in fdinfo. */
static int descriptor_refers(int folder, const char *fd)
{
	int file = openat(folder, fd, O_RDONLY | O_CLOEXEC);
	char text[256] = "";
	const char *inode;

	if (file < 0 || read(file, text, sizeof text - 1) < 0)
		inode = errno == ENOENT || errno == ESRCH ? "ino:0" : NULL;
	else
		inode = strstr(text, "ino:");	/* since Linux 5.14; without it, any descriptor may refer */
	if (file >= 0)
		close(file);
	return !inode || strtoull(inode + 4, NULL, 10) == strtoull(wanted + strlen("net:["), NULL, 10);
}

static int thread_refers(int folder, const char *tid)
{
	char path[300];

	snprintf(path, sizeof path, "%s/ns/net", tid);
	return says(folder, path, wanted);
}

static int process_refers(int folder, const char *pid)
{
	char exe[300], task[300], fdinfo[300];

	snprintf(exe, sizeof exe, "%s/exe", pid);
	snprintf(task, sizeof task, "%s/task", pid);
	snprintf(fdinfo, sizeof fdinfo, "%s/fdinfo", pid);
	return !says(folder, exe, program) &&
	       (any(folder, task, thread_refers) || any(folder, fdinfo, descriptor_refers));
}

static int is_mounted(void)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	int found = !mounts;
	char line[8192];

	while (!found && fgets(line, sizeof line, mounts))
		found = strstr(line, wanted) != NULL;
	if (mounts)
		fclose(mounts);
	return found;
}

int namespace_is_abandoned(void)
{
	struct stat pids;

	memset(wanted, 0, sizeof wanted);
	memset(program, 0, sizeof program);
	return !geteuid() && !stat("/proc/self/ns/pid", &pids) && pids.st_ino == FIRST_PID_NAMESPACE &&
	       readlink("/proc/self/ns/net", wanted, sizeof wanted - 1) > 0 &&
	       readlink("/proc/self/exe", program, sizeof program - 1) > 0 &&
	       !is_mounted() && !any(AT_FDCWD, "/proc", process_refers);
}
