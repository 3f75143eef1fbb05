# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold: the guard buffers on entry and releases on exit, and also releases if the exit does not come.

    enter                                 leave
      ask: HOLD                             ask: RELEASE
        guard: mark, buffer, clock            guard: release, counters, mark
                        '-- the guard releases too if this process dies or overstays --'

The guard acts alone (guard.c). This process sends the plug nothing, so none of its messages can arrive too late, and a
block that ends late cannot release another process's hold. Only if the guard has gone, this process takes the plug's
mark and releases by itself; leaving the block then raises.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import RLock

from .async_with import AsyncWith
from .bounds import TIMEOUT_MAX
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

RELEASE_TRIES = 3
STACK = 20  # frames of Python's stack that leaving a block may take


class PacketsDropped(RuntimeWarning):
    """The plug was full during a hold, so packets were dropped: the limit is too small for what came."""


class PacketsUncounted(PacketsDropped):
    """Something happened during a hold by which the kernel may have dropped packets without counting them."""


class HoldReport:
    """What a hold held. The values are set when the block has ended. None means unknown, as after an expiry.

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
        """Return the report of a group without plugs."""
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
    """Base class of a plug and a group of plugs: it can be held, and owns the guard that holds it.

    The first methods are those that a subclass must have.
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
        """True after close()."""
        raise NotImplementedError

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that made the object."""
        raise NotImplementedError

    @property
    def limit(self) -> int | None:
        """The limit in bytes, or None if there are several or it is unknown."""
        raise NotImplementedError

    def limit_for(self, held: int, dropped: int) -> int | None:
        """Return a limit that has room for ``held`` bytes and ``dropped`` packets, or None if that is unknown."""
        raise NotImplementedError

    def socket(self) -> RouteSocket:
        """Return the socket. Raise ClosedError if it is closed, ForkedError in a forked child."""
        raise NotImplementedError

    def places(self) -> Sequence[Place]:
        """Return the places of the plugs."""
        raise NotImplementedError

    def messages(self) -> dict[int, bytes]:
        """Return what the guard sends to one plug, by guard_message (guard/protocol.h)."""
        raise NotImplementedError

    def note(self, action: str | None, *, deleted: bool = False) -> None:
        """Remember what the guard has sent, for last_action, or that it has deleted the plugs."""
        raise NotImplementedError

    def error_for(self, operation: str, codes: dict[int, int]) -> NetlinkError:
        """Return the error for an ``operation`` that the kernel refused. ``codes`` has the errno of each plug that
        failed, by its index in places()."""
        raise NotImplementedError

    def is_gone(self, error: NetlinkError) -> bool:
        """Return whether the error says that every plug that failed does not exist any more."""
        return isinstance(error, FileNotFoundError)

    def release_without(self, guard: int) -> None:
        """Release without the guard, unless somebody else holds. The guard of this pid may still have the marks."""
        raise NotImplementedError

    def hold(self, timeout: float | None = None, on_death: OnDeath = "release") -> Hold:
        """Return a context manager that buffers on entry and releases on exit, whatever happens in between.

            with plug.hold(timeout=5.0) as held:
                restart()
            print(held.packets, held.bytes, held.dropped, held.seconds)

        A small separate process, the guard, does both. It also releases if this process dies, even by SIGKILL, or
        executes another program, and if the block takes longer than ``timeout`` seconds (None: no timeout). After a
        timeout, leaving the block raises HoldExpired. The first hold of the object starts the guard, and close() ends
        it. libnlplug.guard.client describes the guard's limits.

        With ``on_death="drop"``, the guard deletes the plug and its packets in these cases instead. A block that ends
        in time always releases, also after an exception. The kernel resends a dead process's TCP data once the plug is
        gone, unless its sockets have SO_LINGER with a time of 0.

        Entering raises PlugBusy (with the ``pid``) while somebody holds the plug, this object included. It raises
        GuardUnavailable if the guard cannot be started. Nothing is held then. Leaving raises the kernel's error if the
        release fails. It raises GuardUnavailable if the guard has gone: this process has released the plug, and whether
        a timeout was kept is unknown. If packets found the plug full, the report counts them and a PacketsDropped
        warning says so. If the kernel may have dropped packets without counting them, as when the link goes down, the
        counts are None and a PacketsUncounted warning says what happened.
        """
        return Hold(self, timeout, on_death)

    def guard(self) -> Guard:
        """Return this object's guard. Start one if there is none yet, or if the last one has gone."""
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
        """End the guard. It releases what it holds before this returns. In a forked child, only forget it."""
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
    """One hold of one plug or group, made by PlugQdisc.hold() and PlugGroup.hold(). It can be entered once.

    Threads: any thread may enter and leave it. Another hold of the same plug meanwhile raises PlugBusy. Fork: in a
    child, leaving the block does nothing, because the hold is the parent's.
    """

    frames = 0  # how many frames a subclass adds between the block and this class: a warning names the block's line

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

    def shown(self, device: str) -> str:
        """Return how messages name the device. A lane's hold names the lane's device, not its ifb."""
        return device

    def __enter__(self) -> HoldReport:
        self._refuse_second_entry()
        if not self._held.places():  # a group without plugs
            self._report = HoldReport.of_nothing()
            return self._report
        self._over = False
        _try_stack(STACK)
        self._guard = guard = self._held.guard()
        self._id = guard.new_id()
        self._begun = time.monotonic()
        try:
            guard.hold(self._held.socket(), self._id, self._timeout, drop=self._drop, limit=self._held.limit)
            self._held.note("buffer")
            return self._report
        except BaseException as error:
            codes = getattr(error, "codes", None)  # of guard.client.PlugsRefused
            try:
                if codes is None and not isinstance(error, PlugBusy):  # it may hold
                    self._end_surely()
            except NetlinkError as failure:
                if not self._held.is_gone(failure):  # without a plug nothing is held, and the first error says why
                    raise
            self._guard = None
            if codes is not None:
                raise self._held.error_for("buffer on", codes) from None
            raise

    def _refuse_second_entry(self) -> None:
        if self._guard is not None:
            raise RuntimeError("a hold is entered once: call hold() again for another one")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave()
        finally:  # an interrupt may have come before the release
            self._end_surely()

    def _end_surely(self) -> None:
        """Have the guard release, also if an interrupt comes now, and another one."""
        try:
            self._end()
        finally:
            try:
                self._end()
            finally:
                self._end()

    def _end(self) -> Answer | None:
        """Have the guard release, once. Return its answer, or None if it has gone."""
        if self._guard is None or self._over or self._held.forked:
            return self._answer
        answer = self._answer = self._guard.release(self._id)
        try:
            if answer is None and not self._held.closed:  # otherwise close() has ended the hold
                self._held.release_without(self._guard.pid)
        except NetlinkError:  # it was retried often enough
            self._over = True
            raise
        self._over = True
        return answer

    def _leave(self) -> None:
        if self._guard is None or self._held.forked:
            return
        held, report = self._held, self._report
        answer = self._end()
        if answer is not None and answer.was_on and not answer.expired:
            self._end_well(answer)
            return
        report.seconds = time.monotonic() - self._begun
        if answer is None:
            if not held.closed:
                held.note("release_indefinite")
                raise self._without_guard()
            return
        if not answer.was_on and held.closed:
            return
        report.expired = True
        if not answer.codes:  # or leaving the plug's block would release another process's hold
            held.note(None if self._drop else "release_indefinite", deleted=self._drop)
        expiry = self._expiry(answer)
        _log(str(expiry))
        raise expiry

    def _end_well(self, answer: Answer) -> None:
        """Report a hold that ended when it should, or raise the error of its release."""
        report = self._report
        report.seconds = answer.seconds
        if answer.codes:
            raise self._held.error_for("release", answer.codes)
        self._held.note("release_indefinite")
        if answer.lost is not None:
            why = f"{answer.lost} during the hold, and the kernel may have dropped packets then without counting them"
            sentence = f"how many packets were held and dropped on {self.shown(answer.device)} is unknown: {why}"
            _warn(sentence, PacketsUncounted, 5 + self.frames)
        elif answer.counted:
            report.packets, report.bytes, report.dropped = answer.packets, answer.bytes, answer.dropped
            if answer.dropped:
                self._warn_of_drops(answer)

    def _without_guard(self) -> GuardUnavailable:
        device, shown = self._held.device, self.shown(self._held.device)
        kept = "" if self._timeout is None else f", and its timeout of {self._timeout:g} s may not have been kept"
        sentence = (
            f"the guard of the hold of {shown} has gone or does not answer: this process has released the packets"
            f" itself{kept}; how many there were is not known"
        )
        return GuardUnavailable(None, sentence, "hold", device)

    def _expiry(self, answer: Answer) -> HoldExpired:
        device, seconds = self._held.device, self._report.seconds or 0.0
        shown = self.shown(device)
        if answer.codes:
            done = f"the guard could not end it: {os.strerror(next(iter(answer.codes.values())))}"
        elif not answer.was_on:
            done = "the guard ended it earlier"
        elif self._drop:
            done = "the guard deleted the plug with the packets in it"
        else:
            done = "the guard released the packets, and held none after that"
        if self._timeout is None:
            return HoldExpired(None, f"the hold of {shown} ended before its block did: {done}", "hold", device)
        late = max(0.0, seconds - self._timeout)
        sentence = f"the hold of {shown} overstayed its timeout of {self._timeout:g} s, by {late:.3f} s: {done}"
        return HoldExpired(None, sentence, "hold", device)

    def _warn_of_drops(self, answer: Answer) -> None:
        needed = self._report.limit_needed = self._held.limit_for(answer.bytes, answer.dropped)
        advice = "give it a larger limit" if needed is None else f"a limit of {needed} bytes would have been enough"
        shown = self.shown(self._held.device)
        sentence = f"{answer.dropped} packets were dropped while {shown} was held, because the plug was full"
        _warn(f"{sentence}: {advice}", PacketsDropped, 6 + self.frames)


