/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guard inside one process, case after case, for the sanitizers: guard.c as it is, but for how it ends. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include "cases.h"

static jmp_buf over;

#define main guard_main
#define _exit(status) longjmp(over, 1)
#define signal(number, action) ((void)(number), (void)(action))
#define mlockall(flags) ((void)(flags))
#define write(fd, text, length) ((void)(fd), (ssize_t)(length)) /* to oom_score_adj: this process is not to be spared */
#include "../../libnlplug/guard/guard.c"
#undef main
#undef _exit
#undef write

static void forget(void)
{
	remove_marks();
	free(polled);
	free(config);
	close(route);
	close(threads);
	polled = NULL;
	config = NULL;
	route = threads = -1;
	info = (struct guard_info){ 0 };
	own_page = (struct guard_page){ 0 };
	expiry_error = 0;
	release_batch = drop_batch = (struct batch){ 0 };
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
		if (!setjmp(over))
			guard_main();
		forget();
	}
}
