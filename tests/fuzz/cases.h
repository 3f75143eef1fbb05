/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cases that run.py made for a C file: each a number of datagrams. They come on standard input; the number of the
 * case that is being tried stands in the file of descriptor 3, for whoever finds this process dead.
 */
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int progress = 3;	/* a descriptor */

/* Put the next case's datagrams into ``socket``; 0 after the last case. */
static int next_case(FILE *cases, int socket)
{
	static uint64_t number;
	static char datagram[1 << 20];
	uint32_t count, length;

	if (fread(&count, sizeof count, 1, cases) != 1)
		return 0;
	if (pwrite(progress, &number, sizeof number, 0) < 0)
		exit(3);
	number++;
	while (count--) {
		if (fread(&length, sizeof length, 1, cases) != 1 || length > sizeof datagram ||
		    fread(datagram, 1, length, cases) != length)
			exit(3);
		send(socket, datagram, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	return 1;
}
