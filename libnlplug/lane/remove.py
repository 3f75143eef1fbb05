# SPDX-License-Identifier: GPL-2.0-or-later
"""How a lane is undone: by who made it, by 'libnlplug lane del', or, an orphan, by the next lane of the device.

    nobody may hold --> release --> what was held has left --> filters, clsact --> nothing is on its way --> ifb

Each step leaves traffic flowing, so whoever is killed on the way leaves a rest that the next one undoes.
"""

from __future__ import annotations

import errno
import time
from _socket import SOCK_SEQPACKET

from ..errors import DeviceNotFound, NotDrained, PlugBusy, QdiscNotFound
from ..guard.holders import holder_of, mark_name
from ..netlink.libnl import lib
from ..plug import DRAIN_TIMEOUT, PlugQdisc
from .filters import delete_filters, slot_of
from .hook import delete_clsact, has_chains, is_quiet
from .ifb import delete_ifb, ifb_of
from .inventory import Lane, LaneInfo, all_lanes, dead_slots, hooks, lane_mark, lanes, lock, now, plug_of, states
from .marks import Mark

__all__ = ["delete_lanes", "sweep", "tear_down"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..netlink.route_socket import RouteSocket
    from .match import Match

GUARD_PATIENCE = 0.5  # seconds for the guard of a process that has died


def delete_lanes(route: RouteSocket, device: str, match: Match | None, ingress: bool | None) -> list[LaneInfo]:
    """Undo the kept lanes of a device, those of one match and hook or all, and its orphans. Which of them there were.

    A lane whose process is alive, or that is being held, is PlugBusy, and nothing is undone.
    """
    ifindex = route.link(device)
    hook = None if ingress is None else "ingress" if ingress else "egress"
    with lock(route, ifindex, device, "delete the lanes of"):
        there = {lane.ifb.ifindex: lane for lane in all_lanes(route)}
        chosen = [
            lane
            for lane in lanes(route, device)
            if (match is None or lane.match in (str(match), "?")) and (hook is None or lane.hook in (hook, "?"))
        ]
        for one in chosen:
            if one.state == "alive":
                why = f"process {one.pid} uses the one on {one.ifb}"
                raise PlugBusy.by(device, one.pid or 0, why, "delete the lanes of")
            plug = plug_of(route, there[one.ifindex]) if one.ifindex in there else None
            if plug is not None:
                plug.refuse_while_held("delete the lane on")
        for one in chosen:
            if one.ifindex in there:
                tear_down(route, device, there[one.ifindex])
        sweep(route, device, ifindex)
    return chosen


def sweep(route: RouteSocket, device: str, ifindex: int) -> None:
    """Undo what dead processes have left on the device, and lanes of devices that are gone. Under the device's lock."""
    there = hooks(route, ifindex, device)
    for ingress, slots in dead_slots(there).items():
        for slot in slots:
            delete_filters(route, ifindex, device, ingress, slot)
    every = all_lanes(route)
    are_now = states(route, [lane for lane in every if lane.ifindex == ifindex], there)
    gone = {index for index in {lane.ifindex for lane in every} - {ifindex} if _is_gone(route, index)}
    for lane in every:
        if lane.ifindex in gone or are_now.get(lane.ifb.name) == "orphan":
            mark = lane_mark(lane.ifb.name)
            try:
                if mark.take(route) and _guard_has_ended(route, lane):
                    tear_down(route, device, lane)
            except (PlugBusy, NotDrained):  # somebody who had adopted it holds it: it is theirs
                pass
            finally:
                mark.close()


def _is_gone(route: RouteSocket, ifindex: int) -> bool:
    try:
        route.link_name(ifindex)
    except DeviceNotFound:
        return True
    return False


def _guard_has_ended(route: RouteSocket, lane: Lane) -> bool:
    """Whether nobody holds the lane, after a moment for a guard that is just releasing what its holder held."""
    deadline = time.monotonic() + GUARD_PATIENCE
    while holder_of(route, mark_name(lane.ifb.ifindex, lib.TC_H_ROOT)) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def tear_down(route: RouteSocket, device: str, lane: Lane, timeout: float = DRAIN_TIMEOUT) -> int:
    """The exact undo; how many packets could not be given back because their device had gone.

    Release, wait until what was held has left, remove the filters, wait until nothing is on its way through the ifb any
    more, delete it. Nobody can begin a hold meanwhile. PlugBusy while one is on, NotDrained where packets do not leave.
    """
    deadline = time.monotonic() + timeout
    lane = now(route, lane) or lane
    plug = plug_of(route, lane)
    hold = Mark(mark_name(lane.ifb.ifindex, lib.TC_H_ROOT), SOCK_SEQPACKET)
    try:
        while not hold.take(route):
            if plug is not None:
                plug.refuse_while_held("close the lane on")
            if time.monotonic() > deadline:
                raise PlugBusy.by(lane.ifb.name, 0, "its hold does not end", "close the lane on")
            time.sleep(0.001)
        if plug is not None:
            _let_out(route, device, lane, plug, deadline)
        _remove_filters(route, device, lane)
        _wait_until_empty(route, device, lane, deadline)
        empty = now(route, lane)
        delete_ifb(route, lane.ifb.ifindex, lane.ifb.name)
        return empty.ifb.lost if empty else 0
    finally:
        hold.close()


def _let_out(route: RouteSocket, device: str, lane: Lane, plug: PlugQdisc, deadline: float) -> None:
    """Release, and wait until what was in the plug has left it, with the filters in place: what leaves a device comes
    past them once more, and only a filter that matches it takes the mark off it by which other hooks would let it pass
    unseen (tc_skip_classify in net/sched/act_api.c). The plug is first in, first out: its counter tells."""
    try:
        plug.release_indefinite()
        first = plug.stats()
        while (waiting := first.qlen - (plug.stats().packets - first.packets & 0xFFFF_FFFF)) > 0:
            if time.monotonic() >= deadline:
                raise _not_drained(device, lane, waiting, "the lane stays")
            time.sleep(0.001)
        _wait_until_empty(route, device, lane, min(deadline, time.monotonic() + 0.1), raises=False)
    except (QdiscNotFound, DeviceNotFound):
        return


def _remove_filters(route: RouteSocket, device: str, lane: Lane) -> None:
    """Delete the lane's filters and, where a lane made it and nobody else uses it, the clsact qdisc with them; but let
    it be, empty, where packets would be lost with it."""
    ifindex = lane.ifindex
    there = hooks(route, ifindex, device)
    every = [one for at in there.values() for one in at]
    mine = [one for one in every if slot_of(one) == lane.slot]
    # A complete lane without its filters: somebody has deleted the clsact qdisc, and what stands there now is not ours.
    if lane.words.get("clsact") == "1" and (mine or not lane.filters):
        heirs = [one for one in all_lanes(route) if one.ifindex == ifindex and one.slot != lane.slot and one.words]
        if heirs:
            heirs[0].rewrite(route, clsact=1)
        elif len(mine) == len(every) and not has_chains(route, ifindex, device):
            try:
                if is_quiet(route, ifindex, device):
                    delete_clsact(route, ifindex, device)
                    return
            except (QdiscNotFound, DeviceNotFound):
                return
    for ingress, at in there.items():
        if any(slot_of(one) == lane.slot for one in at):
            try:
                delete_filters(route, ifindex, device, ingress, lane.slot)
            except DeviceNotFound:  # it went at this moment, and its filters with it
                pass


def _wait_until_empty(route: RouteSocket, device: str, lane: Lane, deadline: float, *, raises: bool = True) -> None:
    """Wait until the ifb and its qdisc are empty, at a moment when nobody is still on the way to them."""
    if raises and lib.libnlplug_wait_for_readers() < 0:
        time.sleep(0.02)  # far longer than any processor takes for a packet
    while waiting := _inside(route, lane):
        if time.monotonic() >= deadline:
            if raises:
                raise _not_drained(device, lane, waiting, "its filters are gone, the ifb stays")
            return
        time.sleep(0.001)


def _inside(route: RouteSocket, lane: Lane) -> int:
    """How many packets are in the ifb and its qdisc. The qdisc is asked first: what leaves it is then counted twice
    rather than not at all."""
    try:
        there = route.qdisc(lane.ifb.ifindex, lib.TC_H_ROOT, lane.ifb.name)
    except (QdiscNotFound, DeviceNotFound):
        there = None
    ifb = ifb_of(route, lane.ifb.ifindex)
    return (there.qlen if there else 0) + (ifb.inside if ifb else 0)


def _not_drained(device: str, lane: Lane, waiting: int, stays: str) -> NotDrained:
    message = (
        f"cannot close the lane of {device}: {waiting} released packets have not left {lane.ifb.name} in time; {stays},"
        " released, so that they are not lost"
    )
    return NotDrained(errno.ETIMEDOUT, message, "close the lane of", device)
