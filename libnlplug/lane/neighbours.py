# SPDX-License-Identifier: GPL-2.0-or-later
"""Refuse a lane that would harm something else on its device, and find what comes before a lane."""

from __future__ import annotations

import errno
import sys

from ..errors import NetlinkError
from ..netlink.devices import device_of, devices_with
from ..netlink.libnl import lib
from ..netlink.messages import attribute
from ..netlink.route_socket import RouteSocket
from .filters import FIRST_PRIO, SLOTS, ender, is_lanes
from .hook import Filter, clsact_kind, ingress_chain, is_quiet, tcx_programs, waiting
from .inventory import Lane
from .match import Match, match_of

__all__ = ["refuse_device", "refuse_overlap", "refuse_to_bypass", "refuse_to_drop", "shadows"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


def refuse_device(sk: RouteSocket, device: str, ifindex: int) -> None:
    """Raise NetlinkError for a device whose packets do not pass its own hooks."""
    there = device_of(sk, ifindex)
    if there.kind == "vrf":
        master = attribute(lib.IFLA_MASTER, ifindex.to_bytes(4, sys.byteorder))
        ports = ", ".join(port.name for port in devices_with(sk, master, "list the ports")) or "it has none"
        why, hint = "packets do not pass the hooks of a VRF", f"make the lane on its ports ({ports})"
    elif there.kind == "ipvlan" and there.mode == lib.IPVLAN_MODE_L3S:
        below = sk.link_name(there.below) if there.below else "in another network namespace"
        why, hint = "packets do not pass the hooks of an ipvlan in l3s mode", f"use the device below it ({below})"
    else:
        return
    sentence = f"cannot make a lane on {device}: {why}; {hint}"
    raise NetlinkError(errno.EOPNOTSUPP, sentence, "make a lane on", device, hint=hint)


def refuse_to_drop(sk: RouteSocket, device: str, ifindex: int) -> None:
    """Raise NetlinkError if adding a clsact qdisc would drop packets that wait in the root qdisc."""
    if clsact_kind(sk, ifindex, device) is None and not is_quiet(sk, ifindex, device):
        count = waiting(sk, ifindex, device)
        hint = f"'tc qdisc add dev {device} clsact' at a quiet moment, and lanes will use it and leave it there"
        why = f"adding its clsact qdisc would throw away {count} packets that wait in its root qdisc"
        sentence = f"cannot make a lane on {device}: {why}; {hint}"
        raise NetlinkError(errno.EBUSY, sentence, "make a lane on", device, hint=hint)


def refuse_to_bypass(
    sk: RouteSocket,
    device: str,
    ifindex: int,
    ingress: bool,
    at_hook: list[Filter],
    operation: str,
    slots: Container[int] = range(SLOTS),
) -> None:
    """Raise NetlinkError if packets of a lane would bypass something: a filter among or after those of the lanes, which
    are in ``slots``, or an nftables chain at the device's ingress, because the ifb gives packets back after it
    (net/core/dev.c)."""
    what = hint = ""
    for one in at_hook:
        if not what and one.prio >= FIRST_PRIO and one.chain == 0 and not is_lanes(one, slots):
            what = f"the {one.kind} filter of preference {one.prio}"
            hint = f"give it a preference (pref) below {FIRST_PRIO}"
    chain = ingress_chain(sk, sk.link_name(ifindex)) if ingress else None
    if chain is not None:
        what = f"the nftables chain '{chain}'"
        hint = "hold leaving packets, or move the chain's rules to prerouting"
    if what:
        sentence = f"cannot {operation} {device}: {what} would not see the packets that the lane takes; {hint}"
        raise NetlinkError(errno.EEXIST, sentence, operation, device, hint=hint)


def refuse_overlap(device: str, there: list[Lane], ingress: bool, match: Match) -> None:
    """Raise NetlinkError if another lane at the hook may match some of the same packets: only one can take them."""
    for lane in there:
        if lane.ingress != ingress or not lane.filters:
            continue
        text = lane.words.get("match", "")
        theirs = match_of(text)
        if theirs is None or match.overlaps(theirs):  # a match that cannot be read may be about anything
            hint = f"hold that lane's match, or delete that lane first ('libnlplug lane show {device}' lists the lanes)"
            why = f"the lane for {text} on {lane.ifb.name} takes some of the same packets"
            sentence = f"cannot make a lane on {device} for {match}: {why}; {hint}"
            raise NetlinkError(errno.EEXIST, sentence, "make a lane on", device, hint=hint)


def shadows(sk: RouteSocket, ifindex: int, ingress: bool, match: Match, at_hook: list[Filter]) -> list[str]:
    """Return a sentence for each thing that comes before a lane at its hook and may keep packets from it."""
    lines = [
        f"the {one.kind} filter of preference {one.prio} comes first: the lane does not see the packets that match it"
        for one in at_hook
        if one.prio < FIRST_PRIO and ender(one, match)
    ]
    unique = list(dict.fromkeys(lines))
    count = tcx_programs(sk, ifindex, ingress)
    if count:
        programs = "1 tcx BPF program comes" if count == 1 else f"{count} tcx BPF programs come"
        unique.append(f"{programs} first: the lane does not see the packets that BPF passes or drops")
    return unique
