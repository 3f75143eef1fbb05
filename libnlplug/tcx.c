/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libnlplug_tcx_programs(): how many BPF programs are attached to a device by tcx (Linux 6.6). They run before the
 * filters of clsact and can end the classification, and netlink does not show them.
 */
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/bpf.h, whose numbers never change, for C libraries with older headers. */
enum { PROG_QUERY = 16, TCX_INGRESS = 46, TCX_EGRESS = 47 };

/* The number of programs, or a negative errno: -EINVAL where the kernel knows no tcx. */
int libnlplug_tcx_programs(int ifindex, int ingress)
{
	struct {
		uint32_t target, attach_type, flags, attach_flags;
		uint64_t ids;
		uint32_t count, unused;
	} query = { .target = ifindex, .attach_type = ingress ? TCX_INGRESS : TCX_EGRESS };

	if (syscall(SYS_bpf, PROG_QUERY, &query, sizeof query))
		return -errno;
	return query.count;
}
