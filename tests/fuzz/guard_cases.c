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
	if (polled && polled[VISITOR].fd > HOLDER)
		close(polled[VISITOR].fd);
	free(polled);
	free(plugs);
	free(errors);
	free(config);
	if (sk > HOLDER)
		close(sk);
	if (holder_stat > HOLDER)
		close(holder_stat);
	close(HOLDER);
	polled = NULL;
	plugs = NULL;
	errors = NULL;
	config = NULL;
	sk = holder_stat = 0;
	address.nl_pid = 0;
	hold = (struct guard_question){ 0 };
	last = (struct guard_answer){ 0 };
	state = IDLE;
	count = tries = asked = leaving = links_known = 0;
	holder_stack = 0;
}

int main(void)
{
	FILE *cases = fdopen(fcntl(0, F_DUPFD, 10), "rb");
	int pair[2];

	close(HOLDER);
	for (;;) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			return 3;
		dup2(pair[0], COMMANDS);
		close(pair[0]);
		if (!next_case(cases, pair[1]))
			return 0;
		close(pair[1]);
		close(HOLDER);
		serve();
		forget();
	}
}