def _warn(sentence: str, kind: type[Warning], level: int) -> None:
    import warnings

    warnings.warn(sentence, kind, stacklevel=level)


def _log(sentence: str) -> None:
    """Write one record of the logger ``libnlplug``, if the program has loaded logging."""
    if "logging" in sys.modules:
        import logging

        logger = logging.getLogger("libnlplug")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())  # otherwise logging prints the record on stderr
        logger.warning("%s", sentence)


def _try_stack(frames: int) -> None:
    """Raise RecursionError now, before anything is held, if leaving the block would raise it."""
    if frames:
        _try_stack(frames - 1)


def hold_detached(plug: Holdable, timeout: float) -> None:
    """Begin a hold that only its guard ends, at the timeout; see PlugQdisc.hold_detached()."""
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
            raise plug.error_for("buffer on", error.codes) from None
        raise
    guard.go_on()


def end_detached(plug: Holdable) -> bool:
    """Have the guard of a detached hold release and end. Return whether the plug's mark is free."""
    from .guard.holders import end_detached_guard

    return end_detached_guard(plug.socket(), plug.places()[0].mark)


def checked_timeout(timeout: float) -> float:
    """Return the timeout, or raise ValueError."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= TIMEOUT_MAX:
        raise ValueError(f"timeout is {timeout!r}: it must be seconds, more than 0 and at most 1e9, or None for none")
    return timeout
