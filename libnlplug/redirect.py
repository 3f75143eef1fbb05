# SPDX-License-Identifier: GPL-2.0-or-later
"""The filters of a lane: at a device's clsact hook, u32 filters that redirect what a Match means to an ifb.

    packet --> hook --> other people's filters --> prio P: IPv4, P+1: IPv6 --> mirred redirect to the ifb

A lane's filters come after all others, so that none is bypassed. Their preferences are its own, so that deleting them
by preference deletes nothing else. IPv4 headers vary in length: a first filter looks at the IP header, then links to a
table of its own whose one filter looks at the transport header, found by the length in the first (cls_u32.c).
"""

from __future__ import annotations

import errno
import socket

from ._libnl import ffi, lib
from ._record import Record
from .attributes import attributes, number, text
from .errors import NetlinkError, PlugUnavailable, QdiscNotFound, check
from .match import Keys, Match
from .route import RouteSocket, built, qdisc_message

__all__ = [
    "FIRST_PRIO",
    "SLOTS",
    "Filter",
    "add_filters",
    "delete_filters",
    "ender",
    "filters",
    "hook_number",
    "make_clsact",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libnl import CData

FIRST_PRIO = 0xFF00
SLOTS = 100
_PROTOCOLS = {4: lib.ETH_P_IP, 6: lib.ETH_P_IPV6}
_TRANSPORT_IN_IPV6 = 40  # bytes: the length of the IPv6 header

# In which attribute of its options each kind of filter keeps its actions.
_ACTIONS = {
    "u32": lib.TCA_U32_ACT,
    "flower": lib.TCA_FLOWER_ACT,
    "matchall": lib.TCA_MATCHALL_ACT,
    "basic": lib.TCA_BASIC_ACT,
    "fw": lib.TCA_FW_ACT,
    "bpf": lib.TCA_BPF_ACT,
}


class Filter(Record):
    """A filter as the kernel shows it. ``target`` is the device it redirects to, 0 for none; ``goes_on`` whether its
    action lets the classification continue with the next filter."""

    __slots__ = ("prio", "protocol", "kind", "chain", "handle", "target", "goes_on")
    prio: int
    protocol: int
    kind: str
    chain: int
    handle: int
    target: int
    goes_on: bool


def hook_number(ingress: bool) -> int:
    """The parent of the filters: clsact's ingress or egress hook."""
    return int(lib.TC_H_CLSACT & lib.TC_H_MAJ_MASK | (lib.TC_H_MIN_INGRESS if ingress else lib.TC_H_MIN_EGRESS))


def make_clsact(route: RouteSocket, ifindex: int, device: str, ingress: bool) -> bool:
    """Make sure that the hook is there; whether it was made. An ingress qdisc has one hook and excludes clsact."""
    major = lib.TC_H_CLSACT & lib.TC_H_MAJ_MASK
    flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL
    message = qdisc_message(lib.RTM_NEWQDISC, flags, ifindex, lib.TC_H_CLSACT, major, b"clsact")
    try:
        route.send_one(message, "add a clsact qdisc to", device)
        return True
    except PlugUnavailable as error:
        hint = "the kernel has no clsact: try 'modprobe sch_ingress', or install a kernel with CONFIG_NET_SCH_INGRESS"
        message = f"cannot add a clsact qdisc to {device}: {error.ext_ack}; {hint}"
        raise PlugUnavailable(error.errno, message, "add a clsact qdisc to", device, hint=hint) from None
    except NetlinkError as error:
        if error.errno not in (errno.EEXIST, errno.EINVAL):
            raise
    there = route.qdisc(ifindex, lib.TC_H_CLSACT, device)
    kind = there.kind if there else "none"
    if kind == "clsact" or (kind == "ingress" and ingress):
        return False
    hint = "replace it by clsact, which has both hooks: 'tc qdisc replace' keeps no filters, so add them again"
    raise NetlinkError(
        errno.EEXIST,
        f"cannot make a lane at the egress of {device}: its {kind} qdisc excludes clsact; {hint}",
        "make a lane on",
        device,
        hint=hint,
    )


def clsact_message(ifindex: int) -> CData:
    """The request that deletes a device's clsact qdisc."""
    return qdisc_message(lib.RTM_DELQDISC, 0, ifindex, lib.TC_H_CLSACT, lib.TC_H_CLSACT & lib.TC_H_MAJ_MASK, b"clsact")


def add_filters(route: RouteSocket, ifindex: int, device: str, hook: int, slot: int, match: Match, target: int) -> None:
    """Redirect what ``match`` means to the device ``target``. The filter that starts it comes last of its family."""
    for family in match.families:
        for request in _family(ifindex, hook, slot, match, target, family):
            flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL
            route.send_one(built(lib.rtnl_cls_build_add_request, request, flags), "add a filter to", device)


def _family(ifindex: int, hook: int, slot: int, match: Match, target: int, family: int) -> list[CData]:
    network, transport = match.network_keys(family), match.transport_keys()
    if family == 6 or not transport:
        keys = network + [(offset + _TRANSPORT_IN_IPV6, value, mask) for offset, value, mask in transport]
        only = _filter(ifindex, hook, slot, family, keys)
        _redirect(only, target)
        return [only]
    table = 0x7FF - slot
    make_table = _filter(ifindex, hook, slot, family, None)
    lib.rtnl_u32_set_handle(make_table, table, 0, 0)
    lib.rtnl_u32_set_divisor(make_table, 1)
    in_table = _filter(ifindex, hook, slot, family, transport)
    lib.rtnl_u32_set_hashtable(in_table, table << 20)
    _redirect(in_table, target)
    start = _filter(ifindex, hook, slot, family, network)
    # The transport header begins after ihl words: the low nibble of byte 0, times four.
    check(lib.rtnl_u32_set_selector(start, 0, 0x0F00, bytes([6]), 0, bytes([lib.TC_U32_EAT])), "build a filter")
    lib.rtnl_u32_set_link(start, table << 20)
    return [make_table, in_table, start]


def delete_filters(
    route: RouteSocket, ifindex: int, device: str, hook: int, slot: int, families: tuple[int, ...]
) -> None:
    """Delete the lane's filters, all of a family at once; those that are gone already are passed over."""
    for family in families:
        request = _filter(ifindex, hook, slot, family, None)
        try:
            route.send_one(built(lib.rtnl_cls_build_delete_request, request, 0), "delete the filters of", device)
        except NetlinkError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # EINVAL: the hook itself is gone
                raise


def prio_of(slot: int, family: int) -> int:
    """The preference of a lane's filters."""
    return FIRST_PRIO + 2 * slot + (family == 6)


def filters(route: RouteSocket, ifindex: int, device: str, hook: int) -> list[Filter]:
    """Every filter at the hook, in the order in which they are asked; none where there is no such hook."""
    message = qdisc_message(lib.RTM_GETTFILTER, lib.NLM_F_DUMP, ifindex, hook, 0, None)
    try:
        payloads = route.dump(message, "list the filters of", device)
    except QdiscNotFound:
        return []
    found = [read for read in map(_read, payloads) if read is not None]
    return sorted(found, key=lambda one: one.prio)


def ender(one: Filter, match: Match) -> bool:
    """Whether the filter, standing before a lane's, may end the classification for packets of the match."""
    about = {socket.htons(_PROTOCOLS[family]) for family in match.families} | {socket.htons(lib.ETH_P_ALL)}
    is_filter = one.handle & 0xFFF if one.kind == "u32" else one.handle  # a dump shows tables and preferences too
    return bool(is_filter) and one.chain == 0 and one.protocol in about and not one.goes_on


def tcx_programs(ifindex: int, ingress: bool) -> int:
    """How many BPF programs are attached by tcx, which runs before clsact (Linux 6.6); 0 where that cannot be asked."""
    return max(0, lib.libnlplug_tcx_programs(ifindex, ingress))


def _read(payload: bytes) -> Filter | None:
    head = ffi.sizeof("struct tcmsg")
    if len(payload) < head:
        return None
    info = ffi.new("struct tcmsg *")
    ffi.buffer(info)[:] = payload[:head]
    parts = dict(attributes(payload[head:]))
    kind = text(parts.get(lib.TCA_KIND, b""))
    options = dict(attributes(parts.get(lib.TCA_OPTIONS, b"")))
    target, goes_on = _outcome(options.get(_ACTIONS.get(kind, -1), b""))
    if kind == "u32" and lib.TCA_U32_LINK in options and lib.TCA_U32_ACT not in options:
        goes_on = True  # it only leads to a table, whose filters are listed too
    chain = number(parts.get(lib.TCA_CHAIN, b""))
    prio, protocol = info.tcm_info >> 16, info.tcm_info & 0xFFFF
    return Filter(prio, protocol, kind, chain, info.tcm_handle, target, goes_on)


def _outcome(actions: bytes) -> tuple[int, bool]:
    """The device that the actions redirect to, or 0, and whether the classification goes on after them."""
    target, verdict = 0, None
    for _, action in attributes(actions):
        parts = dict(attributes(action))
        options = dict(attributes(parts.get(lib.TCA_ACT_OPTIONS, b"")))
        kind = text(parts.get(lib.TCA_ACT_KIND, b""))
        parameters = options.get(lib.TCA_MIRRED_PARMS if kind == "mirred" else lib.TCA_GACT_PARMS, b"")
        if len(parameters) >= ffi.sizeof("struct tc_gact"):
            gact = ffi.new("struct tc_gact *")
            ffi.buffer(gact)[:] = parameters[: ffi.sizeof("struct tc_gact")]
            verdict = gact.action
        if kind == "mirred" and len(parameters) >= ffi.sizeof("struct tc_mirred"):
            mirred = ffi.new("struct tc_mirred *")
            ffi.buffer(mirred)[:] = parameters[: ffi.sizeof("struct tc_mirred")]
            target = mirred.ifindex
    return target, verdict == lib.TC_ACT_UNSPEC


def _filter(ifindex: int, hook: int, slot: int, family: int, keys: Keys | None) -> CData:
    """A u32 filter; with ``keys`` None one that names a table or all filters of its preference."""
    cls = lib.rtnl_cls_alloc()
    if cls == ffi.NULL:
        raise MemoryError("libnl has no memory for a filter")
    cls = ffi.gc(cls, lib.rtnl_cls_put)
    tc = ffi.cast("struct rtnl_tc *", cls)
    lib.rtnl_tc_set_ifindex(tc, ifindex)
    lib.rtnl_tc_set_parent(tc, hook)
    check(lib.rtnl_tc_set_kind(tc, b"u32"), "build a filter")
    lib.rtnl_cls_set_prio(cls, prio_of(slot, family))
    lib.rtnl_cls_set_protocol(cls, _PROTOCOLS[family])
    if keys is not None:
        # A selector is needed even where everything matches.
        for offset, value, mask in keys or [(0, 0, 0)]:
            code = lib.rtnl_u32_add_key(cls, socket.htonl(value), socket.htonl(mask), offset, 0)
            check(code, "build a filter")
    return cls


def _redirect(cls: CData, target: int) -> None:
    act = lib.rtnl_act_alloc()
    if act == ffi.NULL:
        raise MemoryError("libnl has no memory for an action")
    act = ffi.gc(act, lib.rtnl_act_put)
    check(lib.rtnl_tc_set_kind(ffi.cast("struct rtnl_tc *", act), b"mirred"), "build a filter")
    check(lib.rtnl_mirred_set_action(act, lib.TCA_EGRESS_REDIR), "build a filter")
    check(lib.rtnl_mirred_set_ifindex(act, target), "build a filter")
    check(lib.rtnl_mirred_set_policy(act, lib.TC_ACT_STOLEN), "build a filter")
    check(lib.rtnl_u32_add_action(cls, act), "build a filter")
    check(lib.rtnl_u32_set_cls_terminal(cls), "build a filter")
