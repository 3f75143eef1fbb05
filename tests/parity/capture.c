// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program: writes down what it sends on NETLINK_ROUTE sockets, before the kernel sees it. Each send is
 * one line of hexadecimal digits at the end of the file that CAPTURE_FILE names.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/netlink.h>

static int is_route(int fd)
{
	int domain = -1, protocol = -1;
	socklen_t size = sizeof(int);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
	getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size);
	return domain == AF_NETLINK && protocol == NETLINK_ROUTE;
}

static void write_down(int fd, const struct iovec *parts, size_t count)
{
	const char *name = getenv("CAPTURE_FILE");
	int before = errno;
	FILE *file;

	if (name && is_route(fd)) {
		file = fopen(name, "ae");
		if (!file)
			abort();
		for (size_t i = 0; i < count; i++)
			for (size_t j = 0; j < parts[i].iov_len; j++)
				fprintf(file, "%02x", ((const unsigned char *)parts[i].iov_base)[j]);
		fputc('\n', file);
		fclose(file);
	}
	errno = before;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");

	write_down(fd, message->msg_iov, message->msg_iovlen);
	return real(fd, message, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t to_size)
{
	ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");

	write_down(fd, &(struct iovec){ (void *)data, size }, 1);
	return real(fd, data, size, flags, to, to_size);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
	ssize_t (*real)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");

	write_down(fd, &(struct iovec){ (void *)data, size }, 1);
	return real(fd, data, size, flags);
}
