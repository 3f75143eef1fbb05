/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guard inside one process, case after case, for the sanitizers: guard.c as it is, but for its start. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include "cases.h"

#define main guard_main
#define signal(number, action) ((void)(number), (void)(action))
#include "../../libnlplug/guard/guard.c"
#undef main

static void forget(void)
{
	remove_marks();
	if (polled && polled[VISITOR].fd > HOLDER)
		close(polled[VISITOR].fd);
	free(polled);
	free(plugs);
	free(config);
	close(route);
	close(events);
	close(threads);
	polled = NULL;
	plugs = NULL;
	config = NULL;
	route = events = threads = -1;
	info = (struct guard_info){ 0 };
	hold = (struct guard_question){ 0 };
	last = (struct guard_answer){ 0 };
	state = IDLE;
	count = tries = asked = leaving = links_known = 0;
	lost = lost_at = 0;
	holder_stack = 0;
}

int main(void)
{
	FILE *cases = fdopen(dup(0), "rb");
	int pair[2];

	dup2(syscall(SYS_pidfd_open, getpid(), 0), HOLDER);
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
