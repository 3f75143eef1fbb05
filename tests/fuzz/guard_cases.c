/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guard inside one process, case after case, for the sanitizers: guard.c as it is, but for its start. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include "cases.h"

#define main guard_main
#define signal(number, action) ((void)(number), (void)(action))
#include "../../libnlplug/guard/guard.c"
#include "../../libnlplug/guard/namespace.c"
#undef main

static void forget(void)
{
	remove_marks();
	free(polled);
	free(plugs);
	free(errors);
	free(config);
	polled = NULL;
	plugs = NULL;
	errors = NULL;
	config = NULL;
	hold = (struct guard_question){ 0 };
	last = (struct guard_answer){ 0 };
	count = held = leaving = links_known = 0;
	holder_stack = 0;
}

/* Give the guard a pidfd and a netlink socket, as its holder does; standard error stays where the holder's stat would be. */
static void give(void)
{
	struct sockaddr_nl name = { .nl_family = AF_NETLINK, .nl_pid = 1, .nl_groups = RTMGRP_LINK | RTMGRP_TC };

	progress = fcntl(3, F_DUPFD, 10);
	dup2(syscall(SYS_pidfd_open, getpid(), 0), HOLDER);
	dup2(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), NETLINK);
	if (bind(NETLINK, (struct sockaddr *)&name, sizeof name))
		exit(3);
}

int main(void)
{
	FILE *cases = fdopen(fcntl(0, F_DUPFD, 10), "rb");
	int pair[2];

	give();
	for (;;) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			return 3;
		dup2(pair[0], COMMANDS);
		close(pair[0]);
		if (!next_case(cases, pair[1]))
			return 0;
		close(pair[1]);
		serve();
		forget();
	}
}
