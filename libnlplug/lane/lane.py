# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugLane: hold only chosen packets, leaving or arriving, while everything else flows.

    device --> clsact hook --> flower: does it match? --no--> on, as ever
                                  |yes
                                  '--> ifb whose root is the plug --> back to where it was

The device's own root qdisc is not touched. Setting up makes the ifb, then its plug, released, then the filters: no
packet comes before the plug is open. Closing goes backwards: release, filters, wait until plug and ifb are empty, ifb.
A clsact qdisc that a lane had to add stays, empty. create.py sets up, remove.py undoes, inventory.py tells whose lane
is whose, neighbours.py what else is at the hook.

What a lane gives back to the ingress of a device comes in behind the device's nftables ingress chains, which would
never see it (net/core/dev.c): where there is one, an ingress lane is refused.

Threads: as PlugQdisc. Fork: the lane is the parent's; in a child it can only be forgotten.
"""

from __future__ import annotations

import errno
import os

from ..async_with import AsyncWith
from ..errors import DeviceNotFound, HoldExpired, NetlinkError, NotDrained, PlugBusy, QdiscNotFound
from ..hold import Hold, HoldReport
from ..netlink.devices import refuse_small_limit
from ..netlink.route_socket import RouteSocket
from ..plug import DRAIN_TIMEOUT, PlugQdisc, checked_limit
from .create import LIMIT, Wanted, lane_up, undo
from .filters import by_slot, in_place
from .handover import Handover
from .inventory import hooks, lane_mark, lock, now, plug_of, states
from .listeners import sockets_of
from .match import Match
from .neighbours import refuse_to_bypass, shadows
from .remove import tear_down

__all__ = ["LIMIT", "BacklogTooSmall", "LaneHold", "LaneReport", "LaneShadowed", "PlugLane", "backlog_sentence"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from ..guard.holders import Mark
    from ..netlink.netns import Netns
    from .inventory import Hooks, Lane

    OnDeath = Literal["release", "drop"]


class LaneShadowed(UserWarning):
    """Something at the hook comes before the lane, and may take packets that the lane then does not see."""


class BacklogTooSmall(RuntimeWarning):
    """More connections were held than the listener's backlog has room for when they are released."""


