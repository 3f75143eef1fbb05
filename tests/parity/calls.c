// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Preloaded into a program: writes down the calls of libnl that make a plug, hold and release. Each call is one line at
 * the end of the file that CALLS_FILE names: the function, its arguments, and of a qdisc what it is attached to.
 *
 * CALLS_REFUSE=N: the Nth rtnl_qdisc_add() sends nothing and returns -NLE_NOMEM.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <netlink/errno.h>
#include <netlink/route/link.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>

static int inside;	/* libnl's functions call each other, and only the program's own calls count */

/* libnl's own function. The module of Python loads libnl for itself alone, where RTLD_NEXT does not look. */
static void *real(const char *name)
{
	void *library = dlopen("libnl-route-3.so.200", RTLD_LAZY | RTLD_NOLOAD);
	void *function = library ? dlsym(library, name) : NULL;

	if (!function)
		abort();
	return function;
}

static void write_down(const char *format, ...)
{
	const char *name = getenv("CALLS_FILE");
	FILE *file = name && !inside ? fopen(name, "ae") : NULL;
	va_list arguments;

	if (!file)
		return;
	va_start(arguments, format);
	vfprintf(file, format, arguments);
	va_end(arguments);
	fclose(file);
}

static int refused(void)
{
	static int calls;
	const char *which = getenv("CALLS_REFUSE");

	return which && ++calls == atoi(which);
}

/* libnl-cli gives the device as a link, the port as a number. */
void rtnl_tc_set_link(struct rtnl_tc *tc, struct rtnl_link *link)
{
	int (*index)(struct rtnl_link *) = real("rtnl_link_get_ifindex");
	void (*set)(struct rtnl_tc *, struct rtnl_link *) = real("rtnl_tc_set_link");

	write_down("device %d\n", index(link));
	inside++;
	set(tc, link);
	inside--;
}

void rtnl_tc_set_ifindex(struct rtnl_tc *tc, int ifindex)
{
	void (*set)(struct rtnl_tc *, int) = real("rtnl_tc_set_ifindex");

	write_down("device %d\n", ifindex);
	set(tc, ifindex);
}

void rtnl_tc_set_parent(struct rtnl_tc *tc, uint32_t parent)
{
	void (*set)(struct rtnl_tc *, uint32_t) = real("rtnl_tc_set_parent");

	write_down("rtnl_tc_set_parent %x\n", parent);
	set(tc, parent);
}

void rtnl_tc_set_handle(struct rtnl_tc *tc, uint32_t handle)
{
	void (*set)(struct rtnl_tc *, uint32_t) = real("rtnl_tc_set_handle");

	write_down("rtnl_tc_set_handle %x\n", handle);
	set(tc, handle);
}

int rtnl_tc_set_kind(struct rtnl_tc *tc, const char *kind)
{
	int (*set)(struct rtnl_tc *, const char *) = real("rtnl_tc_set_kind");

	write_down("rtnl_tc_set_kind %s\n", kind);
	return set(tc, kind);
}

int rtnl_qdisc_plug_set_limit(struct rtnl_qdisc *qdisc, int limit)
{
	int (*set)(struct rtnl_qdisc *, int) = real("rtnl_qdisc_plug_set_limit");

	write_down("rtnl_qdisc_plug_set_limit %d\n", limit);
	return set(qdisc, limit);
}

int rtnl_qdisc_plug_buffer(struct rtnl_qdisc *qdisc)
{
	int (*set)(struct rtnl_qdisc *) = real("rtnl_qdisc_plug_buffer");

	write_down("rtnl_qdisc_plug_buffer\n");
	return set(qdisc);
}

int rtnl_qdisc_plug_release_one(struct rtnl_qdisc *qdisc)
{
	int (*set)(struct rtnl_qdisc *) = real("rtnl_qdisc_plug_release_one");

	write_down("rtnl_qdisc_plug_release_one\n");
	return set(qdisc);
}

int rtnl_qdisc_plug_release_indefinite(struct rtnl_qdisc *qdisc)
{
	int (*set)(struct rtnl_qdisc *) = real("rtnl_qdisc_plug_release_indefinite");

	write_down("rtnl_qdisc_plug_release_indefinite\n");
	return set(qdisc);
}

int rtnl_qdisc_add(struct nl_sock *sock, struct rtnl_qdisc *qdisc, int flags)
{
	int (*add)(struct nl_sock *, struct rtnl_qdisc *, int) = real("rtnl_qdisc_add");
	int (*ifindex)(struct rtnl_tc *) = real("rtnl_tc_get_ifindex");
	uint32_t (*parent)(struct rtnl_tc *) = real("rtnl_tc_get_parent");
	uint32_t (*handle)(struct rtnl_tc *) = real("rtnl_tc_get_handle");
	char *(*kind)(struct rtnl_tc *) = real("rtnl_tc_get_kind");
	struct rtnl_tc *tc = (struct rtnl_tc *)qdisc;
	const char *name = kind(tc);
	int error;

	write_down("rtnl_qdisc_add device %d parent %x handle %x kind %s flags %x\n", ifindex(tc), parent(tc), handle(tc),
		   name ? name : "-", flags);
	if (refused())
		return -NLE_NOMEM;
	inside++;
	error = add(sock, qdisc, flags);
	inside--;
	return error;
}
