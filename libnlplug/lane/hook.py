# SPDX-License-Identifier: GPL-2.0-or-later
"""Read what is at a device's clsact hooks and beside them: qdisc, filters, tcx programs, nftables chains.

    leaving:   nftables egress chains --> tcx programs --> filters in the order of their preferences --> device
    arriving:  device --> tcx programs --> filters in the order of their preferences --> nftables ingress chains

The verdict of a filter's action ends the classification unless it is 'continue' (TC_ACT_UNSPEC).

Adding and deleting filters loses no packet. When a clsact or ingress qdisc is added to a device that is up, or is
deleted, the kernel takes all qdiscs off the device for a moment (dev_deactivate() in net/sched/sch_api.c, up to Linux
6.18; Linux 7.2 was seen to keep waiting packets). The packets in the root qdisc, and those that are sent in that
moment, are dropped and not counted. So a lane adds a clsact qdisc only if there is none, and nothing here deletes one.
"""

from __future__ import annotations

import errno
import os
import time

from ..errors import NetlinkError, PlugUnavailable, QdiscNotFound
from ..netlink.attributes import attributes, integer, text
from ..netlink.libnl import ffi, lib
from ..netlink.messages import qdisc_message
from ..netlink.route_socket import RouteSocket
from ..record import Record

__all__ = [
    "Filter",
    "clsact_kind",
    "filters_at",
    "hook_number",
    "ingress_chain",
    "is_quiet",
    "make_clsact",
    "tcx_programs",
    "waiting",
]

QUIET_PATIENCE = 0.2  # seconds
_MAJOR = lib.TC_H_CLSACT & 0xFFFF0000

# The attribute that has the actions, for each kind of filter.
_ACTIONS = {
    "u32": lib.TCA_U32_ACT,
    "flower": lib.TCA_FLOWER_ACT,
    "matchall": lib.TCA_MATCHALL_ACT,
    "basic": lib.TCA_BASIC_ACT,
    "fw": lib.TCA_FW_ACT,
    "bpf": lib.TCA_BPF_ACT,
}


class Filter(Record):
    """A filter as the kernel shows it. ``protocol`` is in network byte order. ``redirects`` is true for a redirect, and
    ``target`` is the device it leads to, or 0 if that is gone. ``goes_on`` is true if the next filter is asked, too.
    ``keys`` are the attributes in its options, by their types."""

    __slots__ = ("prio", "protocol", "kind", "chain", "handle", "target", "goes_on", "redirects", "keys")
    prio: int
    protocol: int
    kind: str
    chain: int
    handle: int
    target: int
    goes_on: bool
    redirects: bool
    keys: dict[int, bytes]

    @property
    def is_filter(self) -> bool:
        """False for the tables and preferences that a dump also shows."""
        return bool(self.handle & 0xFFF if self.kind == "u32" else self.handle)


def hook_number(ingress: bool) -> int:
    """Return the parent of the filters: clsact's ingress or egress hook."""
    return int(_MAJOR | (lib.TC_H_MIN_INGRESS if ingress else lib.TC_H_MIN_EGRESS))


def waiting(sk: RouteSocket, ifindex: int, device: str) -> int:
    """Return how many packets wait in the device's root qdisc and below it."""
    root = sk.qdisc(ifindex, lib.TC_H_ROOT, device)
    return root.qlen if root else 0


def is_quiet(sk: RouteSocket, ifindex: int, device: str) -> bool:
    """Return whether the device's root qdisc is empty, now or within 0.2 s."""
    deadline = time.monotonic() + QUIET_PATIENCE
    while waiting(sk, ifindex, device):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def clsact_kind(sk: RouteSocket, ifindex: int, device: str) -> str | None:
    """Return 'clsact', 'ingress' (which has only one hook and excludes clsact), or None if the device has neither."""
    try:
        there = sk.qdisc(ifindex, lib.TC_H_CLSACT, device)
    except QdiscNotFound:
        return None
    return there.kind if there else None


def make_clsact(sk: RouteSocket, ifindex: int, device: str) -> bool:
    """Add a clsact qdisc. Return False if the device already has one, or an ingress qdisc. Call is_quiet() first."""
    flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL
    message = qdisc_message(lib.RTM_NEWQDISC, flags, ifindex, lib.TC_H_CLSACT, _MAJOR, b"clsact")
    try:
        sk.execute(message, "add a clsact qdisc to", device)
        return True
    except PlugUnavailable as error:
        hint = "the kernel has no clsact: try 'modprobe sch_ingress', or install a kernel with CONFIG_NET_SCH_INGRESS"
        why = f"cannot add a clsact qdisc to {device}: {error.ext_ack}; {hint}"
        raise PlugUnavailable(error.errno, why, "add a clsact qdisc to", device, hint=hint) from None
    except NetlinkError as error:
        if error.errno not in (errno.EEXIST, errno.EINVAL):
            raise
        return False


