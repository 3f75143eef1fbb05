# SPDX-License-Identifier: GPL-2.0-or-later
"""A lane and what else is at its device: what it would harm, so that it is refused, and what comes before it."""

from __future__ import annotations

import errno

from ..errors import NetlinkError
from ..netlink.route_socket import RouteSocket
from .filters import ender, is_lanes, prio_of
from .hook import Filter, clsact_kind, filters, ingress_chain, is_quiet, tcx_programs, waiting
from .inventory import Lane, all_lanes
from .match import Match, match_of

__all__ = ["refuse_to_bypass", "refuse_to_drop", "rivals", "shadows"]


def refuse_to_drop(route: RouteSocket, device: str, ifindex: int) -> None:
    """Refuse where a lane would add a clsact qdisc, and by that throw packets away."""
    if clsact_kind(route, ifindex, device) is None and not is_quiet(route, ifindex, device):
        count = waiting(route, ifindex, device)
        hint = f"'tc qdisc add dev {device} clsact' at a quiet moment, and lanes will use it and leave it there"
        why = f"adding its clsact qdisc would throw away {count} packets that wait in its root qdisc"
        message = f"cannot make a lane on {device}: {why}; {hint}"
        raise NetlinkError(errno.EBUSY, message, "make a lane on", device, hint=hint)


def refuse_to_bypass(
    route: RouteSocket, device: str, ifindex: int, ingress: bool, slot: int, at_hook: list[Filter], operation: str
) -> None:
    """Refuse where somebody's filters come after a lane's, which ends the classification before them, and where
    nftables has a chain at the ingress of the device, behind which an ifb gives packets back (net/core/dev.c)."""
    what = hint = ""
    for one in at_hook:
        if not what and one.prio > prio_of(slot, 6) and one.chain == 0 and not is_lanes(one):
            what = f"the {one.kind} filter of preference {one.prio}"
            hint = f"give it a preference (pref) below {prio_of(0, 4)}"
    chain = ingress_chain(route, route.link_name(ifindex)) if ingress else None
    if chain is not None:
        what = f"the nftables chain '{chain}'"
        hint = "hold leaving packets, or move the chain's rules to prerouting"
    if what:
        message = f"cannot {operation} {device}: {what} would never see what the lane takes; {hint}"
        raise NetlinkError(errno.EEXIST, message, operation, device, hint=hint)


def shadows(route: RouteSocket, device: str, ifindex: int, ingress: bool, slot: int, match: Match) -> list[str]:
    """What comes before a lane at its hook and may keep packets from it, a sentence each."""
    lines = [
        f"the {one.kind} filter of preference {one.prio} comes first, and what it matches the lane does not see"
        for one in filters(route, ifindex, device, ingress)
        if one.prio < prio_of(slot, 4) and not is_lanes(one) and ender(one, match)
    ]
    unique = list(dict.fromkeys(lines))
    for lane in rivals(route, ifindex, ingress, match):
        if lane.slot < slot:
            what = f"the lane for {lane.words.get('match')} on {lane.ifb.name}"
            unique.append(f"{what} comes first, and what it matches this lane does not see")
    count = tcx_programs(route, ifindex, ingress)
    if count:
        programs = "1 tcx BPF program comes" if count == 1 else f"{count} tcx BPF programs come"
        unique.append(f"{programs} first, and what is passed or dropped there the lane does not see")
    return unique


def rivals(route: RouteSocket, ifindex: int, ingress: bool, match: Match) -> list[Lane]:
    """The complete lanes at the hook that may match some of the same packets."""
    return [
        lane
        for lane in all_lanes(route)
        if (lane.ifindex, lane.ingress) == (ifindex, ingress) and lane.filters
        # What cannot be read may match anything.
        if (theirs := match_of(lane.words.get("match", ""))) is None or match.overlaps(theirs)
    ]
