// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The floor: what a toggle costs when nothing is done but what must be. Two messages are made beforehand; a toggle is
 * one send and one recv, and nobody looks at more of the answer than its error.
 *
 *	floor DEV HANDLE [pfifo]	then on standard input: toggle N	buffer and release_indefinite, N times
 *
 * With pfifo, for a kernel without plugs: a pfifo whose limit becomes 100, then 101.
 *
 *   cc -O2 floor.c -o floor
 */
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

struct request {
	struct nlmsghdr header;
	struct tcmsg place;
	struct rtattr kind_attribute;
	char kind[8];
	struct rtattr options_attribute;
	struct tc_plug_qopt options;
};

static void make_pfifo(struct request *request, unsigned int limit)
{
	struct tc_fifo_qopt options = { limit };

	strcpy(request->kind, "pfifo");
	request->kind_attribute.rta_len = RTA_LENGTH(sizeof "pfifo");
	memcpy(&request->options, &options, sizeof options);
	request->options_attribute.rta_len = RTA_LENGTH(sizeof options);
	request->header.nlmsg_len -= sizeof request->options - sizeof options;
}

static void fill(struct request *request, int ifindex, unsigned int handle, int action)
{
	*request = (struct request){
		.header = { .nlmsg_len = sizeof *request, .nlmsg_type = RTM_NEWQDISC, .nlmsg_seq = 1,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.place = { .tcm_ifindex = ifindex, .tcm_handle = handle, .tcm_parent = TC_H_ROOT },
		.kind_attribute = { RTA_LENGTH(sizeof "plug"), TCA_KIND },
		.kind = "plug",
		.options_attribute = { RTA_LENGTH(sizeof request->options), TCA_OPTIONS },
		.options = { .action = action },
	};
}

static int carry_out(int fd, const struct request *request)
{
	char answer[512];

	if (send(fd, request, sizeof *request, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0)
		return -1;
	return ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
}

int main(int argc, char **argv)
{
	struct request buffer, release;
	unsigned long times;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

	if (argc < 3 || fd < 0)
		return 2;
	fill(&buffer, if_nametoindex(argv[1]), strtoul(argv[2], NULL, 16) << 16, TCQ_PLUG_BUFFER);
	fill(&release, buffer.place.tcm_ifindex, buffer.place.tcm_handle, TCQ_PLUG_RELEASE_INDEFINITE);
	if (argc > 3) {
		make_pfifo(&buffer, 100);
		make_pfifo(&release, 101);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf(" toggle %lu", &times) == 1) {
		int error = 0;

		while (!error && times--)
			error = carry_out(fd, &buffer) || carry_out(fd, &release);
		printf("%d\n", error);
	}
	return 0;
}
