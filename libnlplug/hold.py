# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold: buffer on entry, release on exit, and a guard that releases if neither comes.

    enter                                        leave
      guard armed  ->  buffer  ->  ...the block...  ->  release_indefinite  ->  guard disarmed
      '-- from here on the guard releases if this process dies or overstays --'

The guard is armed before the buffer message is sent, so no moment is unguarded. Whether the time was up or the block
had ended is decided in one place, the page that holder and guard share (guard_protocol.h), and the plug's mark stays
the guard's until the release is done: a block that ends late cannot release what somebody else has begun to hold in
the meantime.
"""

from __future__ import annotations

import os
import time

from .errors import ClosedError, HoldExpired, NetlinkError, PlugBusy
from .guard.client import Guard, called, mark_name
from .netlink.libnl import lib
from .netlink.messages import without_ack

__all__ = ["Hold", "HoldReport", "PacketsDropped"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from .group import PlugGroup
    from .guard.client import Holder
    from .netlink.libnl import CData
    from .netlink.route_socket import RouteSocket
    from .plug import PlugQdisc, PlugStats

TIMEOUT_MAX = 1e9  # seconds, 31 years
RELEASE_TRIES = 3
END_TIMEOUT = 1.0  # seconds for a guard that was told to end


class PacketsDropped(RuntimeWarning):
    """The plug was full during a hold, so packets were dropped: the limit is too small for what came."""


class HoldReport:
    """What a hold held, known once the block has ended; None where it cannot be known, as after an expiry.

    ``packets`` and ``bytes`` (with link headers) were in the plug when the release was sent, ``dropped`` packets found
    it full, ``seconds`` is how long it held, ``limit_needed`` an estimate in bytes of the limit that would have been
    enough, where packets were dropped. ``expired`` tells whether the guard ended the hold.
    """

    __slots__ = ("packets", "bytes", "dropped", "seconds", "limit_needed", "expired")

    def __init__(self) -> None:
        self.packets: int | None = None
        self.bytes: int | None = None
        self.dropped: int | None = None
        self.seconds: float | None = None
        self.limit_needed: int | None = None
        self.expired = False

    @classmethod
    def of_nothing(cls) -> HoldReport:
        """What a group without plugs holds."""
        report = cls()
        report.packets = report.bytes = report.dropped = 0
        report.seconds = 0.0
        return report

    def as_dict(self) -> dict[str, object]:
        """The values by their names."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"HoldReport({values})"


