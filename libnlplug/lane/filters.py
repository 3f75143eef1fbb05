# SPDX-License-Identifier: GPL-2.0-or-later
"""The filters of a lane: at a device's clsact hook, flower filters that redirect what a Match means to an ifb.

    packet --> hook --> other people's filters --> 65280: IPv4, 65281: IPv6, 65282: VLAN 0 --> redirect to the ifb

All lanes of a hook share these three preferences. They come after everybody else's filters, so that a lane bypasses
none of them. The handle of a filter contains the lane's slot. The kernel compares a packet with all filters on the same
fields by one look-up (net/sched/cls_flower.c), so a hundred lanes for a hundred ports cost as much as one.
"""

from __future__ import annotations

import errno
import socket

from ..errors import DeviceNotFound, NetlinkError, PlugUnavailable
from ..netlink.libnl import ffi, lib
from ..netlink.messages import attribute, joined, message
from ..netlink.route_socket import RouteSocket
from .hook import Filter, filters_at, hook_number
from .match import Match

__all__ = [
    "FIRST_PRIO",
    "SLOTS",
    "add_filters",
    "by_slot",
    "delete_filters",
    "digest",
    "ender",
    "is_lanes",
    "slot_of",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from .match import Network, Range

FIRST_PRIO = 0xFF00
SLOTS = 100
AT_ONCE = 50  # requests in one send
_PROTOCOLS = {FIRST_PRIO: lib.ETH_P_IP, FIRST_PRIO + 1: lib.ETH_P_IPV6, FIRST_PRIO + 2: lib.ETH_P_8021Q}
_FAMILIES = {4: lib.ETH_P_IP, 6: lib.ETH_P_IPV6}
_NO_FIELDS = (lib.TCA_FLOWER_ACT, lib.TCA_FLOWER_FLAGS, lib.TCA_FLOWER_IN_HW_COUNT)  # counters, and where it runs
_SYN, _SYN_RST_ACK_FIN = 0x02, 0x17
_TCP, _UDP = 6, 17


def slot_of(one: Filter) -> int | None:
    """Return the slot in which the filter is, or None if no lane's filter has such a place. (Somebody may have replaced
    the lane's filter there.)"""
    slot = (one.handle >> 16) - 1
    return slot if _has_lanes_prio(one) and 0 <= slot < SLOTS else None


def is_lanes(one: Filter, slots: Container[int] = range(SLOTS)) -> bool:
    """Return whether the filter redirects and is in one of the slots, as a lane's. (A dump also shows each preference
    itself.)"""
    return _has_lanes_prio(one) and (not one.is_filter or (one.redirects and slot_of(one) in slots))


def _has_lanes_prio(one: Filter) -> bool:
    return one.prio in _PROTOCOLS and one.chain == 0 and one.kind == "flower"


def by_slot(there: list[Filter]) -> dict[int, list[Filter]]:
    """Return the filters at a hook that are in a slot, by their slots."""
    found: dict[int, list[Filter]] = {}
    for one in there:
        slot = slot_of(one) if one.is_filter else None
        if slot is not None:
            found.setdefault(slot, []).append(one)
    return found


def digest(mine: list[Filter]) -> str:
    """Return a short text that changes if the fields or the target of one of a lane's filters change."""
    from zlib import crc32

    shown = sorted(
        (one.prio, one.handle, one.target, sorted(item for item in one.keys.items() if item[0] not in _NO_FIELDS))
        for one in mine
    )
    return f"{crc32(repr(shown).encode()):08x}"


def ender(one: Filter, match: Match) -> bool:
    """Return whether the filter may end the classification of packets of the match before a lane's filters."""
    about = {_FAMILIES[family] for family in match.families} | {lib.ETH_P_ALL, lib.ETH_P_8021Q}
    return one.is_filter and one.chain == 0 and socket.ntohs(one.protocol) in about and not one.goes_on


def add_filters(
    sk: RouteSocket, ifindex: int, device: str, ingress: bool, slot: int, match: Match, target: int
) -> tuple[int, str]:
    """Redirect the packets of ``match`` to the device ``target``. Return the number of filters and their digest."""
    wanted = [keys for family in match.families for keys in _keys(match, family)]
    flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL
    messages = [
        _request(lib.RTM_NEWTFILTER, flags, ifindex, ingress, prio, (slot + 1) << 16 | number, _flower(keys, target))
        for number, (prio, keys) in enumerate(wanted, 1)
    ]
    for error in _failures(sk, messages, device, "add a filter to"):
        raise _explained(error, device)
    mine = by_slot(filters_at(sk, ifindex, device, ingress)).get(slot, [])
    _refuse_half(mine, [set(keys) for _, keys in wanted], device)
    return len(messages), digest(mine)


def _refuse_half(mine: list[Filter], wanted: list[set[int]], device: str) -> None:
    """Raise PlugUnavailable if an old kernel ignored a field that it does not know: the lane would take too much."""
    for one in mine:
        number = one.handle & 0xFFFF
        if 0 < number <= len(wanted) and not wanted[number - 1] <= one.keys.keys():
            why = "this kernel's flower filters do not know all fields of the match"
            hint = "ranges of ports need Linux 5.2: give single ports"
            sentence = f"cannot make a lane on {device}: {why}; {hint}"
            raise PlugUnavailable(errno.EOPNOTSUPP, sentence, "add a filter to", device, hint=hint)


def _explained(error: NetlinkError, device: str) -> NetlinkError:
    if error.errno == errno.EOPNOTSUPP and "shared" in (error.ext_ack or ""):
        why = "its clsact qdisc shares a filter block with other devices, whose packets the lane would take too"
        return NetlinkError(error.errno, f"cannot make a lane on {device}: {why}", error.operation, device)
    return error


def delete_filters(sk: RouteSocket, ifindex: int, device: str, ingress: bool, is_one: Callable[[Filter], bool]) -> None:
    """Delete the lanes' filters at the hook for which ``is_one`` is true, one by one, by what the kernel shows of them.
    It is no error if one is already gone."""
    messages = [
        _request(lib.RTM_DELTFILTER, 0, ifindex, ingress, one.prio, one.handle)
        for one in filters_at(sk, ifindex, device, ingress)
        if is_lanes(one) and one.is_filter and is_one(one)
    ]
    for error in _failures(sk, messages, device, "delete a filter of"):
        gone = isinstance(error, DeviceNotFound) or error.errno in (errno.ENOENT, errno.EINVAL)  # EINVAL: the hook too
        if not gone:
            raise error


def _failures(sk: RouteSocket, messages: list[bytes], device: str, operation: str) -> list[NetlinkError]:
    """Send the messages, as many at once as a socket has room for answers. Return the errors."""
    found: list[NetlinkError] = []
    for start in range(0, len(messages), AT_ONCE):
        some = messages[start : start + AT_ONCE]
        found += sk.execute_all(joined(some), [device] * len(some), operation).values()
    return found


def _request(kind: int, flags: int, ifindex: int, ingress: bool, prio: int, handle: int, options: bytes = b"") -> bytes:
    header = ffi.new("struct tcmsg *", {"tcm_ifindex": ifindex, "tcm_handle": handle})
    header.tcm_parent, header.tcm_info = hook_number(ingress), prio << 16 | socket.htons(_PROTOCOLS[prio])
    parts = attribute(lib.TCA_KIND, b"flower\0")
    if options:
        parts += attribute(lib.TCA_OPTIONS, options)
    return message(kind, flags, ffi.buffer(header)[:] + parts)


def _keys(match: Match, family: int) -> list[tuple[int, dict[int, bytes]]]:
    """Return preference and fields of each filter: for each combination one without a tag and one for VLAN 0."""
    protocol = _FAMILIES[family]
    found = []
    for source, destination, source_port, destination_port in match.choices(family):
        keys: dict[int, bytes] = {}
        if match.protocol is not None:
            keys[lib.TCA_FLOWER_KEY_IP_PROTO] = bytes([match.protocol])
        _put_address(keys, "SRC", source)
        _put_address(keys, "DST", destination)
        _put_port(keys, match.protocol, "SRC", source_port)
        _put_port(keys, match.protocol, "DST", destination_port)
        if match.tcp_syn:
            keys[lib.TCA_FLOWER_KEY_TCP_FLAGS] = _SYN.to_bytes(2, "big")
            keys[lib.TCA_FLOWER_KEY_TCP_FLAGS_MASK] = _SYN_RST_ACK_FIN.to_bytes(2, "big")
        plain = {lib.TCA_FLOWER_KEY_ETH_TYPE: protocol.to_bytes(2, "big")}
        tagged = {
            lib.TCA_FLOWER_KEY_ETH_TYPE: int(lib.ETH_P_8021Q).to_bytes(2, "big"),
            lib.TCA_FLOWER_KEY_VLAN_ID: bytes(2),
            lib.TCA_FLOWER_KEY_VLAN_ETH_TYPE: protocol.to_bytes(2, "big"),
        }
        found += [(FIRST_PRIO + (family == 6), {**plain, **keys}), (FIRST_PRIO + 2, {**tagged, **keys})]
    return found


def _put_address(keys: dict[int, bytes], side: str, network: Network | None) -> None:
    if network is not None and network.prefixlen:  # with a prefix of 0 bits, there is nothing to compare
        name = f"TCA_FLOWER_KEY_IPV{network.version}_{side}"
        keys[getattr(lib, name)] = network.network_address.packed
        keys[getattr(lib, f"{name}_MASK")] = network.netmask.packed


def _put_port(keys: dict[int, bytes], protocol: int | None, side: str, ports: Range | None) -> None:
    if ports is None:
        return
    first, last = (port.to_bytes(2, "big") for port in ports)
    if first == last:
        transport = {_TCP: "TCP", _UDP: "UDP"}.get(protocol or 0, "SCTP")
        keys[getattr(lib, f"TCA_FLOWER_KEY_{transport}_{side}")] = first
    else:
        keys[getattr(lib, f"TCA_FLOWER_KEY_PORT_{side}_MIN")] = first
        keys[getattr(lib, f"TCA_FLOWER_KEY_PORT_{side}_MAX")] = last


def _flower(keys: dict[int, bytes], target: int) -> bytes:
    """Return the options of a filter that redirects to the device ``target``, never in the network card itself."""
    mirred = ffi.new(
        "struct tc_mirred *", {"action": lib.TC_ACT_STOLEN, "eaction": lib.TCA_EGRESS_REDIR, "ifindex": target}
    )
    parameters = attribute(lib.TCA_MIRRED_PARMS, bytes(ffi.buffer(mirred)))
    action = attribute(lib.TCA_ACT_KIND, b"mirred\0") + attribute(lib.TCA_ACT_OPTIONS, parameters)
    flags = ffi.buffer(ffi.new("uint32_t *", lib.TCA_CLS_FLAGS_SKIP_HW))[:]
    options = b"".join(attribute(kind, value) for kind, value in keys.items())
    return options + attribute(lib.TCA_FLOWER_ACT, attribute(1, action)) + attribute(lib.TCA_FLOWER_FLAGS, flags)
