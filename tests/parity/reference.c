// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What haproxy's plug_qdisc.c does, as a program: the same calls of libnl and libnl-cli in the same order, told apart
 * by nothing but the words around them. tests/parity compares libnlplug.plug_qdisc with it, benchmarks/ its cost.
 *
 *   reference COMMAND...        each argument is one command; without arguments each line of standard input is
 *
 *   init                        a new socket, link cache and qdisc object; the old ones are left behind
 *   attach DEV PARENT ID LIMIT  ID is - for none; LIMIT is in bytes
 *   buffer
 *   release                     release_indefinite
 *   toggle N                    buffer and release, N times or up to the first failure
 *
 * One line is printed per command: what the function returned. As in the original, libnl-cli ends the process where it
 * cannot read an argument, and so does a buffer or a release before the first attach.
 *
 *   cc reference.c -o reference $(pkg-config --cflags --libs libnl-cli-3.0 libnl-route-3.0)
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <netlink/cli/link.h>
#include <netlink/cli/qdisc.h>
#include <netlink/cli/tc.h>
#include <netlink/cli/utils.h>
#include <netlink/netlink.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>

static struct nl_sock *sock;
static struct nl_cache *links;
static struct rtnl_qdisc *plug;

static int init(void)
{
	sock = nl_cli_alloc_socket();
	nl_cli_connect(sock, NETLINK_ROUTE);
	links = nl_cli_link_alloc_cache(sock);
	plug = nl_cli_qdisc_alloc();
	return 0;
}

static int buffer(void)
{
	rtnl_qdisc_plug_buffer(plug);
	return rtnl_qdisc_add(sock, plug, 0);
}

static int release(void)
{
	rtnl_qdisc_plug_release_indefinite(plug);
	return rtnl_qdisc_add(sock, plug, 0);
}

static int attach(char *device, char *parent, char *id, uint32_t limit)
{
	struct rtnl_tc *tc;
	int error;

	if (!plug)
		init();
	tc = TC_CAST(plug);

	nl_cli_tc_parse_dev(tc, links, device);
	nl_cli_tc_parse_parent(tc, parent);
	if (rtnl_tc_get_ifindex(tc) == 0 || rtnl_tc_get_parent(tc) == 0)
		return -1;
	if (id)
		nl_cli_tc_parse_handle(tc, id, 1);
	rtnl_tc_set_kind(tc, "plug");
	if (limit)
		rtnl_qdisc_plug_set_limit(plug, limit);

	error = rtnl_qdisc_add(sock, plug, NLM_F_CREATE);
	if (error < 0) {
		fprintf(stderr, "reference: cannot attach a plug to %s: %s\n", device, nl_geterror(error));
		return -1;
	}
	release();
	return 0;
}

static int toggle(unsigned long times)
{
	int error = 0;

	while (error == 0 && times-- > 0) {
		error = buffer();
		if (error == 0)
			error = release();
	}
	return error;
}

static char *next_word(char **rest)
{
	char *word = strsep(rest, " ");

	if (!word) {
		fprintf(stderr, "reference: a command lacks an argument\n");
		exit(2);
	}
	return word;
}

static int carry_out(char *rest)
{
	char *command = next_word(&rest);

	if (!strcmp(command, "init"))
		return init();
	if (!strcmp(command, "buffer"))
		return buffer();
	if (!strcmp(command, "release"))
		return release();
	if (!strcmp(command, "toggle"))
		return toggle(strtoul(next_word(&rest), NULL, 10));
	if (!strcmp(command, "attach")) {
		char *device = next_word(&rest);
		char *parent = next_word(&rest);
		char *id = next_word(&rest);
		char *limit = next_word(&rest);

		return attach(device, parent, strcmp(id, "-") ? id : NULL, strtoul(limit, NULL, 10));
	}
	fprintf(stderr, "reference: no command '%s'\n", command);
	exit(2);
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t size = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++)
		printf("%d\n", carry_out(argv[i]));
	while (argc == 1 && getline(&line, &size, stdin) > 0) {
		line[strcspn(line, "\n")] = '\0';
		printf("%d\n", carry_out(line));
	}
	free(line);
	return 0;
}
