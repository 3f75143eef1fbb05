# SPDX-License-Identifier: GPL-2.0-or-later
"""The filters of a lane: at a device's clsact hook, u32 filters that redirect what a Match means to an ifb.

    packet --> hook --> other people's filters --> prio P: IPv4, P+1: IPv6 --> mirred redirect to the ifb

A lane's filters come after all others, so that none is bypassed. Their preferences are its own, so that deleting them
by preference deletes nothing else. Where the ports are looked at, IPv4 takes a filter for each length of the IP header,
20 to 60 bytes. (One filter could find the transport header by that length, but only through a u32 table, and the kernel
does not delete a table with its preference while anybody has another u32 filter at either hook: cls_u32.c.)
"""

from __future__ import annotations

import errno
import socket

from ..errors import NetlinkError
from ..netlink.libnl import ffi, lib
from ..netlink.messages import built, joined
from ..netlink.refusals import check
from ..netlink.route_socket import RouteSocket
from .hook import Filter, hook_number
from .match import Keys, Match

__all__ = [
    "FIRST_PRIO",
    "SLOTS",
    "add_filters",
    "delete_filters",
    "ender",
    "in_place",
    "is_lanes",
    "prio_of",
    "slot_of",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..netlink.libnl import CData

FIRST_PRIO = 0xFF00
SLOTS = 100
_PROTOCOLS = {4: lib.ETH_P_IP, 6: lib.ETH_P_IPV6}
_TRANSPORT_IN_IPV6 = 40  # bytes: the length of the IPv6 header
_LENGTHS = range(5, 16)  # of an IPv4 header, in words


def prio_of(slot: int, family: int) -> int:
    """The preference of a lane's filters."""
    return FIRST_PRIO + 2 * slot + (family == 6)


def slot_of(one: Filter) -> int | None:
    """The slot whose preference the filter has, None for no slot's."""
    slot = (one.prio - FIRST_PRIO) // 2
    return slot if 0 <= slot < SLOTS and one.chain == 0 else None


def is_lanes(one: Filter) -> bool:
    """Whether the filter is one of a lane's, by its preference and by what it does."""
    return slot_of(one) is not None and one.kind == "u32" and (one.redirects or not one.is_filter)


def add_filters(
    route: RouteSocket, ifindex: int, device: str, ingress: bool, slot: int, match: Match, target: int
) -> int:
    """Redirect what ``match`` means to the device ``target``; how many filters that takes."""
    hook, flags = hook_number(ingress), lib.NLM_F_CREATE | lib.NLM_F_EXCL
    messages = []
    for family in match.families:
        for keys in _keys(match, family):
            one = _filter(ifindex, hook, slot, family, keys)
            _redirect(one, target)
            messages.append(built(lib.rtnl_cls_build_add_request, one, flags))
    failures = route.execute_all(joined(messages), [device] * len(messages), "add a filter to")
    for error in failures.values():
        raise _explained(error, device)
    return len(messages)


def _explained(error: NetlinkError, device: str) -> NetlinkError:
    if error.errno == errno.EOPNOTSUPP and "shared" in (error.ext_ack or ""):
        why = "its clsact qdisc shares a filter block with other devices, whose packets the lane would take too"
        return NetlinkError(error.errno, f"cannot make a lane on {device}: {why}", error.operation, device)
    return error


def _keys(match: Match, family: int) -> list[Keys]:
    """The keys of each filter that it takes."""
    network, transport = match.network_keys(family), match.transport_keys()
    if not transport:
        return [network]
    if family == 6:
        return [network + _at(_TRANSPORT_IN_IPV6, transport)]
    return [[(0, length << 24, 0x0F << 24), *network, *_at(4 * length, transport)] for length in _LENGTHS]


def _at(start: int, keys: Keys) -> Keys:
    return [(start + offset, value, mask) for offset, value, mask in keys]


def delete_filters(route: RouteSocket, ifindex: int, device: str, ingress: bool, slot: int) -> None:
    """Delete the lane's filters, all of a family at once; those that are gone already are passed over."""
    for family in (4, 6):
        request = _filter(ifindex, hook_number(ingress), slot, family, None)
        try:
            message = built(lib.rtnl_cls_build_delete_request, request, 0)
            route.execute(message, "delete the filters of", device)
        except NetlinkError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # EINVAL: the hook itself is gone
                raise


def in_place(there: list[Filter], slot: int, target: int, count: int) -> bool:
    """Whether the hook has the lane's filters, all ``count`` of them, and they lead to the device ``target``."""
    mine = [one for one in there if slot_of(one) == slot and one.is_filter]
    return len(mine) == count > 0 and all(one.target == target for one in mine)


def ender(one: Filter, match: Match) -> bool:
    """Whether the filter, standing before a lane's, may end the classification for packets of the match."""
    about = {socket.htons(_PROTOCOLS[family]) for family in match.families} | {socket.htons(lib.ETH_P_ALL)}
    return one.is_filter and one.chain == 0 and one.protocol in about and not one.goes_on


def _filter(ifindex: int, hook: int, slot: int, family: int, keys: Keys | None) -> CData:
    """A u32 filter; with ``keys`` None one that names all filters of its preference."""
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
