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
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc, attach_by
from .filters import SLOTS, add_filters, slot_of
from .hook import clsact_kind, filters, make_clsact
from .ifb import Ifb, alias_of, create_ifb
from .inventory import Hooks, Lane, all_lanes, hooks, ifb_name, is_whole, lane_mark, plug_of
from .marks import Mark
from .match import Match
from .neighbours import refuse_to_bypass, refuse_to_drop, rivals
from .remove import sweep, tear_down

__all__ = ["LIMIT", "LaneMaker"]

LIMIT = 4 << 20  # an ifb's own default, about 48 KB, is full after some 650 SYNs


class LaneMaker:
    """What is known on the way to a lane; all of it once up() has returned.

    ``lane`` and its ``plug``, whether it was ``created`` or adopted, and the ``mark`` that this process keeps for it,
    None where the lane is kept for good or another process's. Under the device's lock.
    """

    def __init__(self, route: RouteSocket, device: str, ifindex: int, match: Match, ingress: bool) -> None:
        self._route = route
        self._device = device
        self._ifindex = ifindex
        self._match = match
        self._ingress = ingress
        self.lane: Lane
        self.plug: PlugQdisc
        self.mark: Mark | None = None
        self.created = False

    def up(self, limit: int | None, *, kept: bool) -> None:
        """Adopt the lane for the same hook and match, or make one; where that fails nothing is left of it."""
        sweep(self._route, self._device, self._ifindex)
        there = hooks(self._route, self._ifindex, self._device)
        every = [lane for lane in all_lanes(self._route) if lane.ifindex == self._ifindex]
        for lane in every:
            if lane.is_for(self._ingress, str(self._match)):
                self._adopt(lane, there, limit, kept)
                return
        refuse_to_drop(self._route, self._device, self._ifindex)
        taken = {lane.slot for lane in every} | {slot_of(one) for at in there.values() for one in at}
        try:
            self._make(taken, LIMIT if limit is None else limit, kept)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Undo as much as there is: an interrupt may have come between what was done and what is known of it."""
        try:
            for lane in all_lanes(self._route):
                if self.mark is not None and (lane.ifindex, lane.slot) == (self._ifindex, self.lane.slot):
                    tear_down(self._route, self._device, lane)
        finally:
            self._let_go_of_mark()

    def _adopt(self, lane: Lane, there: Hooks, limit: int | None, kept: bool) -> None:
        plug = plug_of(self._route, lane)
        if plug is None or not is_whole(self._route, lane, there):
            why = f"process {lane.pid} has one for the same packets that can hold no longer, and must close it"
            raise PlugBusy.by(self._device, lane.pid or 0, why, "make a lane on")
        self.lane, self.plug = lane, plug
        if limit is not None:
            plug.set_limit(limit)
        if kept and not lane.kept:
            lane.rewrite(self._route, kept=1)

    def _make(self, taken: set[int | None], limit: int, kept: bool) -> None:
        route, device, ifindex, ingress = self._route, self._device, self._ifindex, self._ingress
        self._make_ifb(taken, kept)
        ifb, slot = self.lane.ifb, self.lane.slot
        self.plug = attach_by(route, ifb.name, lib.TC_H_ROOT, None, limit)
        self._make_clsact()
        at_hook = filters(route, ifindex, device, ingress)
        refuse_to_bypass(route, device, ifindex, ingress, slot, at_hook, "make a lane on")
        count = add_filters(route, ifindex, device, ingress, slot, self._match, ifb.ifindex)
        self.lane = self.lane.rewrite(route, filters=count)
        self.created = True
        if kept:
            self._let_go_of_mark()

    def _make_ifb(self, taken: set[int | None], kept: bool) -> None:
        """The ifb in the first slot that is not ``taken``, and whose name and mark nobody has; if there is one, behind
        the lanes that have some of the same packets, which would else not see them any more."""
        words = {
            "hook": "ingress" if self._ingress else "egress",
            "kept": str(int(kept)),
            "pid": str(os.getpid()),
            "clsact": str(int(clsact_kind(self._route, self._ifindex, self._device) is None)),
            "filters": "0",
            "match": str(self._match),
        }
        theirs = [lane.slot for lane in rivals(self._route, self._ifindex, self._ingress, self._match)]
        behind = max(theirs, default=-1) + 1
        for slot in (*range(behind, SLOTS), *range(behind)):
            if slot in taken:
                continue
            name = ifb_name(self._ifindex, slot)
            self.lane = Lane(Ifb(0, name, "", b"", False, 0, 0), self._ifindex, slot, words)
            self.mark = lane_mark(name)
            if self.mark.take(self._route):
                try:
                    index = create_ifb(self._route, name, alias_of(words))
                except FileExistsError:  # somebody's device has the name
                    self._let_go_of_mark()
                else:
                    self.lane = Lane(Ifb(index, name, "", b"", True, 0, 0), self._ifindex, slot, words)
                    return
        self._let_go_of_mark()
        message = f"cannot make a lane on {self._device}: it has {SLOTS}, and no place for more"
        raise NetlinkError(errno.EUSERS, message, "make a lane on", self._device)

    def _make_clsact(self) -> None:
        """Make sure that the hook is there."""
        if make_clsact(self._route, self._ifindex, self._device):
            return
        kind = clsact_kind(self._route, self._ifindex, self._device)
        if kind != "clsact" and not (kind == "ingress" and self._ingress):
            hint = "replace it by clsact, which has both hooks: 'tc qdisc replace' keeps no filters, so add them again"
            message = f"cannot make a lane at the egress of {self._device}: its {kind} qdisc excludes clsact; {hint}"
            raise NetlinkError(errno.EEXIST, message, "make a lane on", self._device, hint=hint)
        if self.lane.words["clsact"] == "1":  # it came a moment ago
            self.lane = self.lane.rewrite(self._route, clsact=0)

    def _let_go_of_mark(self) -> None:
        mark, self.mark = self.mark, None
        if mark is not None:
            mark.close()