def filters_at(sk: RouteSocket, ifindex: int, device: str, ingress: bool) -> list[Filter]:
    """Return all filters at the hook, in the order in which they are asked. Without a hook there are none."""
    message = qdisc_message(lib.RTM_GETTFILTER, lib.NLM_F_DUMP, ifindex, hook_number(ingress), 0, None)
    replies = sk.ask(message, "list the filters of", device)
    found = [one for one in (_read(reply.payload) for reply in replies) if one is not None]
    return sorted(found, key=lambda one: one.prio)


def tcx_programs(sk: RouteSocket, ifindex: int, ingress: bool) -> int:
    """Return how many BPF programs are attached by tcx, which runs before clsact. Before Linux 6.6 there are none."""
    return max(0, sk.in_netns(lambda: lib.libnlplug_tcx_programs(ifindex, ingress)))


def ingress_chain(sk: RouteSocket, device: str) -> str | None:
    """Return an nftables chain at the device's ingress, as 'netdev filter input'. None: no chain, or no answer."""
    name = ffi.new("char[]", 600)
    found = sk.in_netns(lambda: lib.libnlplug_ingress_chain(os.fsencode(device), name, 600))
    return ffi.string(name).decode("utf-8", "replace") if found > 0 else None


def _read(payload: bytes) -> Filter | None:
    head = ffi.sizeof("struct tcmsg")
    if len(payload) < head:
        return None
    info = ffi.new("struct tcmsg *")
    ffi.buffer(info)[:] = payload[:head]
    parts = dict(attributes(payload[head:]))
    kind = text(parts.get(lib.TCA_KIND, b""))
    options = dict(attributes(parts.get(lib.TCA_OPTIONS, b"")))
    outcome = _verdict(options.get(_ACTIONS.get(kind, -1), b""))
    goes_on = outcome.goes_on
    if kind == "u32" and lib.TCA_U32_LINK in options and lib.TCA_U32_ACT not in options:
        goes_on = True  # it leads to a table, whose filters are in the dump, too
    chain = integer(parts.get(lib.TCA_CHAIN, b""))
    prio, protocol = info.tcm_info >> 16, info.tcm_info & 0xFFFF
    target, redirects = outcome.target, outcome.redirects
    return Filter(prio, protocol, kind, chain, info.tcm_handle, target, goes_on, redirects, options)


class _Verdict(Record):
    """What the actions of a filter do, with the names of Filter."""

    __slots__ = ("target", "goes_on", "redirects")
    target: int
    goes_on: bool
    redirects: bool


def _verdict(actions: bytes) -> _Verdict:
    """Return what the actions do. After the verdict 'pipe' the next action follows. Actions other than gact and mirred
    are assumed to have that verdict."""
    target, redirects = 0, False
    for _, action in attributes(actions):
        parts = dict(attributes(action))
        options = dict(attributes(parts.get(lib.TCA_ACT_OPTIONS, b"")))
        kind = text(parts.get(lib.TCA_ACT_KIND, b""))
        if kind not in ("gact", "mirred"):
            continue
        parameters = options.get(lib.TCA_MIRRED_PARMS if kind == "mirred" else lib.TCA_GACT_PARMS, b"")
        if kind == "mirred" and len(parameters) >= ffi.sizeof("struct tc_mirred"):
            mirred = ffi.new("struct tc_mirred *")
            ffi.buffer(mirred)[:] = parameters[: ffi.sizeof("struct tc_mirred")]
            if mirred.eaction == lib.TCA_EGRESS_REDIR:
                target, redirects = mirred.ifindex, True
        if len(parameters) < ffi.sizeof("struct tc_gact") or lib.TCA_GACT_PROB in options and kind == "gact":
            return _Verdict(target, False, redirects)
        gact = ffi.new("struct tc_gact *")
        ffi.buffer(gact)[:] = parameters[: ffi.sizeof("struct tc_gact")]
        if gact.action != lib.TC_ACT_PIPE:
            return _Verdict(target, gact.action == lib.TC_ACT_UNSPEC, redirects)
    return _Verdict(target, False, redirects)
