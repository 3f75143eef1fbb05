/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One exchange after the other with a peer that is not the kernel, for the sanitizers, and the reading of what came. */
#define _GNU_SOURCE
#include "cases.h"
#include "../../libnlplug/netlink/exchange.c"

static void read_both(const struct nlmsghdr *header)
{
	char *copy = memcpy(malloc(header->nlmsg_len), header, header->nlmsg_len); /* nothing of what follows it */
	struct libnlplug_qdisc qdisc;
	struct libnlplug_link link;

	if (libnlplug_read_qdisc(copy, header->nlmsg_len, &qdisc) && strlen(qdisc.kind) >= sizeof qdisc.kind)
		abort();
	if (libnlplug_read_link(copy, header->nlmsg_len, &link) && strlen(link.name) >= sizeof link.name)
		abort();
	free(copy);
}

int main(void)
{
	static const struct nlmsghdr request = { .nlmsg_len = sizeof request, .nlmsg_seq = 1 };
	const struct nlmsghdr both[] = { request, request };
	FILE *cases = fdopen(dup(0), "rb");
	int pair[2];

	for (int odd = 0;; odd = !odd) {
		struct libnlplug_answer *answer;
		struct libnlplug_line *line;

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			return 3;
		if (!next_case(cases, pair[1]))
			return 0;
		line = libnlplug_line_new(pair[0]);
		if (odd)
			answer = libnlplug_exchange(line, (const char *)both, sizeof both, 1);
		else
			answer = libnlplug_exchange(line, (const char *)&request, sizeof request, 1);
		if (answer) {
			const struct nlmsghdr *header = (const struct nlmsghdr *)answer->messages;
			ssize_t left = answer->length;

			for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left))
				read_both(header);
			libnlplug_answer_free(answer);
		}
		libnlplug_line_free(line);
		close(pair[0]);
		close(pair[1]);
	}
}