class PlugLane(AsyncWith):
    """A lane of ``device`` for the packets of ``match``: leaving ones, or with ``ingress`` arriving ones.

        lane = PlugLane("lo", Match(ip_proto="tcp", dst_port=8080, tcp_syn=True))
        with lane, lane.hold(timeout=5.0):
            reload_proxy()

    The constructor sets it up; leaving ``with``, or close(), undoes exactly what it made. A lane that is there for the
    same device, hook and match is adopted: it is sent nothing but a given ``limit``, and stays when this object is
    closed, unless the process that made it has died since: then the next hold() makes it this object's own. ``limit``
    is in bytes, 4 MiB where it is not given; ``netns`` as in attach(). What may keep packets from the lane, an earlier
    filter or a tcx program, is in ``shadowed``, and a LaneShadowed warning.

    Where the device has no clsact qdisc, the lane adds one, which stays there, empty. Meanwhile the kernel drops
    what leaves the device, for a millisecond or two: once for a device.

    Raises what attach() raises, ValueError for an invalid match or limit, PlugUnavailable naming the module where the
    kernel lacks ifb, clsact, flower or mirred, PlugBusy where another process does not finish with the lanes of the
    device, and NetlinkError where the lane would bypass somebody's filter, where another lane takes some of the same
    packets, and for a device whose packets do not come by its hooks (a VRF, an ipvlan in l3s mode).
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
        self._sk = RouteSocket(netns)
        try:
            self._ifindex = self._sk.link(device)
            if checked is not None:
                refuse_small_limit(self._sk, self._ifindex, device, checked, stacklevel=4)
            with lock(self._sk, self._ifindex, device, "make a lane on"):
                made = lane_up(self._sk, Wanted(device, self._ifindex, match, self._ingress, checked, kept))
                try:
                    self._lane: Lane = made.lane
                    self._plug, self._mark, self._created = made.plug, made.mark, made.created
                    self.shadowed = self._shadows(hooks(self._sk, self._ifindex, device))
                    self._warn()
                except BaseException:
                    if made.mark is not None:
                        undo(self._sk, device, self._ifindex, made.lane.slot, made.mark)
                    raise
        except BaseException:
            self._let_go()
            raise

    def _shadows(self, there: Hooks) -> list[str]:
        return shadows(self._sk, self._ifindex, self._ingress, self._match, there[self._ingress])

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
    def forked(self) -> bool:
        """Whether this is a forked child of the process that the object belongs to."""
        return self._sk.forked

    def socket(self) -> RouteSocket:
        """The lane's socket; ClosedError where it is closed."""
        self._sk.fileno()
        return self._sk

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def hold(self, timeout: float | None = None, on_death: OnDeath = "release", *, handover: bool = False) -> LaneHold:
        """Hold the lane's packets for a block, guarded: as PlugQdisc.hold().

        The lane is checked when the hold begins and when it ends. NetlinkError (QdiscNotFound where something is gone)
        says what is wrong with it, or would be bypassed by it, or has come before it meanwhile; the report's counts are
        None then.

        With ``handover``, of a lane for a TCP dst_port, the block begins when the accept queues of the listeners on
        that port in the lane's namespace are empty and no handshake with them is half done; and the hold ends when
        those listeners have closed and another one is there. All within ``timeout``: else HoldExpired says what did not
        happen. The report's ``handover`` is 'handed over', 'same socket' where the listener stayed (a server that keeps
        its socket needs no hold), or 'nothing listened'.

        The report's ``backlog_needed`` is how many connections the listener must have room for, where more were held
        than its backlog; a BacklogTooSmall warning says so.
        """
        return LaneHold(self, timeout, on_death, handover)

    def ready(self) -> list[str]:
        """For a hold that begins: raise where the lane cannot hold what it should; else what shadows it. A lane whose
        process has died is this object's then."""
        there = hooks(self._sk, self._ifindex, self._device)
        lane = now(self._sk, self._lane)
        self._refuse_broken(lane, there)
        assert lane is not None
        at_hook = there[self._ingress]
        refuse_to_bypass(self._sk, self._device, self._ifindex, self._ingress, at_hook, "hold the lane of")
        if self._mark is None and not lane.kept and states(self._sk, [lane], there)[lane.ifb.name] == "orphan":
            self._inherit()
        return self._shadows(there)

    def _refuse_broken(self, lane: Lane | None, there: Hooks) -> None:
        """Raise where the lane does not take what it matches, or does not hold it."""
        ifb = self.ifb
        if lane is None:
            raise self.gone()
        if not in_place(by_slot(there[self._ingress]).get(lane.slot, []), lane.ifb.ifindex, lane.filters):
            why = "its filters are gone, or the clsact qdisc with them"
        elif not lane.ifb.up:
            why = f"its ifb {ifb} is down, which drops what the lane takes"
        elif plug_of(self._sk, lane) is None:
            why = f"the plug of its ifb {ifb} is gone"
        else:
            return
        raise self.gone(f"it is gone or broken: {why}; close it and make it again")

    def broken_since(self, shadowed: list[str]) -> NetlinkError | None:
        """What has kept the lane from holding since ready() returned ``shadowed``."""
        try:
            there = hooks(self._sk, self._ifindex, self._device)
            self._refuse_broken(now(self._sk, self._lane), there)
            new = [sentence for sentence in self._shadows(there) if sentence not in shadowed]
        except NetlinkError as error:
            return error
        if not new:
            return None
        message = f"the hold of the lane of {self._device} may have missed packets: meanwhile {'; '.join(new)}"
        return NetlinkError(errno.EEXIST, message, "hold the lane of", self._device)

    def _inherit(self) -> None:
        with lock(self._sk, self._ifindex, self._device, "hold the lane of"):
            lane = now(self._sk, self._lane)
            if lane is None:
                raise self.gone()
            mark = lane_mark(self.ifb)
            if mark.take(self._sk):
                self._mark = mark
                lane.rewrite(self._sk, pid=os.getpid())

    def gone(self, why: str | None = None) -> QdiscNotFound:
        """The error for a lane that holds nothing."""
        deleted = (
            f"it is gone: whoever made it has closed it, or somebody has deleted its ifb {self.ifb}; make it again"
        )
        message = f"cannot hold the lane of {self._device}: {why or deleted}"
        return QdiscNotFound(errno.ENOENT, message, "hold the lane of", self._device)

    def close(self, *, timeout: float = DRAIN_TIMEOUT) -> None:
        """Undo the lane: release, filters, wait ``timeout`` seconds at most until it is empty, ifb. The clsact qdisc
        stays.

        Calling it again does nothing. PlugBusy (with the ``pid``) while a hold() is on, and NotDrained with the number
        of packets that could not leave; the lane stays then, and close() can be called again. DeviceNotFound, after the
        rest is undone, where held packets are lost because the device has gone, or the ifb was deleted. An adopted or
        kept lane stays, released if this object's last word left it holding.
        """
        if self._closed:
            return
        if self._sk.forked:
            self._let_go()
            return
        try:
            if self._mark is None:
                self._leave()
            else:
                with lock(self._sk, self._ifindex, self._device, "close the lane of"):
                    self._undo(timeout)
        except (PlugBusy, NotDrained):
            raise
        except (DeviceNotFound, QdiscNotFound):
            self._let_go()
            raise
        self._let_go()

    def _undo(self, timeout: float) -> None:
        lane = now(self._sk, self._lane)
        if lane is not None and lane.kept:  # 'libnlplug lane add' has made it one that stays
            self._leave()
            return
        undone, self._undone = self._undone, True  # an earlier close() may have been interrupted near its end
        lost = tear_down(self._sk, self._device, [lane or self._lane], timeout)
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
        self._sk.close()

    def _let_go_of_mark(self) -> None:
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.close()

    def __enter__(self) -> PlugLane:
        self._sk.fileno()  # a closed lane cannot be entered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "closed" if self._closed else f"on {self.ifb}"
        return f"<PlugLane {self._device} {'ingress' if self._ingress else 'egress'} {self._match} {where}>"


