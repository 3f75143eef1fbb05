# SPDX-License-Identifier: GPL-2.0-or-later
"""Undo lanes: at close(), by 'libnlplug lane del', and orphans when the next lane of the device is made.

    nobody may hold --> release --> what was held has left --> filters --> nothing is on its way --> ifb

After each step traffic flows, so a process that is killed on the way leaves a rest that the next one can undo. The
clsact qdisc stays, empty: deleting it would lose packets, and filters that somebody else adds at that moment.
"""

from __future__ import annotations

import errno
import time

from ..errors import DeviceNotFound, NotDrained, PlugBusy, QdiscNotFound
from ..guard.holders import Mark, holder_of, mark_name
from ..netlink.libnl import lib
from ..plug import DRAIN_TIMEOUT, PlugQdisc
from .filters import delete_filters, slot_of
from .ifb import delete_ifb, ifb_of
from .inventory import (
    Lane,
    ShownLane,
    all_lanes,
    hooks,
    is_dead,
    lane_mark,
    lanes_lock,
    plug_of,
    read_again,
    shown_lanes,
    states,
)

__all__ = ["delete_lanes", "sweep", "tear_down"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..netlink.route_socket import RouteSocket
    from .match import Match

GUARD_PATIENCE = 0.5  # seconds for the guard of a process that has died


def delete_lanes(sk: RouteSocket, device: str, match: Match | None, ingress: bool | None) -> list[ShownLane]:
    """Undo the kept lanes of a device, those of one match and hook or all, and its orphans. Return them.

    Raise PlugBusy, and undo nothing, if the process of one of them is alive, or if one is being held.
    """
    ifindex = sk.ifindex_of(device)
    hook = None if ingress is None else "ingress" if ingress else "egress"
    with lanes_lock(sk, ifindex, device, "delete the lanes of"):
        there = {lane.ifb.ifindex: lane for lane in all_lanes(sk)}
        chosen = [
            lane
            for lane in shown_lanes(sk, device)
            if (match is None or lane.match in (str(match), "?")) and (hook is None or lane.hook in (hook, "?"))
        ]
        for one in chosen:
            if one.pid is not None or one.state == "alive":
                why = f"process {one.pid} uses the one on {one.ifb}"
                raise PlugBusy.by(device, one.pid or 0, why, "delete the lanes of")
            plug = plug_of(sk, there[one.ifindex]) if one.ifindex in there else None
            if plug is not None:
                plug.refuse_while_held("delete the lane on")
        tear_down(sk, device, [there[one.ifindex] for one in chosen if one.ifindex in there])
        sweep(sk, device, ifindex)
    return chosen


def sweep(sk: RouteSocket, device: str, ifindex: int) -> None:
    """Undo what dead processes left on the device, and lanes of devices that are gone. The caller has the lock."""
    there = hooks(sk, ifindex, device)
    for ingress, at in there.items():
        if any(map(is_dead, at)):
            delete_filters(sk, ifindex, device, ingress, is_dead)
    every = all_lanes(sk)
    are_now = states(sk, [lane for lane in every if lane.ifindex == ifindex], there)
    gone = {index for index in {lane.ifindex for lane in every} - {ifindex} if _is_gone(sk, index)}
    for lane in every:
        if lane.ifindex in gone or are_now.get(lane.ifb.name) == "orphan":
            mark = lane_mark(lane.ifindex, lane.slot)
            try:
                if mark.take(sk) and _guard_has_ended(sk, lane):
                    tear_down(sk, device, [lane])
            except (PlugBusy, NotDrained):  # a process that adopted it holds it: the lane is theirs
                pass
            finally:
                mark.close()


def _is_gone(sk: RouteSocket, ifindex: int) -> bool:
    try:
        sk.link_name(ifindex)
    except DeviceNotFound:
        return True
    return False


def _guard_has_ended(sk: RouteSocket, lane: Lane) -> bool:
    """Return whether nobody holds the lane. The guard of a process that has just died gets a moment to release."""
    deadline = time.monotonic() + GUARD_PATIENCE
    while holder_of(sk, mark_name(lane.ifb.ifindex, lib.TC_H_ROOT)) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def tear_down(sk: RouteSocket, device: str, found: list[Lane], timeout: float = DRAIN_TIMEOUT) -> int:
    """Undo lanes. Return how many packets could not be given back because their device was gone.

    Release, wait until the held packets have left, remove the filters, wait until the ifbs are empty, delete them.
    Nobody can begin a hold meanwhile. Raise PlugBusy if one is on, NotDrained if packets do not leave.
    """
    deadline = time.monotonic() + timeout
    found = [read_again(sk, lane) or lane for lane in found]
    marks = [Mark(mark_name(lane.ifb.ifindex, lib.TC_H_ROOT)) for lane in found]
    lost = 0
    try:
        for lane, mark in zip(found, marks):
            plug = plug_of(sk, lane)
            _keep_holders_away(sk, lane, plug, mark, deadline)
            if plug is not None:
                _let_out(sk, device, lane, plug, deadline)
        _remove_filters(sk, device, found)
        if found and lib.libnlplug_wait_for_readers() < 0:
            time.sleep(0.02)  # far longer than any processor takes for a packet
        for lane in found:
            _wait_until_empty(sk, device, lane, deadline)
            empty = read_again(sk, lane)
            delete_ifb(sk, lane.ifb.ifindex, lane.ifb.name)
            lost += empty.ifb.lost if empty else 0
        return lost
    finally:
        for mark in marks:
            mark.close()


def _keep_holders_away(sk: RouteSocket, lane: Lane, plug: PlugQdisc | None, mark: Mark, deadline: float) -> None:
    """Take the mark that a hold of the lane needs, so that none can begin."""
    while not mark.take(sk):
        if plug is not None:
            plug.refuse_while_held("close the lane on")
        if time.monotonic() > deadline:
            raise PlugBusy.by(lane.ifb.name, 0, "its hold does not end", "close the lane on")
        time.sleep(0.001)


def _let_out(sk: RouteSocket, device: str, lane: Lane, plug: PlugQdisc, deadline: float) -> None:
    """Release, and wait until the packets in the plug have left it, while the filters are still there.

    A released packet of an egress lane meets the filters again. Only the filter that matches it clears the packet's
    tc_skip_classify flag (net/sched/act_api.c); with the flag set, other hooks would ignore the packet. The plug is
    first in, first out, so its counter shows when these packets have left."""
    try:
        plug.release_indefinite()
        first = plug.stats()
        while (waiting := first.qlen - (plug.stats().packets - first.packets & 0xFFFF_FFFF)) > 0:
            if time.monotonic() >= deadline:
                raise _not_drained(device, lane, waiting, "the lane stays")
            time.sleep(0.001)
        _wait_until_empty(sk, device, lane, min(deadline, time.monotonic() + 0.1), raises=False)
    except (QdiscNotFound, DeviceNotFound):
        return


def _remove_filters(sk: RouteSocket, device: str, found: list[Lane]) -> None:
    """Delete the lanes' filters: those with their slots that lead to their ifbs, or to an ifb that is gone."""
    targets = {lane.slot: lane.ifb.ifindex for lane in found}
    for ifindex in {lane.ifindex for lane in found}:
        for ingress in (False, True):
            delete_filters(
                sk,
                ifindex,
                device,
                ingress,
                lambda one: (slot := slot_of(one)) in targets and one.target in (targets[slot], 0),
            )


def _wait_until_empty(sk: RouteSocket, device: str, lane: Lane, deadline: float, *, raises: bool = True) -> None:
    """Wait until the ifb and its qdisc are empty."""
    while waiting := _inside(sk, lane):
        if time.monotonic() >= deadline:
            if raises:
                raise _not_drained(device, lane, waiting, "its filters are gone, the ifb stays")
            return
        time.sleep(0.001)


def _inside(sk: RouteSocket, lane: Lane) -> int:
    """Return how many packets are in the ifb and its qdisc. The qdisc is read first, so that a packet that leaves it is
    counted twice rather than not at all."""
    try:
        there = sk.qdisc(lane.ifb.ifindex, lib.TC_H_ROOT, lane.ifb.name)
    except (QdiscNotFound, DeviceNotFound):
        there = None
    ifb = ifb_of(sk, lane.ifb.ifindex)
    return (there.qlen if there else 0) + (ifb.inside if ifb else 0)


def _not_drained(device: str, lane: Lane, waiting: int, stays: str) -> NotDrained:
    sentence = (
        f"cannot close the lane of {device}: {waiting} released packets have not left {lane.ifb.name} in time; {stays},"
        " released, so that they are not lost"
    )
    return NotDrained(errno.ETIMEDOUT, sentence, "close the lane of", device)
