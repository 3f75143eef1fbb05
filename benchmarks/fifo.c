// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The C original's way, for a kernel without plugs: libnl changes the limit of a pfifo to 100 and 101 in turn, by
 * rtnl_qdisc_add() as the original's toggle does.
 *
 *	fifo DEV HANDLE		then on standard input: toggle N	both changes, N times
 *
 *   cc -O2 fifo.c -o fifo $(pkg-config --cflags --libs libnl-route-3.0)
 */
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>

#include <netlink/netlink.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/fifo.h>
#include <netlink/route/tc.h>

static struct nl_sock *sock;
static struct rtnl_qdisc *fifo;

static int change(int limit)
{
	rtnl_qdisc_fifo_set_limit(fifo, limit);
	return rtnl_qdisc_add(sock, fifo, 0);
}

int main(int argc, char **argv)
{
	unsigned long times;

	if (argc != 3)
		return 2;
	sock = nl_socket_alloc();
	if (!sock || nl_connect(sock, NETLINK_ROUTE) < 0)
		return 2;
	fifo = rtnl_qdisc_alloc();
	rtnl_tc_set_ifindex(TC_CAST(fifo), if_nametoindex(argv[1]));
	rtnl_tc_set_parent(TC_CAST(fifo), TC_H_ROOT);
	rtnl_tc_set_handle(TC_CAST(fifo), strtoul(argv[2], NULL, 16) << 16);
	rtnl_tc_set_kind(TC_CAST(fifo), "pfifo");
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf(" toggle %lu", &times) == 1) {
		int error = 0;

		while (!error && times--)
			error = change(100) || change(101);
		printf("%d\n", error);
	}
	return 0;
}
