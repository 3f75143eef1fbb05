/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One exchange after the other with a peer that is not the kernel, for the sanitizers; links are read by libnl. */
#include "cases.h"
#include "../libnlplug/exchange.c"
#include <linux/rtnetlink.h>

static void read_link(const struct nlmsghdr *header)
{
	char *copy = malloc(header->nlmsg_len); /* nothing of what follows it */
	struct nl_object *object = libnlplug_object(memcpy(copy, header, header->nlmsg_len));

	if (object)
		nl_object_put(object);
	free(copy);
}

int main(void)
{
	static const struct nlmsghdr request = { .nlmsg_len = sizeof request, .nlmsg_seq = 1 };
	FILE *cases = fdopen(dup(0), "rb");
	int pair[2];

	for (;;) {
		struct libnlplug_answer *answer;
		struct libnlplug_line *line;

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			return 3;
		if (!next_case(cases, pair[1]))
			return 0;
		line = libnlplug_line_new(pair[0]);
		answer = libnlplug_exchange(line, (const char *)&request, sizeof request, 1);
		if (answer) {
			const struct nlmsghdr *header = (const struct nlmsghdr *)answer->messages;
			ssize_t left = answer->length;

			for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left))
				if (header->nlmsg_type == RTM_NEWLINK)
					read_link(header);
			libnlplug_answer_free(answer);
		}
		libnlplug_line_free(line);
		close(pair[0]);
		close(pair[1]);
	}
}
