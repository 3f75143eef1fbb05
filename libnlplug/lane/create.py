# SPDX-License-Identifier: GPL-2.0-or-later
"""Set up a lane, or adopt one that exists.

    ifb, described, up --> plug, created and released in one send --> clsact --> filters --> the alias says: complete

In this order, no packet reaches the plug before it is released. If the process dies on the way, the ifb's alias tells
the next process how far it came.
"""

from __future__ import annotations

import errno
import os

from ..attaching import attach_by
from ..errors import NetlinkError, PlugBusy
from ..guard.holders import Mark
from ..netlink.devices import device_of
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc
from ..record import Record
from .filters import SLOTS, add_filters, by_slot, slot_of
from .hook import clsact_kind, make_clsact
from .ifb import alias_of, create_ifb, unnamed
from .inventory import Hooks, Lane, all_lanes, fault, hooks, ifb_name, lane_mark, place_of, plug_of
from .match import Match
from .neighbours import refuse_device, refuse_overlap, refuse_to_bypass, refuse_to_drop
from .remove import sweep, tear_down

__all__ = ["LIMIT", "Made", "Wanted", "make_or_adopt", "undo"]

LIMIT = 4 << 20  # the default of an ifb's plug, about 48 KB, is full after some 650 SYNs


class Wanted(Record):
    """The lane that is asked for. ``kept`` says that it stays when its process ends."""

    __slots__ = ("device", "ifindex", "match", "ingress", "limit", "kept")
    device: str
    ifindex: int
    match: Match
    ingress: bool
    limit: int | None
    kept: bool


class Made(Record):
    """The lane and its plug. ``created`` is false if it was adopted. ``mark`` is the mark that this process keeps for
    it, or None if the lane is kept or belongs to another process."""

    __slots__ = ("lane", "plug", "mark", "created")
    lane: Lane
    plug: PlugQdisc
    mark: Mark | None
    created: bool


def make_or_adopt(sk: RouteSocket, wanted: Wanted) -> Made:
    """Adopt the lane for the same hook and match, or make one. If that fails, nothing of it stays. The caller has the
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
    slots = {lane.slot for lane in every}
    refuse_to_bypass(sk, device, ifindex, wanted.ingress, there[wanted.ingress], "make a lane on", slots)
    refuse_to_drop(sk, device, ifindex)
    taken = slots | {slot_of(one) for at in there.values() for one in at}
    for slot in (slot for slot in range(SLOTS) if slot not in taken):
        mark = lane_mark(ifindex, slot)
        try:
            made = _make(sk, wanted, slot, mark)
        except BaseException:
            undo(sk, device, ifindex, slot, mark)
            raise
        if made is not None:
            return made
        mark.close()
    sentence = f"cannot make a lane on {device}: it already has the maximum of {SLOTS} lanes"
    raise NetlinkError(errno.EUSERS, sentence, "make a lane on", device)


def undo(sk: RouteSocket, device: str, ifindex: int, slot: int, mark: Mark) -> None:
    """Undo as much of a lane as exists, if this process has its mark. (After an interrupt, more may exist than the
    caller knows.)"""
    try:
        if mark.taken:
            tear_down(sk, device, [lane for lane in all_lanes(sk) if (lane.ifindex, lane.slot) == (ifindex, slot)])
    finally:
        mark.close()


def _adopt(sk: RouteSocket, wanted: Wanted, lane: Lane, there: Hooks) -> Made:
    plug = plug_of(sk, lane)
    if plug is None or fault(sk, lane, by_slot(there[lane.ingress]).get(lane.slot, [])):
        why = f"process {lane.pid} has a lane for the same packets that can no longer hold, and must close it"
        raise PlugBusy.by(wanted.device, lane.pid or 0, why, "make a lane on")
    if wanted.limit is not None:
        plug.apply_limit(wanted.limit)
    if wanted.kept and not lane.kept:
        lane.rewrite(sk, kept=1)
    return Made(lane, plug, None, False)


def _make(sk: RouteSocket, wanted: Wanted, slot: int, mark: Mark) -> Made | None:
    """Make the lane in this slot. Return None if another process has the slot's mark, or if a device has the ifb's
    name."""
    device, ifindex, ingress = wanted.device, wanted.ifindex, wanted.ingress
    if not mark.take(sk):
        return None
    lane = _make_ifb(sk, wanted, slot)
    if lane is None:
        return None
    try:
        plug = attach_by(sk, lane.ifb.name, lib.TC_H_ROOT, None, LIMIT if wanted.limit is None else wanted.limit)
    except NetlinkError as error:
        raise unnamed(error, lane.ifb.name, f"{device} (for a lane)") from None
    _make_clsact(sk, wanted)
    count, keys = add_filters(sk, ifindex, device, ingress, slot, wanted.match, lane.ifb.ifindex)
    lane = lane.rewrite(sk, filters=count, keys=keys)
    if not wanted.kept:
        return Made(lane, plug, mark, True)
    mark.close()
    return Made(lane, plug, None, True)


def _make_ifb(sk: RouteSocket, wanted: Wanted, slot: int) -> Lane | None:
    words = {
        "at": place_of(wanted.ifindex, slot),
        "hook": "ingress" if wanted.ingress else "egress",
        "kept": str(int(wanted.kept)),
        "pid": str(os.getpid()),
        "filters": "0",
        "match": str(wanted.match),
    }
    name = ifb_name(wanted.ifindex, slot)
    try:
        ifb = create_ifb(sk, name, alias_of(words), device_of(sk, wanted.ifindex).packet)
    except FileExistsError:
        return None
    return Lane(ifb, wanted.ifindex, slot, words)


def _make_clsact(sk: RouteSocket, wanted: Wanted) -> None:
    """Add a clsact qdisc if the device has none, or raise NetlinkError if its ingress qdisc excludes one."""
    device = wanted.device
    if make_clsact(sk, wanted.ifindex, device):
        return
    kind = clsact_kind(sk, wanted.ifindex, device)
    if kind != "clsact" and not (kind == "ingress" and wanted.ingress):
        hint = "replace it by clsact, which has both hooks: 'tc qdisc replace' keeps no filters, so add them again"
        sentence = f"cannot make a lane at the egress of {device}: its {kind} qdisc excludes clsact; {hint}"
        raise NetlinkError(errno.EEXIST, sentence, "make a lane on", device, hint=hint)