class LaneReport(HoldReport):
    """A HoldReport that says, in ``handover``, how the listeners were handed over, and in ``backlog_needed`` which
    backlog would have had room for all held connections; None where that was not asked for, or is not known."""

    __slots__ = ("handover", "backlog", "backlog_needed")

    def __init__(self) -> None:
        super().__init__()
        self.handover: str | None = None
        self.backlog: int | None = None
        self.backlog_needed: int | None = None

    def as_dict(self) -> dict[str, object]:
        """The values by their names."""
        return {name: getattr(self, name) for name in (*HoldReport.__slots__, *self.__slots__)}


class LaneHold(Hold):
    """A hold of a lane, which is checked when it begins and when it ends; made by PlugLane.hold()."""

    def __init__(self, lane: PlugLane, timeout: float | None, on_death: OnDeath, handover: bool) -> None:
        super().__init__(lane.plug, timeout, on_death)
        self._lane = lane
        self._report: LaneReport = LaneReport()
        self._handover = Handover(lane.socket(), lane.match, timeout) if handover else None
        self._shadowed: list[str] = []

    def __enter__(self) -> LaneReport:
        self._shadowed = self._lane.ready()
        try:
            super().__enter__()
        except (DeviceNotFound, QdiscNotFound):  # closed at this moment
            raise self._lane.gone() from None
        late = None
        try:
            if self._handover is not None:
                late = self._handover.wait_until_quiet()
        except BaseException as error:
            super().__exit__(type(error), error, error.__traceback__)
            raise
        if late is not None:
            self._end_late(f"{late}, so the block was not begun")
        return self._report

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lane.closed or self._lane.forked:
            super().__exit__(kind, error, traceback)
            return
        try:
            late = self._wait_until_closed() if error is None else None
            broken = self._lane.broken_since(self._shadowed)
        except BaseException as interrupt:
            super().__exit__(type(interrupt), interrupt, interrupt.__traceback__)
            raise
        if late is not None:
            self._end_late(late)
        self._leave_checked(broken)

    def give_up_waiting(self) -> None:
        """End the waits of a handover at once."""
        if self._handover is not None:
            self._handover.give_up()

    def _wait_until_closed(self) -> str | None:
        if self._handover is None:
            return None
        late = self._handover.wait_until_closed()
        self._report.handover = self._handover.outcome
        return late

    def _leave_checked(self, broken: NetlinkError | None) -> None:
        """Release, and raise what was wrong: an expiry, or with the lane."""
        try:
            super().__exit__(None, None, None)
        except HoldExpired:
            raise
        except NetlinkError:
            if broken is None:
                raise
        report = self._report
        if broken is not None:
            report.packets = report.bytes = report.dropped = report.limit_needed = None
            raise broken
        if report.packets:
            self._compare_backlog(report.packets)

    def _end_late(self, what: str) -> None:
        """Release at the end of the time, and raise HoldExpired with what did not happen."""
        try:
            super().__exit__(None, None, None)
        except HoldExpired:
            pass
        self._report.expired = True
        self._report.packets = self._report.bytes = self._report.dropped = None
        device, seconds = self._lane.device, self._report.seconds or 0.0
        message = f"the handover of {device} was not done within {seconds:.3f} s: {what}; it is released now"
        raise HoldExpired(None, message, "hold", device)

    def _compare_backlog(self, held: int) -> None:
        """Say so where more connections come at once than the listeners have room for."""
        match = self._lane.match
        if not match.tcp_syn or match.dst_port is None:
            return
        try:
            listeners = sockets_of(self._lane.socket(), match, half_done=False).listeners
        except NetlinkError:
            return
        rooms = [sum(one.backlog for one in listeners if one.port == port) for port in {one.port for one in listeners}]
        if not rooms:
            return
        self._report.backlog = min(rooms)
        if held > min(rooms):
            import warnings

            self._report.backlog_needed = held
            warnings.warn(backlog_sentence(held, min(rooms)), BacklogTooSmall, stacklevel=4)


def backlog_sentence(held: int, backlog: int) -> str:
    """What it means that more connections were held than the listener has room for, and what to do."""
    return (
        f"{held} new connections were held, and the listener has room for {backlog} at once: the others come a second"
        f" later, or are reset where net.ipv4.tcp_abort_on_overflow is 1; give it a backlog of {held}, and"
        f" net.core.somaxconn too"
    )
