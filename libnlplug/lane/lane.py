# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugLane: hold only chosen packets, leaving or arriving, while everything else flows.

    device --> clsact hook --> flower: does it match? --no--> on, as ever
                                  |yes
                                  '--> ifb whose root is the plug --> back to where it was

The device's root qdisc is not touched. A lane is made in the order ifb, plug (released), filters, so that no packet
reaches a plug that holds. It is closed in the order release, filters, wait until plug and ifb are empty, ifb. A clsact
qdisc that a lane added stays, empty. create.py makes lanes, remove.py removes them, inventory.py finds them, and
neighbours.py finds what else is at the hook.

Packets that an ingress lane gives back bypass the device's nftables ingress chains (net/core/dev.c). If the device has
such a chain, an ingress lane is refused.

Threads: as PlugQdisc. Fork: the lane is the parent's; in a child it can only be forgotten.
"""

from __future__ import annotations

import errno
import os

from ..async_with import AsyncWith
from ..errors import DeviceNotFound, NetlinkError, NotDrained, PlugBusy, QdiscNotFound
from ..netlink.devices import device_of, refuse_small_limit
from ..netlink.messages import checked_limit
from ..netlink.route_socket import RouteSocket
from ..plug import DRAIN_TIMEOUT, PlugQdisc
from .create import LIMIT, Wanted, make_or_adopt, undo
from .filters import by_slot
from .hold import LaneHold
from .ifb import unnamed
from .inventory import fault, hooks, lane_mark, lanes_lock, read_again, states
from .match import Match
from .neighbours import refuse_to_bypass, shadows
from .remove import tear_down

__all__ = ["LIMIT", "LaneShadowed", "PlugLane"]

LOOPBACK = 1  # the ifindex of lo in each namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..guard.holders import Mark
    from ..hold import OnDeath
    from ..netlink.netns import Netns
    from .inventory import Hooks, Lane


class LaneShadowed(UserWarning):
    """A filter or program comes before the lane at its hook. Packets that it takes do not reach the lane."""


class PlugLane(AsyncWith):
    """A lane of ``device`` for the packets of ``match``: leaving ones, or with ``ingress`` arriving ones.

        lane = PlugLane("lo", Match(ip_proto="tcp", dst_port=8080, tcp_syn=True))
        with lane, lane.hold(timeout=5.0):
            reload_proxy()

    The constructor makes the lane. close(), or leaving the ``with`` block, removes what it made. If a lane for the same
    device, hook and match exists, it is adopted: only a given ``limit`` is sent to it, and it stays when this object is
    closed. If the process that made it has died, the next hold() makes it this object's own. ``limit`` is in bytes; the
    default is 4 MiB. ``netns`` is the same as in attach(). ``shadowed`` lists what may keep packets from the lane, an
    earlier filter or a tcx program; a LaneShadowed warning says the same.

    If the device has no clsact qdisc, the lane adds one, which stays there, empty. At the moment when it is added, the
    kernel drops the packets that leave the device.

    Raises what attach() raises. Also ValueError for an invalid match or limit, PlugUnavailable with the module's name
    if the kernel lacks ifb, clsact, flower or mirred, PlugBusy if another process keeps the lock of the device's lanes,
    and NetlinkError if the lane would bypass a filter, if another lane takes some of the same packets, or if the
    device's packets do not pass its hooks (a VRF, an ipvlan in l3s mode).
    """

    def __init__(
        self, device: str, match: Match, *, ingress: bool = False, limit: int | None = None, netns: Netns = None
    ) -> None:
        self._set_up(device, match, ingress, limit, netns, kept=False)

    @classmethod
    def keep(
        cls, device: str, match: Match, *, ingress: bool = False, limit: int | None = None, netns: Netns = None
    ) -> PlugLane:
        """Make a lane that stays when this object is closed and when the process ends, as 'libnlplug lane add' does."""
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
        self._was_up = False  # the device, when the hold began
        self._sk = RouteSocket(netns)
        try:
            self._ifindex = self._sk.ifindex_of(device)
            if checked is not None:
                refuse_small_limit(self._sk, self._ifindex, device, checked, stacklevel=4)
            with lanes_lock(self._sk, self._ifindex, device, "make a lane on"):
                made = make_or_adopt(self._sk, Wanted(device, self._ifindex, match, self._ingress, checked, kept))
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
        """The device's name when the lane was made."""
        return self._device

    @property
    def match(self) -> Match:
        """The packets that the lane holds."""
        return self._match

    @property
    def ingress(self) -> bool:
        """Whether it holds arriving packets."""
        return self._ingress

    @property
    def ifb(self) -> str:
        """The name of the ifb that carries the plug, when the lane was made."""
        return self._lane.ifb.name

    @property
    def plug(self) -> PlugQdisc:
        """The plug itself: buffer(), release_one(), stats() and so on."""
        assert self._plug is not None
        return self._plug

    @property
    def created(self) -> bool:
        """True if this object made the lane, False if it adopted one."""
        return self._created

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that the object belongs to."""
        return self._sk.forked

    def socket(self) -> RouteSocket:
        """The lane's socket. Raises ClosedError if it is closed."""
        self._sk.fileno()
        return self._sk

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed

    def hold(self, timeout: float | None = None, on_death: OnDeath = "release", *, handover: bool = False) -> LaneHold:
        """Hold the lane's packets for a block, guarded: as PlugQdisc.hold().

        The lane is checked when the hold begins and when it ends. NetlinkError says what is wrong with it: a part is
        gone (QdiscNotFound), it would bypass a filter, or a filter has come before it. The report's counts are then
        None.

        With ``handover``, for a lane of SYNs to a dst_port that arrive or are on lo, the block begins when the accept
        queues of the listeners on that port in the lane's namespace are empty and no handshake with them is half done.
        The hold ends when those listeners have closed and others listen on all their ports. If that takes longer than
        ``timeout``, HoldExpired says what did not happen. The report's ``handover`` is 'handed over', 'nothing
        listened', or 'same socket' if the listener stayed for a second: a server that keeps its socket needs no hold.
        So the block must not end before the old server has closed, or the new one listens.

        If more SYNs were held than the listener's backlog has room for, a BacklogTooSmall warning says so, and the
        report's ``backlog_needed`` is a backlog that is enough. A client that waits longer than a second sends its SYN
        again, so the number of connections may be smaller.
        """
        if handover and not self._ingress and self._ifindex != LOOPBACK:
            raise ValueError("handover is for connections that arrive: give the lane ingress=True (not needed on lo)")
        return LaneHold(self, timeout, on_death, handover)

    def ready(self) -> list[str]:
        """Prepare a hold: raise NetlinkError if the lane cannot hold its packets, else return what shadows it. If the
        process that made the lane has died, the lane becomes this object's."""
        there = hooks(self._sk, self._ifindex, self._device)
        lane = self._refuse_broken(there)
        self._was_up = device_of(self._sk, self._ifindex).up
        if self._mark is None and not lane.kept and states(self._sk, [lane], there)[lane.ifb.name] == "orphan":
            self._inherit()
        return self._shadows(there)

    def _refuse_broken(self, there: Hooks) -> Lane:
        """Return the lane as it is now. Raise QdiscNotFound if it does not take the packets of its match, or cannot
        hold them, NetlinkError if they would bypass something."""
        lane, at_hook = read_again(self._sk, self._lane), there[self._ingress]
        if lane is None:
            raise self.gone()
        why = fault(self._sk, lane, by_slot(at_hook).get(lane.slot, []))
        if why is not None:
            raise self.gone(f"it is gone or broken: {why}; close it and make it again")
        refuse_to_bypass(self._sk, self._device, self._ifindex, self._ingress, at_hook, "hold the lane of")
        return lane

    def broken_since(self, shadowed: list[str]) -> NetlinkError | None:
        """Return the error that has kept the lane from holding since ready() returned ``shadowed``, or None."""
        try:
            there = hooks(self._sk, self._ifindex, self._device)
            self._refuse_broken(there)
            new = [sentence for sentence in self._shadows(there) if sentence not in shadowed]
            down = self._was_up and not device_of(self._sk, self._ifindex).up
        except NetlinkError as error:
            return error
        of = f"the hold of the lane of {self._device}"
        if down and not self._ingress:
            sentence = f"{of} lost what it held: the device is down, and the kernel drops what is released to it"
            return NetlinkError(errno.ENETDOWN, sentence, "hold the lane of", self._device)
        if not new:
            return None
        sentence = f"{of} may have missed packets: meanwhile {'; '.join(new)}"
        return NetlinkError(errno.EEXIST, sentence, "hold the lane of", self._device)

    def _inherit(self) -> None:
        with lanes_lock(self._sk, self._ifindex, self._device, "hold the lane of"):
            lane = read_again(self._sk, self._lane)
            if lane is None:
                raise self.gone()
            mark = lane_mark(lane.ifindex, lane.slot)
            if mark.take(self._sk):
                self._mark = mark
                lane.rewrite(self._sk, pid=os.getpid())

    def gone(self, why: str | None = None, operation: str = "hold") -> QdiscNotFound:
        """Return the error for a lane that holds nothing."""
        deleted = (
            f"it is gone: whoever made it has closed it, or somebody has deleted its ifb {self.ifb}; make it again"
        )
        sentence = f"cannot {operation} the lane of {self._device}: {why or deleted}"
        return QdiscNotFound(errno.ENOENT, sentence, f"{operation} the lane of", self._device)

    def shown(self, device: str) -> str:
        """Return what a message says instead of the ifb's name: this lane's device and match."""
        return f"{self._device} ({self._match}{' arriving' * self._ingress})" if device == self.ifb else device

    def explained(self, error: NetlinkError) -> NetlinkError:
        """Let an error of the plug name this lane's device and match."""
        return unnamed(error, self.ifb, self.shown(self.ifb))

    def close(self, *, timeout: float = DRAIN_TIMEOUT) -> None:
        """Remove the lane: release, delete the filters, wait at most ``timeout`` seconds until it is empty, delete the
        ifb. The clsact qdisc stays. An adopted or kept lane stays, too; it is released if this object's last action
        left it holding.

        A second call does nothing. Raises PlugBusy (with the ``pid``) while a hold() is on, and NotDrained with the
        number of packets that could not leave. The lane then stays, and close() can be called again. Raises
        DeviceNotFound, after the rest is removed, if held packets are lost because the device or the ifb is gone.
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
                with lanes_lock(self._sk, self._ifindex, self._device, "close the lane of"):
                    self._undo(timeout)
        except (PlugBusy, NotDrained):
            raise
        except (DeviceNotFound, QdiscNotFound):
            self._let_go()
            raise
        self._let_go()

    def _undo(self, timeout: float) -> None:
        lane = read_again(self._sk, self._lane)
        if lane is not None and lane.kept:  # 'libnlplug lane add' has made it one that stays
            self._leave()
            return
        undone, self._undone = self._undone, True  # an earlier close() may have been interrupted near its end
        lost = tear_down(self._sk, self._device, [lane or self._lane], timeout)
        why = ""
        if lane is None and not undone:
            lost_too = "the packets in it are lost, and so are all matching packets since"
            why = f"somebody has deleted its ifb {self.ifb}: {lost_too}"
        elif lost:
            why = f"{lost} packets could not be given back to it: the device is gone"
        if why:
            raise DeviceNotFound(errno.ENODEV, f"the lane of {self._device}: {why}", "close the lane of", self._device)

    def _leave(self) -> None:
        """Leave a lane that stays. Release it if this object holds it."""
        if self.plug.last_action not in ("buffer", "release_one"):
            return
        try:
            self.plug.release_indefinite()
        except (DeviceNotFound, QdiscNotFound):
            raise self.gone(operation="release") from None
        except NetlinkError as error:
            raise self.explained(error) from None

    def _let_go(self) -> None:
        """Close this object's sockets. The kernel's state stays."""
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
