# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold: buffer on entry, release on exit, and a guard that does both, and releases if the exit does not come.

    enter                                 leave
      ask: HOLD                             ask: RELEASE
        guard: mark, buffer, clock            guard: release, counters, mark
                        '-- the guard releases too if this process dies or overstays --'

The guard acts alone (guard.c): this process sends the plug nothing, so none of its messages can come too late, and a
block that ends late cannot release what somebody else has begun to hold. Only where the guard has gone does it release
by itself, with the plug's mark in its hand, and leaving raises.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import RLock

from .async_with import AsyncWith
from .errors import GuardUnavailable, HoldExpired, NetlinkError, PlugBusy

__all__ = ["Hold", "HoldReport", "Holdable", "PacketsDropped", "PacketsUncounted"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Literal

    from .guard.client import Answer, Guard
    from .guard.holders import Place
    from .netlink.route_socket import RouteSocket

    OnDeath = Literal["release", "drop"]

TIMEOUT_MAX = 1e9  # seconds, 31 years
RELEASE_TRIES = 3
ROOM = 20  # frames of Python's stack that leaving a block may take


class PacketsDropped(RuntimeWarning):
    """The plug was full during a hold, so packets were dropped: the limit is too small for what came."""


class PacketsUncounted(PacketsDropped):
    """Something happened during a hold by which the kernel may have dropped packets without counting them."""


class HoldReport:
    """What a hold held, known once the block has ended; None where it cannot be known, as after an expiry.

    ``packets`` and ``bytes`` (with link headers) were in the plug when the release was sent. ``dropped`` packets found
    it full. ``seconds`` is how long it held. ``expired`` tells whether the guard ended the hold.

    ``limit_needed``, in bytes, is set if packets were dropped: a limit that is enough when the same traffic comes
    again. The kernel does not tell the size of a dropped packet, so each counts as the largest that the device takes.
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


class Holdable(AsyncWith):
    """What a plug and a group of plugs both are: something that can be held, by a guard that it starts and ends.

    What a subclass has to tell for that stands first.
    """

    _lock: RLock

    def __init__(self) -> None:
        self._lock = RLock()  # close() in a signal handler may come while the guard is being started
        self._guard: Guard | None = None

    @property
    def device(self) -> str:
        """What messages call it."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        raise NotImplementedError

    @property
    def forked(self) -> bool:
        """Whether this is a forked child of the process that the object belongs to."""
        raise NotImplementedError

    @property
    def limit(self) -> int | None:
        """The limit in bytes, where there is one and it is known."""
        raise NotImplementedError

    def limit_for(self, held: int, dropped: int) -> int | None:
        """The limit with which ``held`` bytes and ``dropped`` packets fit; None where that cannot be said."""
        raise NotImplementedError

    def socket(self) -> RouteSocket:
        """The socket; ClosedError where it is closed, ForkedError in a child."""
        raise NotImplementedError

    def places(self) -> Sequence[Place]:
        """Where the plugs stand."""
        raise NotImplementedError

    def messages(self) -> tuple[bytes, ...]:
        """The messages to one of the plugs: buffer, release_indefinite, delete, show the qdisc, show the link."""
        raise NotImplementedError

    def note(self, action: str | None, *, deleted: bool = False) -> None:
        """Remember what the guard has sent: what last_action says, or that the plugs are deleted."""
        raise NotImplementedError

    def refused(self, operation: str, failures: dict[int, int]) -> NetlinkError:
        """The error for an ``operation`` that the kernel refused to these plugs, errno by the place of the plug."""
        raise NotImplementedError

    def release_without(self, guard: int) -> None:
        """Release what nobody else holds, without the guard of this pid, which may still have the marks."""
        raise NotImplementedError

    def hold(self, timeout: float | None = None, on_death: OnDeath = "release") -> Hold:
        """A context manager: buffer on entry, release_indefinite on exit, whatever happens in between.

            with plug.hold(timeout=5.0) as held:
                restart()
            print(held.packets, held.bytes, held.dropped, held.seconds)

        A guard, a tiny process of its own, sends both. It releases too if this process dies (SIGKILL included) or
        executes another program, or if the block takes longer than ``timeout`` seconds; leaving the block then raises
        HoldExpired. With ``on_death="drop"`` the guard deletes the plug with what it holds instead; a block that ends
        in time releases, also by an exception, and the kernel resends a dead process's TCP data once the plug is gone,
        unless its sockets have SO_LINGER with a time of 0. None is no timeout. The guard is started by the first hold
        of the object and ends with close(); its limits are in libnlplug.guard.client.

        Entering raises PlugBusy (with the ``pid``) while somebody holds the plug, this object included, and
        GuardUnavailable where the guard cannot be started; nothing is held then. Leaving raises what the kernel says
        where the release fails, and GuardUnavailable where the guard has gone: this process has released the plug
        then, and whether a timeout was kept is not known. Packets that found the plug full are in the report and a
        PacketsDropped warning. Where the kernel may have dropped others uncounted, as when the link goes down, the
        report says None and a PacketsUncounted warning says what happened.
        """
        return Hold(self, timeout, on_death)

    def guard(self) -> Guard:
        """This object's guard, started where there is none yet or the last one has gone."""
        sk = self.socket()
        guard = self._guard
        if guard is not None and guard.alive:
            return guard
        from .guard.client import Guard

        with self._lock:
            if self._guard is None or not self._guard.alive:
                self.socket()
                self._guard = Guard(sk, self.device, self.places(), self.messages())
            return self._guard

    def end_guard(self) -> None:
        """End the guard; what it holds is released before this returns. In a forked child: forget it."""
        if self.forked:  # the lock may be another thread's, which the child does not have
            guard, self._guard = self._guard, None
            if guard is not None:
                guard.forget()
            return
        with self._lock:
            guard, self._guard = self._guard, None
        if guard is not None and not guard.end() and not self.closed:
            self.release_without(guard.pid)


class Hold(AsyncWith):
    """One hold of one plug or group; made by PlugQdisc.hold() and PlugGroup.hold(), entered once.

    Threads: enter and leave it wherever you like; another hold of the same plug meanwhile is PlugBusy. Fork: a child
    that leaves the block does nothing, the hold is the parent's.
    """

    def __init__(self, held: Holdable, timeout: float | None, on_death: OnDeath) -> None:
        if on_death not in ("release", "drop"):
            raise ValueError(f"on_death is {on_death!r}: it must be 'release' or 'drop'")
        self._held = held
        self._timeout = None if timeout is None else checked_timeout(timeout)
        self._drop = on_death == "drop"
        self._report = HoldReport()
        self._guard: Guard | None = None
        self._id = 0
        self._begun = 0.0
        self._over = False
        self._answer: Answer | None = None

    def __enter__(self) -> HoldReport:
        if self._guard is not None:
            raise RuntimeError("a hold is entered once: call hold() again for another one")
        if not self._held.places():  # a group without plugs
            self._report = HoldReport.of_nothing()
            return self._report
        _make_room(ROOM)
        self._guard = guard = self._held.guard()
        self._id = guard.new_id()
        self._begun = time.monotonic()
        try:
            guard.hold(self._held.socket(), self._id, self._timeout, drop=self._drop, limit=self._held.limit)
            self._held.note("buffer")
            return self._report
        except BaseException as error:
            failures = getattr(error, "refused_plugs", None)  # of guard.client.PlugsRefused
            self._take_back(failures is None and not isinstance(error, PlugBusy))
            self._guard = None
            if failures is not None:
                raise self._held.refused("buffer on", failures) from None
            raise

    def _take_back(self, held: bool) -> None:
        """Undo an entry that failed or was interrupted, if it may hold."""
        assert self._guard is not None
        if held and self._guard.release(self._id) is None and not self._held.closed:
            try:
                self._held.release_without(self._guard.pid)
            except NetlinkError as failure:
                if not _is_gone(failure):  # no plug: nothing can be held, and what is raised already says why
                    raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:  # an interrupt came before the release, and perhaps another one now
            try:
                self._end()
            finally:
                try:
                    self._end()
                finally:
                    self._end()

    def _end(self) -> Answer | None:
        """Have the guard release, once: what it says, None where it has gone."""
        if self._guard is None or self._over or self._held.forked:
            return self._answer
        answer = self._answer = self._guard.release(self._id)
        try:
            if answer is None and not self._held.closed:  # else close() has ended the hold
                self._held.release_without(self._guard.pid)
        except NetlinkError:  # it was tried often enough
            self._over = True
            raise
        self._over = True
        return answer

    def _leave(self) -> None:
        if self._guard is None or self._held.forked:
            return
        held, report = self._held, self._report
        answer = self._end()
        report.seconds = time.monotonic() - self._begun
        if answer is None:
            if not held.closed:
                held.note("release_indefinite")
                raise self._without_guard()
            return
        if not answer.knows and held.closed:
            return
        if answer.expired or not answer.knows:
            report.expired = True
            if not answer.failures:  # so that leaving the plug's block does not release what others hold since then
                held.note(None if self._drop else "release_indefinite", deleted=self._drop)
            expiry = self._expiry(answer)
            _log(str(expiry))
            raise expiry
        report.seconds = answer.seconds
        if answer.failures:
            raise held.refused("release", answer.failures)
        held.note("release_indefinite")
        self._count(answer)

    def _count(self, answer: Answer) -> None:
        report = self._report
        if answer.lost is not None:
            why = f"{answer.lost} during the hold, and the kernel may have dropped packets then without counting them"
            message = f"how many packets were held and dropped on {answer.device} is unknown: {why}"
            _warn(message, PacketsUncounted, 5)
        elif answer.known:
            report.packets, report.bytes, report.dropped = answer.packets, answer.bytes, answer.dropped
            if answer.dropped:
                self._warn_of_drops(answer)

    def _without_guard(self) -> GuardUnavailable:
        device = self._held.device
        kept = "" if self._timeout is None else f", and its timeout of {self._timeout:g} s was perhaps not kept"
        message = (
            f"the guard of the hold of {device} has gone or does not answer: this process has released it by itself now"
            f"{kept}; how many packets it held is not known"
        )
        return GuardUnavailable(None, message, "hold", device)

    def _expiry(self, answer: Answer) -> HoldExpired:
        device, seconds = self._held.device, self._report.seconds or 0.0
        if answer.failures:
            done = f"the guard could not end it: {os.strerror(next(iter(answer.failures.values())))}"
        elif not answer.knows:
            done = "the guard has ended it before"
        elif self._drop:
            done = "the guard deleted the plug with what it held"
        else:
            done = "the guard released it at that moment, and what came later was not held"
        if self._timeout is None:
            return HoldExpired(None, f"the hold of {device} ended before its block did: {done}", "hold", device)
        late = max(0.0, seconds - self._timeout)
        message = f"the hold of {device} overstayed its timeout of {self._timeout:g} s, by {late:.3f} s: {done}"
        return HoldExpired(None, message, "hold", device)

    def _warn_of_drops(self, answer: Answer) -> None:
        needed = self._report.limit_needed = self._held.limit_for(answer.bytes, answer.dropped)
        advice = "give it a larger limit" if needed is None else f"a limit of {needed} bytes would have been enough"
        message = f"{answer.dropped} packets were dropped while {self._held.device} was held, because the plug was full"
        _warn(f"{message}: {advice}", PacketsDropped, 6)


def _warn(message: str, kind: type[Warning], level: int) -> None:
    import warnings

    warnings.warn(message, kind, stacklevel=level)


def _log(sentence: str) -> None:
    """One record of the logger ``libnlplug``. Where logging is not loaded, nobody has asked for records."""
    if "logging" in sys.modules:
        import logging

        logger = logging.getLogger("libnlplug")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # else logging prints the record on stderr by itself
        logger.warning("%s", sentence)


def _make_room(frames: int) -> None:
    """RecursionError now, and nothing is held, rather than when the block is left."""
    if frames:
        _make_room(frames - 1)


def _is_gone(failure: NetlinkError) -> bool:
    """Whether what could not be released is not there any more; of a group, whether that is all that is wrong."""
    failures = getattr(failure, "failures", {0: failure}).values()
    return all(isinstance(one, FileNotFoundError) for one in failures)


def hold_detached(plug: Holdable, timeout: float) -> None:
    """Begin a hold that its guard alone ends, at the deadline; see PlugQdisc.hold_detached()."""
    from .guard.client import Guard, PlugsRefused

    checked = checked_timeout(timeout)
    guard = Guard(plug.socket(), plug.device, plug.places(), plug.messages())
    try:
        guard.hold(plug.socket(), guard.new_id(), checked, detached=True, limit=plug.limit)
        plug.note("buffer")
    except BaseException as error:
        gone = not guard.end() or isinstance(error, GuardUnavailable)
        if gone:
            plug.release_without(guard.pid)
        if isinstance(error, PlugsRefused):
            raise plug.refused("buffer on", error.refused_plugs) from None
        raise
    guard.go_on()


def end_detached(plug: Holdable) -> bool:
    """Have the guard of a detached hold release and end; whether the plug's mark is free."""
    from .guard.holders import end_detached_guard

    return end_detached_guard(plug.socket(), plug.places()[0].mark)


def checked_timeout(timeout: float) -> float:
    """The timeout, or ValueError."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= TIMEOUT_MAX:
        raise ValueError(f"timeout is {timeout!r}: it must be seconds, more than 0 and at most 1e9, or None for none")
    return timeout
