/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnl's enumerations as far as they are used. A number is a name's place in the list, so the compiler counts;
 * tests/parity compares every one of them with libnl's own headers.
 */
#ifndef LIBNLPLUG_LIBNL_ENUMS_H
#define LIBNLPLUG_LIBNL_ENUMS_H

/* netlink/route/tc.h */
enum rtnl_tc_stat {
	RTNL_TC_PACKETS,
	RTNL_TC_BYTES,
	RTNL_TC_RATE_BPS,
	RTNL_TC_RATE_PPS,
	RTNL_TC_QLEN,
	RTNL_TC_BACKLOG,
	RTNL_TC_DROPS,
};

#endif
