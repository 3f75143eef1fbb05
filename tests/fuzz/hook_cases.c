/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One question about nftables' chains after the other to a peer that is not the kernel, for the sanitizers. */
#define _GNU_SOURCE
#include "cases.h"

static int peer;

#define socket(domain, type, protocol) (peer)
#include "../../libnlplug/lane/hook.c"
#undef socket

int main(void)
{
	FILE *cases = fdopen(dup(0), "rb");
	int pair[2];

	for (;;) {
		char name[600];
		int found;

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			return 3;
		peer = pair[0];
		if (!next_case(cases, pair[1]))
			return 0;
		shutdown(pair[1], SHUT_WR); /* what has been sent still arrives, and nothing is waited for */
		found = libnlplug_ingress_chain("eth0", name, sizeof name);
		if (found > 1 || (found == 1 && !memchr(name, 0, sizeof name)))
			abort();
		close(pair[1]);
	}
}
