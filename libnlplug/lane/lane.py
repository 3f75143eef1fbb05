# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugLane: hold only chosen packets, leaving or arriving, while everything else flows.

    device --> clsact hook --> u32: does it match? --no--> on, as ever
                                  |yes
                                  '--> ifb whose root is the plug --> back to where it was

The device's own root qdisc is not touched. Setting up makes the ifb, then its plug, released, then the filters: no
packet comes before the plug is open. Closing goes backwards: release, filters, and with them the clsact qdisc where a
lane made it and nobody uses it, wait until plug and ifb are empty, ifb. lane_up.py sets up, lane_down.py undoes,
lanes.py tells whose lane is whose, neighbours.py what else is at the hook.

What a lane gives back to the ingress of a device comes in behind the device's nftables ingress chains, which would
never see it (net/core/dev.c): where there is one, an ingress lane is refused.

Threads: as PlugQdisc. Fork: the lane is the parent's; in a child it can only be forgotten.
"""

from __future__ import annotations

import errno
import os

from ..errors import DeviceNotFound, NotDrained, PlugBusy, QdiscNotFound
from ..hold import Hold
from ..netlink.route_socket import RouteSocket
from ..plug import DRAIN_TIMEOUT, PlugQdisc, checked_limit
from .create import LIMIT, LaneMaker
from .inventory import hooks, is_whole, lane_mark, lock, now, states
from .match import Match
from .neighbours import refuse_to_bypass, shadows
from .remove import tear_down

__all__ = ["LIMIT", "LaneShadowed", "PlugLane"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from ..hold import HoldReport
    from ..netlink.netns import Netns
    from .inventory import Lane
    from .marks import Mark


class LaneShadowed(UserWarning):
    """Something at the hook comes before the lane, and may take packets that the lane then does not see."""


class PlugLane:
    """A lane of ``device`` for the packets of ``match``: leaving ones, or with ``ingress`` arriving ones.

        lane = PlugLane("lo", Match(ip_proto="tcp", dst_port=8080, tcp_syn=True))
        with lane, lane.hold(timeout=5.0):
            reload_proxy()

    The constructor sets it up; leaving ``with``, or close(), undoes exactly what it made. A lane that is there for the
    same device, hook and match is adopted: it is sent nothing but a given ``limit``, and stays when this object is
    closed, unless the process that made it has died since: then the next hold() makes it this object's own. ``limit``
    is in bytes, 4 MiB where it is not given; ``netns`` as in attach(). What may keep packets from the lane, an earlier
    filter, a tcx program, or a lane for some of the same packets that was there first, is in ``shadowed``, and a
    LaneShadowed warning.

    Where the device has no clsact qdisc, the lane adds one and close() deletes it, and each time the kernel drops what
    leaves the device for a millisecond or two: measured, 9 of 4,982 SYNs while 200 lanes came and
    went, and none of 7,813 where there was one. Where that matters keep() a lane, or have a clsact qdisc made once ('tc
    qdisc add dev DEV clsact').

    Raises what attach() raises, ValueError for a match or limit that cannot be, PlugUnavailable naming the module where
    the kernel lacks ifb, clsact, u32 or mirred, PlugBusy where another process does not get done with the lanes of the
    device, and NetlinkError where the lane would bypass somebody's filter.
    """

    def __init__(
        self, device: str, match: Match, *, ingress: bool = False, limit: int | None = None, netns: Netns = None
    ) -> None:
        self._set_up(device, match, ingress, limit, netns, kept=False)

    @classmethod
    def keep(
        cls, device: str, match: Match, *, ingress: bool = False, limit: int | None = None, netns: Netns = None
    ) -> PlugLane:
        """The same, but the lane stays when this object is closed and when the process ends: 'libnlplug lane add'."""
        lane = cls.__new__(cls)
        lane._set_up(device, match, ingress, limit, netns, kept=True)
        return lane

    def _set_up(self, device: str, match: Match, ingress: bool, limit: int | None, netns: Netns, *, kept: bool) -> None:
        if not isinstance(match, Match):
            raise TypeError(f"match is {match!r}: it must be a Match")
        checked = None if limit is None else checked_limit(limit)
        self._device = device
        self._match = match
        self._ingress = bool(ingress)
        self._closed = False
        self._plug: PlugQdisc | None = None
        self._mark: Mark | None = None  # where there is one, close() undoes the lane
        self._undone = False
        self._route = RouteSocket(netns)
        try:
            self._ifindex = self._route.link(device)
            with lock(self._route, self._ifindex, device, "make a lane on"):
                maker = LaneMaker(self._route, device, self._ifindex, match, self._ingress)
                maker.up(checked, kept=kept)
                try:
                    self._lane: Lane = maker.lane
                    self._plug, self._mark, self._created = maker.plug, maker.mark, maker.created
                    self.shadowed = shadows(self._route, device, self._ifindex, self._ingress, maker.lane.slot, match)
                    self._warn()
                except BaseException:
                    maker.undo()
                    raise
        except BaseException:
            self._let_go()
            raise

    def _warn(self) -> None:
        if self.shadowed:
            import warnings

            warnings.warn(f"lane on {self._device}: {'; '.join(self.shadowed)}", LaneShadowed, stacklevel=4)

    @property
    def device(self) -> str:
        """The device whose packets are chosen from; its name when the lane was made."""
        return self._device

    @property
    def match(self) -> Match:
        """Which packets."""
        return self._match

    @property
    def ingress(self) -> bool:
        """Whether it is about arriving packets."""
        return self._ingress

    @property
    def ifb(self) -> str:
        """The name of the ifb that carries the plug."""
        return self._lane.ifb.name

    @property
    def plug(self) -> PlugQdisc:
        """The plug itself: buffer(), release_one(), stats() and so on."""
        assert self._plug is not None
        return self._plug

    @property
    def created(self) -> bool:
        """Whether this object made the lane, or adopted it."""
        return self._created

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def hold(self, timeout: float | None = None, on_death: Literal["release", "drop"] = "release") -> Hold:
        """Hold the lane's packets for a block, guarded: as PlugQdisc.hold().

        Entering raises QdiscNotFound where the lane is gone, or can hold no longer, and NetlinkError where it would
        bypass a filter that has come since.
        """
        return _LaneHold(self, timeout, on_death)

    def _ready(self) -> None:
        """Raise where the lane cannot hold what it should. A lane whose process has died is this object's then."""
        there = hooks(self._route, self._ifindex, self._device)
        lane = now(self._route, self._lane)
        if lane is None or not is_whole(self._route, lane, there):
            raise self._gone()
        at_hook = there[self._ingress]
        refuse_to_bypass(
            self._route, self._device, self._ifindex, self._ingress, lane.slot, at_hook, "hold the lane of"
        )
        if self._mark is None and not lane.kept and states(self._route, [lane], there)[lane.ifb.name] == "orphan":
            self._inherit()

    def _inherit(self) -> None:
        with lock(self._route, self._ifindex, self._device, "hold the lane of"):
            lane = now(self._route, self._lane)
            if lane is None:
                raise self._gone()
            mark = lane_mark(self.ifb)
            if mark.take(self._route):
                self._mark = mark
                lane.rewrite(self._route, pid=os.getpid())

    def _gone(self) -> QdiscNotFound:
        why = "it is gone: whoever made it has closed it, or somebody has deleted its ifb, its plug or its filters"
        message = f"cannot hold the lane of {self._device}: {why}; make it again"
        return QdiscNotFound(errno.ENOENT, message, "hold the lane of", self._device)

    def close(self, *, timeout: float = DRAIN_TIMEOUT) -> None:
        """Undo the lane: release, filters and clsact, wait ``timeout`` seconds at most until it is empty, ifb. Where
        packets wait in the device's root qdisc, which would be thrown away, the clsact qdisc stays, empty.

        Calling it again does nothing. PlugBusy (with the ``pid``) while a hold() is on, and NotDrained with the number
        of packets that could not leave; the lane stays then, and close() can be called again. DeviceNotFound, after the
        rest is undone, where held packets are lost because the device has gone, or the ifb was deleted. An adopted or
        kept lane stays, released if this object's last word left it holding.
        """
        if self._closed:
            return
        if self._route.forked:
            self._let_go()
            return
        try:
            if self._mark is None:
                self._leave()
            else:
                with lock(self._route, self._ifindex, self._device, "close the lane of"):
                    self._undo(timeout)
        except (PlugBusy, NotDrained):
            raise
        except (DeviceNotFound, QdiscNotFound):
            self._let_go()
            raise
        self._let_go()

    def _undo(self, timeout: float) -> None:
        lane = now(self._route, self._lane)
        if lane is not None and lane.kept:  # 'libnlplug lane add' has made it one that stays
            self._leave()
            return
        undone, self._undone = self._undone, True  # an earlier close() may have been interrupted near its end
        lost = tear_down(self._route, self._device, lane or self._lane, timeout)
        why = ""
        if lane is None and not undone:
            why = f"somebody has deleted its ifb {self.ifb}: what it held is lost, and what it should have held since"
        elif lost:
            why = f"{lost} packets could not be given back to it: the device has gone"
        if why:
            raise DeviceNotFound(errno.ENODEV, f"the lane of {self._device}: {why}", "close the lane of", self._device)

    def _leave(self) -> None:
        """Leave a lane that stays, releasing what this object holds."""
        if self.plug.last_action in ("buffer", "release_one"):
            self.plug.release_indefinite()

    def _let_go(self) -> None:
        """Close what this object has open; the kernel's state stays."""
        self._closed = True
        self._let_go_of_mark()
        if self._plug is not None:
            self._plug.close()
        self._route.close()

    def _let_go_of_mark(self) -> None:
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.close()

    def __enter__(self) -> PlugLane:
        self._route.fileno()  # a closed lane cannot be entered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "closed" if self._closed else f"on {self.ifb}"
        return f"<PlugLane {self._device} {'ingress' if self._ingress else 'egress'} {self._match} {where}>"


class _LaneHold(Hold):
    """A hold of a lane: begun only where the lane is whole."""

    def __init__(self, lane: PlugLane, timeout: float | None, on_death: Literal["release", "drop"]) -> None:
        super().__init__(lane.plug, timeout, on_death)
        self._lane = lane

    def __enter__(self) -> HoldReport:
        self._lane._ready()
        try:
            return super().__enter__()
        except (DeviceNotFound, QdiscNotFound):  # closed at this moment
            raise self._lane._gone() from None
