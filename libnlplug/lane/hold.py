# SPDX-License-Identifier: GPL-2.0-or-later
"""LaneHold: a hold of a lane. It checks the lane at both ends, can hand listeners over, and looks at their backlog.

    is the lane whole? --> buffer --> the block --> is it still whole? --> release --> more than the backlog?

With a handover it lasts from before the old listener's queues are empty until after it has closed:

    buffer --> queues empty, no handshake half done --> the block --> the old listeners have closed --> release

A listener that closes resets the connections in its accept queue and the handshakes that it has not finished. While new
SYNs are held, nothing comes into either. What is released after the old listener has closed reaches the new one. Both
waits end with the hold's timeout; a sentence then says what did not happen in time.
"""

from __future__ import annotations

import time

from ..errors import DeviceNotFound, HoldExpired, NetlinkError, QdiscNotFound
from ..hold import Hold, HoldReport
from .listeners import Listener, owners, sockets_of

__all__ = ["BacklogTooSmall", "Handover", "LaneHold", "LaneReport", "backlog_sentence"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    from ..hold import OnDeath
    from ..netlink.route_socket import RouteSocket
    from ..plug import PlugQdisc
    from .match import Match

    class HeldLane(Protocol):
        """What a hold needs of its PlugLane."""

        @property
        def device(self) -> str: ...
        @property
        def match(self) -> Match: ...
        @property
        def plug(self) -> PlugQdisc: ...
        @property
        def closed(self) -> bool: ...
        @property
        def forked(self) -> bool: ...
        def socket(self) -> RouteSocket: ...
        def ready(self) -> list[str]: ...
        def broken_since(self, shadowed: list[str]) -> NetlinkError | None: ...
        def gone(self) -> QdiscNotFound: ...
        def shown(self, device: str) -> str: ...
        def explained(self, error: NetlinkError) -> NetlinkError: ...


PAUSE = 0.005  # seconds between two looks
CALM = 0.02  # seconds for which nothing may wait: a SYN may have passed the lane and not have reached its socket yet
SILENT = 3.0  # seconds after which a half-done handshake's client is taken to be gone: SYN floods, port scans
EVERYWHERE = {"0.0.0.0", "::"}
UNCHANGED = 1.0  # seconds after which listeners that stayed are taken to stay, and addresses that are gone as gone


class BacklogTooSmall(RuntimeWarning):
    """More SYNs were held than the listener's backlog has room for when they are released."""


class LaneReport(HoldReport):
    """A HoldReport that also says, in ``handover``, how the listeners were handed over, and in ``backlog_needed`` which
    backlog would have been enough, if the listener's ``backlog`` was smaller than the number of held SYNs. Each is None
    if it was not asked for, or is not known."""

    __slots__ = ("handover", "backlog", "backlog_needed")

    def __init__(self) -> None:
        super().__init__()
        self.handover: str | None = None
        self.backlog: int | None = None
        self.backlog_needed: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the values by their names."""
        return {name: getattr(self, name) for name in (*HoldReport.__slots__, *self.__slots__)}


class LaneHold(Hold):
    """A hold of a lane, made by PlugLane.hold(). It checks the lane when it begins and when it ends."""

    frames = 2

    def __init__(self, lane: HeldLane, timeout: float | None, on_death: OnDeath, handover: bool) -> None:
        super().__init__(lane.plug, timeout, on_death)
        self._lane = lane
        self._report: LaneReport = LaneReport()
        self._handover = Handover(lane.socket(), lane.match, timeout) if handover else None
        self._shadowed: list[str] = []

    def shown(self, device: str) -> str:
        """Return the lane's device and match."""
        return self._lane.shown(device)

    def __enter__(self) -> LaneReport:
        self._refuse_second_entry()
        self._shadowed = self._lane.ready()
        try:
            self._begin()
            late = None if self._handover is None else self._handover.wait_until_quiet()
        except BaseException as error:
            super().__exit__(type(error), error, error.__traceback__)
            raise
        if late is not None:
            self._end_late(f"{late}, so the block was not begun")
        return self._report

    def _begin(self) -> None:
        try:
            super().__enter__()
        except (DeviceNotFound, QdiscNotFound):  # closed at this moment
            raise self._lane.gone() from None
        except NetlinkError as error:
            raise self._lane.explained(error) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
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
        finally:  # an interrupt may come between any two of these
            self._end_surely()

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
        """Release, and raise the expiry, or what was wrong with the lane."""
        try:
            super().__exit__(None, None, None)
        except NetlinkError as error:
            if broken is None or isinstance(error, HoldExpired):
                raise self._lane.explained(error) from None
        report = self._report
        if broken is not None:
            report.packets = report.bytes = report.dropped = report.limit_needed = None
            raise broken
        if report.packets:
            self._compare_backlog(report.packets)

    def _end_late(self, what: str) -> None:
        """Release because the time is over, and raise HoldExpired with what did not happen."""
        try:
            super().__exit__(None, None, None)
        except HoldExpired:
            pass
        self._report.expired = True
        self._report.packets = self._report.bytes = self._report.dropped = None
        device, seconds = self._lane.device, self._report.seconds or 0.0
        sentence = f"the handover of {device} was not done within {seconds:.3f} s: {what}; it is released now"
        raise HoldExpired(None, sentence, "hold", device)

    def _compare_backlog(self, held: int) -> None:
        """Warn if more SYNs were held than the listeners of one address and port have room for. (Those of another
        address cannot take them: an IPv4 listener takes no connection over IPv6.)"""
        match = self._lane.match
        if not match.tcp_syn or match.dst_port is None:
            return
        try:
            listeners = sockets_of(self._lane.socket(), match, half_done=False).listeners
        except NetlinkError:
            return
        rooms: dict[str, int] = {}
        for one in listeners:  # those that share an address and a port (SO_REUSEPORT) share the connections
            rooms[str(one)] = rooms.get(str(one), 0) + one.backlog
        if not rooms:
            return
        self._report.backlog = min(rooms.values())
        if held > self._report.backlog:
            import warnings

            self._report.backlog_needed = held
            warnings.warn(backlog_sentence(held, self._report.backlog), BacklogTooSmall, stacklevel=4)


def backlog_sentence(held: int, backlog: int) -> str:
    """Return what it means that more SYNs were held than the listener has room for, and what to do."""
    return (
        f"{held} SYNs were held (after 1, 3 and 7 s a client sends another), and the listener has room for {backlog}"
        f" connections at once: the others are made a second or more later, or are reset if"
        f" net.ipv4.tcp_abort_on_overflow is 1; a backlog and a net.core.somaxconn of {held} are enough"
    )


class Handover:
    """One handover of the listeners for a match, within ``timeout`` seconds. Raises ValueError if there can be none."""

    def __init__(self, sk: RouteSocket, match: Match, timeout: float | None) -> None:
        self._sk, self._match, self._timeout = sk, match, _handover_timeout(match, timeout)
        self._deadline = 0.0
        self._before: dict[bytes, Listener] = {}
        self._given_up = False
        self.outcome: str | None = None

    def give_up(self) -> None:
        """Make the waits return at once, also in another thread."""
        self._given_up = True

    def wait_until_quiet(self) -> str | None:
        """Wait until the listeners' queues are empty. Return what did not happen in time, or None."""
        begun = time.monotonic()
        self._deadline = begun + self._timeout
        silent = begun + min(SILENT, self._timeout / 2)
        calm: float | None = None
        while not self._given_up:
            found, now = sockets_of(self._sk, self._match), time.monotonic()
            if found.quiet and (not found.half_done or now >= silent):
                calm = now if calm is None else calm
                if now - calm >= CALM:
                    self._before = {listener.cookie: listener for listener in found.listeners}
                    return None
            else:
                calm = None
            if now >= self._deadline:
                full = [listener for listener in found.listeners if listener.waiting]
                waiting = sum(listener.waiting for listener in full)
                where = f"the accept queue of {_shown(full)} still has {waiting} connections" if full else ""
                return where or f"{found.half_done} handshakes are still half done"
            time.sleep(PAUSE)
        return None

    def wait_until_closed(self) -> str | None:
        """Wait until the listeners of wait_until_quiet() have closed and others listen on all their ports and
        addresses, or until nothing changes any more. Return what did not happen in time, or None."""
        if not self._before:
            self.outcome = "nothing listened"
            return None
        cookies, changed = set(self._before), time.monotonic()
        while not self._given_up:
            listeners, now = sockets_of(self._sk, self._match, half_done=False).listeners, time.monotonic()
            if {listener.cookie for listener in listeners} != cookies:
                cookies, changed = {listener.cookie for listener in listeners}, now
            old = [listener for listener in listeners if listener.cookie in self._before]
            new = [listener for listener in listeners if listener.cookie not in self._before]
            replaced = [one for one in old if any(self._replaces(other, one) for other in new)]
            missing = [one for one in self._before.values() if one.port not in {other.port for other in listeners}]
            complete = not old and set(map(str, self._before.values())) <= set(map(str, new))
            if not missing and not replaced and (complete or now - changed >= UNCHANGED):
                same = len(old) == len(self._before) and not new
                self.outcome = "same socket" if same else "handed over"
                return None
            if now >= self._deadline:
                if missing:
                    return f"nothing listens on {_shown(missing)}"
                return f"{_shown(replaced or old)} is still listened on by the old socket"
            time.sleep(PAUSE)
        return None

    def _replaces(self, new: Listener, old: Listener) -> bool:
        """Return whether the new listener takes the place of the old one: it has the same address, or its address is
        new and one of the two includes the other. (A server for one address may be replaced beside another server for
        all addresses.)"""
        if new.port != old.port or new.address == old.address:
            return new.port == old.port
        had_one = any((one.address, one.port) == (new.address, new.port) for one in self._before.values())
        return not had_one and not {new.address, old.address}.isdisjoint(EVERYWHERE)


def _handover_timeout(match: Match, timeout: float | None) -> float:
    """Return the timeout. Raise ValueError if there can be no handover."""
    if not match.tcp_syn or match.dst_port is None:
        why = "handover needs a lane that holds only the SYNs to a port: give tcp_syn and a dst_port"
        raise ValueError(f"{why}; the match is {match}")
    if timeout is None:
        raise ValueError("handover waits for other processes: give the hold a timeout")
    return timeout


def _shown(listeners: list[Listener]) -> str:
    """Return the listeners as text, with their processes if these can be seen."""
    whose = [f"{name}, pid {pid}" for pid, name in sorted(owners({one.inode for one in listeners}).items())]
    return ", ".join(sorted(set(map(str, listeners)))) + (f" ({'; '.join(whose)})" if whose else "")
