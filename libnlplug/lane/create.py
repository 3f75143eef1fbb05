# SPDX-License-Identifier: GPL-2.0-or-later
"""How a lane is set up, or one that is there is adopted.

    ifb, described, up --> plug, created and released in one send --> clsact --> filters --> the alias says: complete

No packet comes before the plug is open, and whoever finds the ifb of a process that has died on the way can tell how
far it came.
"""

from __future__ import annotations

import errno
import os

from ..errors import NetlinkError, PlugBusy
from ..guard.holders import Mark
from ..netlink.devices import device_of
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc, attach_by
from ..record import Record
from .filters import SLOTS, add_filters, slot_of
from .hook import clsact_kind, filters, make_clsact
from .ifb import Ifb, alias_of, create_ifb
from .inventory import Hooks, Lane, all_lanes, hooks, ifb_name, is_whole, lane_mark, plug_of
from .match import Match
from .neighbours import refuse_device, refuse_overlap, refuse_to_bypass, refuse_to_drop
from .remove import sweep, tear_down

__all__ = ["LIMIT", "Made", "Wanted", "lane_up", "undo"]

LIMIT = 4 << 20  # an ifb's own default, about 48 KB, is full after some 650 SYNs


class Wanted(Record):
    """The lane that is asked for: of which device, for which packets of it, and whether it stays without a process."""

    __slots__ = ("device", "ifindex", "match", "ingress", "limit", "kept")
    device: str
    ifindex: int
    match: Match
    ingress: bool
    limit: int | None
    kept: bool


class Made(Record):
    """The lane and its plug; whether it was ``created`` or adopted; and the ``mark`` that this process keeps for it,
    None where the lane is kept for good or another process's."""

    __slots__ = ("lane", "plug", "mark", "created")
    lane: Lane
    plug: PlugQdisc
    mark: Mark | None
    created: bool


def lane_up(sk: RouteSocket, wanted: Wanted) -> Made:
    """Adopt the lane for the same hook and match, or make one; where that fails nothing is left of it. Under the
    device's lock."""
    device, ifindex = wanted.device, wanted.ifindex
    sweep(sk, device, ifindex)
    there = hooks(sk, ifindex, device)
    every = [lane for lane in all_lanes(sk) if lane.ifindex == ifindex]
    for lane in every:
        if lane.is_for(wanted.ingress, str(wanted.match)):
            return _adopt(sk, wanted, lane, there)
    refuse_device(sk, device, ifindex)
    refuse_overlap(device, every, wanted.ingress, wanted.match)
    refuse_to_drop(sk, device, ifindex)
    taken = {lane.slot for lane in every} | {slot_of(one) for at in there.values() for one in at}
    for slot in (slot for slot in range(SLOTS) if slot not in taken):
        mark = lane_mark(ifb_name(ifindex, slot))
        try:
            made = _make(sk, wanted, slot, mark)
        except BaseException:
            undo(sk, device, ifindex, slot, mark)
            raise
        if made is not None:
            return made
        mark.close()
    message = f"cannot make a lane on {device}: it already has the maximum of {SLOTS} lanes"
    raise NetlinkError(errno.EUSERS, message, "make a lane on", device)


def undo(sk: RouteSocket, device: str, ifindex: int, slot: int, mark: Mark) -> None:
    """Undo as much as there is of a lane whose mark this process has: an interrupt may have come between what was done
    and what is known of it."""
    try:
        if mark.taken:
            tear_down(sk, device, [lane for lane in all_lanes(sk) if (lane.ifindex, lane.slot) == (ifindex, slot)])
    finally:
        mark.close()


def _adopt(sk: RouteSocket, wanted: Wanted, lane: Lane, there: Hooks) -> Made:
    plug = plug_of(sk, lane)
    if plug is None or not is_whole(sk, lane, there):
        why = f"process {lane.pid} has a lane for the same packets that can no longer hold, and must close it"
        raise PlugBusy.by(wanted.device, lane.pid or 0, why, "make a lane on")
    if wanted.limit is not None:
        plug.apply_limit(wanted.limit)
    if wanted.kept and not lane.kept:
        lane.rewrite(sk, kept=1)
    return Made(lane, plug, None, False)


def _make(sk: RouteSocket, wanted: Wanted, slot: int, mark: Mark) -> Made | None:
    """The lane in this slot; None where somebody has the slot's mark, or a device with the name of its ifb."""
    device, ifindex, ingress = wanted.device, wanted.ifindex, wanted.ingress
    if not mark.take(sk):
        return None
    lane = _make_ifb(sk, wanted, slot)
    if lane is None:
        return None
    plug = attach_by(sk, lane.ifb.name, lib.TC_H_ROOT, None, LIMIT if wanted.limit is None else wanted.limit)
    _make_clsact(sk, wanted)
    refuse_to_bypass(sk, device, ifindex, ingress, filters(sk, ifindex, device, ingress), "make a lane on")
    count = add_filters(sk, ifindex, device, ingress, slot, wanted.match, lane.ifb.ifindex)
    lane = lane.rewrite(sk, filters=count)
    if not wanted.kept:
        return Made(lane, plug, mark, True)
    mark.close()
    return Made(lane, plug, None, True)


def _make_ifb(sk: RouteSocket, wanted: Wanted, slot: int) -> Lane | None:
    words = {
        "hook": "ingress" if wanted.ingress else "egress",
        "kept": str(int(wanted.kept)),
        "pid": str(os.getpid()),
        "filters": "0",
        "match": str(wanted.match),
    }
    name = ifb_name(wanted.ifindex, slot)
    try:
        index = create_ifb(sk, name, alias_of(words), device_of(sk, wanted.ifindex).packet)
    except FileExistsError:
        return None
    return Lane(Ifb(index, name, "", b"", True, 0, 0), wanted.ifindex, slot, words)


def _make_clsact(sk: RouteSocket, wanted: Wanted) -> None:
    """Make sure that the hook is there."""
    device = wanted.device
    if make_clsact(sk, wanted.ifindex, device):
        return
    kind = clsact_kind(sk, wanted.ifindex, device)
    if kind != "clsact" and not (kind == "ingress" and wanted.ingress):
        hint = "replace it by clsact, which has both hooks: 'tc qdisc replace' keeps no filters, so add them again"
        message = f"cannot make a lane at the egress of {device}: its {kind} qdisc excludes clsact; {hint}"
        raise NetlinkError(errno.EEXIST, message, "make a lane on", device, hint=hint)