class Hold:
    """One hold of one plug or group; made by PlugQdisc.hold() and PlugGroup.hold(), entered once.

    Threads: enter and leave it wherever you like; another hold of the same plug meanwhile is PlugBusy. Fork: a child
    that leaves the block does nothing, the hold is the parent's.
    """

    def __init__(self, plug: PlugQdisc | PlugGroup, timeout: float | None, on_death: str) -> None:
        if on_death not in ("release", "drop"):
            raise ValueError(f"on_death is {on_death!r}: it must be 'release' or 'drop'")
        self._plug = plug
        self._timeout = None if timeout is None else _checked_timeout(timeout)
        self._drop = on_death == "drop"
        self._report = HoldReport()
        self._guard: Guard | None = None
        self._number = 0
        self._over = False
        self._begun = 0.0
        self._expiry_error = 0
        self._drops_before: int | None = None
        self._held: PlugStats | CData | None = None

    def __enter__(self) -> HoldReport:
        if self._guard is not None:
            raise RuntimeError("a hold is entered once: call hold() again for another one")
        plug = self._plug
        self._guard = guard = plug._guarded()
        self._number = guard.new_number()
        armed = False
        try:
            guard.hold(self._timeout, number=self._number, drop=self._drop, limit=plug.limit)
            armed = True
            self._begun = guard.begun
            before = plug._act_and_read("buffer")
            if not guard.is_on(self._number):
                self._begun_too_late()
            self._drops_before = int(before.drops) if before.known else None
            return self._report
        except BaseException:
            self._take_back(armed)
            raise

    def _begun_too_late(self) -> None:
        """The time was up before the buffer message was sent: what the guard has sent then did not end it."""
        self._report.seconds = time.monotonic() - self._begun
        self._report.expired = True
        try:
            self._release_directly()
        except NetlinkError as failure:
            if not _is_gone(failure):  # the guard may have deleted the plug
                raise
        raise self._expiry()

    def _take_back(self, armed: bool) -> None:
        """Undo an entry that failed or was interrupted."""
        assert self._guard is not None
        try:
            if armed:
                self._end()
            else:
                self._guard.release(self._number)
        except NetlinkError as failure:
            if not _is_gone(failure):  # no plug: nothing can be held, and what is raised already says why
                raise
        self._guard = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:
            if not self._over and not self._plug._forked:  # an interrupt came before the release
                self._end()

    def _leave(self) -> None:
        if self._plug._forked:
            return
        expired = self._end()
        before_release = self._held
        report = self._report
        report.seconds = time.monotonic() - self._begun
        report.expired = expired
        if expired:
            raise self._expiry()
        if before_release is None:
            return
        report.packets, report.bytes = before_release.qlen, before_release.backlog
        if self._drops_before is not None and before_release.drops >= self._drops_before:
            report.dropped = before_release.drops - self._drops_before  # else it is another plug, made in the meantime
        if report.dropped:
            self._warn(before_release, report.dropped)

    def _stats(self) -> PlugStats | None:
        """The counters, or None: a hold must end whether or not it can be counted."""
        try:
            return self._plug._counters()
        except (OSError, ValueError, RuntimeError):
            return None

    def _end(self) -> bool:
        """Have the guard release; whether the hold had expired before. A failed release is tried again, then raised."""
        try:
            expired = self._release()
        except NetlinkError:
            self._over = True
            raise
        self._over = True
        return expired

    def _release(self) -> bool:
        assert self._guard is not None
        plug, guard = self._plug, self._guard
        if guard.leave(self._number):
            try:
                counters = plug._act_and_read("release_indefinite")
            except (NetlinkError, ClosedError):  # the guard, which is told now, tries it too
                pass
            else:
                guard.left(self._number)
                self._held = counters if counters.known else None
                return False
        self._held = self._stats()
        answer = guard.release(self._number)
        if answer is not None and answer.expired:
            self._expiry_error = answer.error
            if not answer.error:  # so that leaving the plug's block does not release what others hold since then
                plug._last_action = None if self._drop else "release_indefinite"
                plug._detached = plug._detached or self._drop
            return True
        if answer is not None and not answer.error:
            plug._last_action = "release_indefinite"
            return False
        if not plug.closed:  # else close() has ended the hold
            self._release_directly()
        return False

    def _release_directly(self) -> None:
        """Release without the guard, which has gone or could not."""
        assert self._guard is not None
        plug = self._plug
        try:
            holder = plug.holder()
        except OSError:
            holder = None
        if holder is not None and not holder.foreign and holder.guard != self._guard.pid:
            why = f"this hold's guard has gone, and {called(holder)} holds it now: it will release"
            raise PlugBusy.by(plug.device, holder.pid, why, "release")
        for left in reversed(range(RELEASE_TRIES)):
            try:
                plug.release_indefinite()
                break
            except NetlinkError as failure:
                if not left or _is_gone(failure):  # what is gone does not come back
                    raise
                time.sleep(0.01)

    def _expiry(self) -> HoldExpired:
        device, seconds = self._plug.device, self._report.seconds or 0.0
        if self._expiry_error:
            done = f"the guard could not end it: {os.strerror(self._expiry_error)}"
        elif self._drop:
            done = "the guard deleted the plug with what it held"
        else:
            done = "the guard released it at that moment, and what came later was not held"
        late = seconds - (self._timeout or 0.0)
        message = f"the hold of {device} overstayed its timeout of {self._timeout:g} s, by {late:.3f} s: {done}"
        return HoldExpired(None, message, "hold", device)

    def _warn(self, held: PlugStats | CData, dropped: int) -> None:
        import warnings

        packet = held.backlog / held.qlen if held.qlen else None
        advice = "give it a larger limit"
        if packet and self._plug._has_one_limit:
            self._report.limit_needed = int(held.backlog + packet * dropped) + 1
            advice = f"a limit of about {self._report.limit_needed} bytes would have been enough"
        message = (
            f"{dropped} packets were dropped while {self._plug.device} was held, because the plug was full: {advice}"
        )
        warnings.warn(message, PacketsDropped, stacklevel=4)


def _is_gone(failure: NetlinkError) -> bool:
    """Whether what could not be released is not there any more; of a group, whether that is all that is wrong."""
    failures = getattr(failure, "failures", {0: failure}).values()
    return all(isinstance(one, FileNotFoundError) for one in failures)


def start_guard(route: RouteSocket, device: str, plugs: Sequence[PlugQdisc]) -> Guard:
    """The guard of plugs, ready: with the messages that release and that drop, prebuilt."""
    release = [without_ack(plug._built(lib.rtnl_qdisc_plug_release_indefinite)) for plug in plugs]
    drop = [without_ack(plug._deletion()) for plug in plugs]
    marks = [mark_name(plug._ifindex, plug._parent) for plug in plugs]
    return Guard(route, device, marks, b"".join(release), b"".join(drop), [plug.device for plug in plugs])


def hold_detached(plug: PlugQdisc, timeout: float) -> None:
    """Begin a hold that its guard alone ends, at the deadline; see PlugQdisc.hold_detached()."""
    checked = _checked_timeout(timeout)
    guard = start_guard(plug._route, plug.device, [plug])
    try:
        guard.hold(checked, detached=True, limit=plug.limit)
        plug.buffer()
        if not guard.alive:  # somebody has released and ended it in between
            plug.release_indefinite()
    except BaseException:
        guard.end()
        raise
    guard.go_on()


def end_detached(plug: PlugQdisc, holder: Holder) -> bool:
    """End the guard of a detached hold, which releases nothing then; whether it has ended.

    Release after it: a buffer on its way may come after any release that was sent before.
    """
    import signal

    if holder.guard <= 0:  # it is in a pid namespace that is not seen from here
        return False
    try:
        os.kill(holder.guard, signal.SIGUSR1)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    deadline = time.monotonic() + END_TIMEOUT
    while plug.holder() == holder:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _checked_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= TIMEOUT_MAX:
        raise ValueError(f"timeout is {timeout!r}: it must be seconds, more than 0 and at most 1e9, or None for none")
    return timeout
