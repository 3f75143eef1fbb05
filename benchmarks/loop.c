// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The C original for many devices: a socket of libnl-cli's, a qdisc object for each device, and for each toggle of each
 * device the calls of haproxy's plug_qdisc.c, one device after the other.
 *
 *	loop DEV...	attaches a plug to each; then on standard input: buffer, release
 *
 *   cc -O2 loop.c -o loop $(pkg-config --cflags --libs libnl-cli-3.0 libnl-route-3.0)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <netlink/cli/link.h>
#include <netlink/cli/qdisc.h>
#include <netlink/cli/tc.h>
#include <netlink/cli/utils.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>

int main(int argc, char **argv)
{
	struct rtnl_qdisc **plugs = calloc(argc, sizeof *plugs);
	struct nl_sock *sock = nl_cli_alloc_socket();
	struct nl_cache *links;
	char line[32];

	nl_cli_connect(sock, NETLINK_ROUTE);
	links = nl_cli_link_alloc_cache(sock);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		struct rtnl_tc *tc;

		plugs[i] = nl_cli_qdisc_alloc();
		tc = TC_CAST(plugs[i]);
		nl_cli_tc_parse_dev(tc, links, argv[i]);
		nl_cli_tc_parse_parent(tc, "root");
		nl_cli_tc_parse_handle(tc, "504c:", 1);
		rtnl_tc_set_kind(tc, "plug");
		rtnl_qdisc_plug_set_limit(plugs[i], 1000000);
		if (rtnl_qdisc_add(sock, plugs[i], NLM_F_CREATE) < 0)
			return 1;
	}
	printf("0\n");
	while (fgets(line, sizeof line, stdin)) {
		int error = 0;

		for (int i = 1; i < argc && error == 0; i++) {
			if (line[0] == 'b')
				rtnl_qdisc_plug_buffer(plugs[i]);
			else
				rtnl_qdisc_plug_release_indefinite(plugs[i]);
			error = rtnl_qdisc_add(sock, plugs[i], 0);
		}
		printf("%d\n", error);
	}
	return 0;
}
