# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of the guard: start it, and ask it to hold and to release.

The guard (guard.c) is a small program that holds plugs for this process. It releases them when asked, when this
process dies, or when the timeout ends. An object starts its guard once. The guard says that it is ready before anything
is held, waits between holds, and lives until the object is closed. Only the guard sends the messages that begin and end
a hold.

The guard is not a child of this process, so neither SIGCHLD nor wait() reports it. There is one exception: every orphan
is a child of PID 1. There, the guard ends with each hold, and the next hold starts another one. A
wait() for any child inside a block then also waits for the guard.

Limits: killing a whole cgroup kills the guard with the holder (cgroup.kill; memory.oom.group, unless the guard has the
right to be spared, as root's has). start.py says how to move the guard out of the cgroup. Killing a whole pid namespace
(a container whose first process ends) kills both too. Freezing a cgroup (docker pause) stops both, past any timeout.
"""

from __future__ import annotations

import errno
import os
import time
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_PEEK,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _socket import socket as Socket
from _thread import RLock
from itertools import count

from ..errors import GuardUnavailable, NetlinkError, NotPermitted, PlugBusy
from ..netlink.libnl import ffi, lib
from ..record import Record
from .holders import MARK_TIMEOUT, Place, busy, holder_of
from .start import CGROUP, is_child, listening, move_to_cgroup, send_config, start, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..netlink.libnl import CData
    from ..netlink.route_socket import RouteSocket

__all__ = ["Answer", "Guard", "PlugsRefused"]

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libnlplug-guard")
REFUSED = "a seccomp filter or a security module refuses it"
ANSWER_TIMEOUT = 5  # seconds
PREFIX = 16  # bytes of an answer that are the same in every version: id, error and step
OTHER_VERSION = "libnlplug was upgraded or damaged since this process has loaded it: restart the process, or reinstall"

if lib.GUARD_VERSION != 4:  # this file is newer or older than the compiled module that the process has loaded
    raise ImportError(OTHER_VERSION)

_LOST = {
    lib.GUARD_LINK_DOWN: "its link went down",
    lib.GUARD_NO_CARRIER: "its link lost its carrier",
    lib.GUARD_QUEUE_LENGTH: "its txqueuelen was changed",
    lib.GUARD_CLSACT: "a clsact or ingress qdisc was added or deleted there",
    lib.GUARD_REPLACED: "the plug, or a qdisc above it, was deleted or replaced",
    lib.GUARD_UNSEEN: "more links and qdiscs changed than the guard could follow",
}


class Answer(Record):
    """The guard's answer to a release. ``codes`` has the errno of each plug that failed, by its index. ``expired`` is
    true if the timeout had ended the hold. ``was_on`` is false if the guard does not know the hold: it is neither on
    nor the one that ended last. ``seconds`` is how long it held. If ``counted``, ``packets`` and ``bytes`` were in the
    plugs right before the release, and ``dropped`` packets were dropped during the hold.

    ``lost`` says what happened to ``device`` by which the kernel may have dropped packets without counting them, or is
    None.
    """

    __slots__ = ("codes", "expired", "was_on", "seconds", "counted", "packets", "bytes", "dropped", "lost", "device")
    codes: dict[int, int]
    expired: bool
    was_on: bool
    seconds: float
    counted: bool
    packets: int
    bytes: int
    dropped: int
    lost: str | None
    device: str


class PlugsRefused(Exception):
    """The kernel refused to hold some plugs: ``codes`` has their errnos by index. Nothing is held."""

    def __init__(self, codes: dict[int, int]) -> None:
        super().__init__(codes)
        self.codes = codes


class Guard:
    """One guard process for some plugs. ``messages`` has what it sends to a plug, by guard_message (protocol.h); the
    guard fills in each plug's place.

    Threads: several threads may use it; it locks. Fork: only the parent may use it. Signals: a signal handler may use
    it at any time.
    """

    def __init__(self, sk: RouteSocket, device: str, places: Sequence[Place], messages: Mapping[int, bytes]) -> None:
        self._lock = RLock()
        self._ids = count(1)
        self._device = device
        self._places = places
        self._is_child = False
        self.pid = 0
        try:
            self._socket = sk.in_netns(lambda: self._start(messages))
        except NetlinkError as error:
            if error.operation == "hold":
                raise
            kind = NotPermitted if isinstance(error, NotPermitted) else GuardUnavailable
            raise kind(error.errno, f"cannot hold {device}: {error}", "hold", device, hint=error.hint) from None

    def _start(self, messages: Mapping[int, bytes]) -> Socket:
        try:
            ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        except OSError as error:
            raise self._unavailable(error.errno or 0, "a unix socket") from None
        try:
            timeout = ffi.new("long[2]", [ANSWER_TIMEOUT, 0])
            for option in (SO_RCVTIMEO, SO_SNDTIMEO):
                ours.setsockopt(SOL_SOCKET, option, ffi.buffer(timeout)[:])
            try:
                netlink = listening()
                send_config(ours, configuration(self._places, messages, netlink.getsockname()[0]), netlink.fileno())
                netlink.close()
                self.pid = start(PATH, theirs.fileno())
            except OSError as error:
                raise self._unavailable(error.errno or 0, error.filename or "") from None
            self._is_child = is_child(self.pid)
            theirs.close()
            self._move()
            self._expect_ready(ours)
            return ours
        except BaseException:
            theirs.close()
            ours.close()
            if self._is_child:
                wait(self.pid)
            raise

    def _move(self) -> None:
        try:
            move_to_cgroup(self.pid)
        except OSError as error:
            hint = f"without {CGROUP} in the environment it stays in this process's cgroup"
            where = f"its move to the root cgroup: {error.filename}"
            raise self._unavailable(error.errno or 0, where, hint) from None

    def _expect_ready(self, ours: Socket) -> None:
        """Receive the answer to the configuration. Another version's answer may be longer; its first fields are the
        same."""
        try:
            ours.settimeout(ANSWER_TIMEOUT)  # SO_RCVTIMEO begins anew after each signal
            received = ours.recv(4096)
            ours.settimeout(None)  # whatever socket.setdefaulttimeout() has made of it
        except ConnectionResetError:  # the guard ended before it had read the configuration
            received = b""
        except OSError:
            raise self._unavailable(errno.ETIMEDOUT) from None
        if len(received) < PREFIX:
            raise self._unavailable(0)
        answer = ffi.new("struct guard_answer *")
        ffi.buffer(answer)[:PREFIX] = received[:PREFIX]
        if answer.error:
            raise self._unavailable_at(answer.error, answer.step)

    def _unavailable_at(self, code: int, step: int) -> NetlinkError:
        """Return the error for a guard_step at which the guard failed with this errno."""
        return self._unavailable(code, "the plug's mark, an abstract unix socket" if step == lib.GUARD_MARK else "")

    def _not_permitted(self) -> NetlinkError:
        hint = "CAP_NET_ADMIN is missing: run as root or give the process that capability"
        sentence = f"cannot hold {self._device}: the guard has no right to do so: {hint}"
        return NotPermitted(errno.EPERM, sentence, "hold", self._device, hint=hint)

    def _unavailable(self, code: int, step: str = "", hint: str = "") -> NetlinkError:
        why = os.strerror(code) if code else "it ended at once"
        hint = hint or {
            errno.EPERM: REFUSED,
            errno.EAGAIN: "the limit of processes (ulimit -u, pids.max) is reached",
            errno.EMFILE: "the limit of open files (ulimit -n) is reached",
            errno.EMSGSIZE: "the group has too many plugs for one guard: make several groups",
            errno.ENOENT: f"{PATH} is missing: reinstall the package",
            errno.EACCES: REFUSED if step else f"{PATH} must be executable, on a file system not mounted noexec",
            errno.ETIMEDOUT: f"the guard did not start within {ANSWER_TIMEOUT} s",
            errno.ENOSYS: "it needs pidfd_open: Linux 5.3 or newer, and no seccomp filter that refuses it",
            errno.EPROTO: OTHER_VERSION,
        }.get(code, "nothing is held")
        failed = f"the guard that would release it cannot be started: {step + ': ' if step else ''}{why}"
        sentence = f"cannot hold {self._device}: {failed}; {hint}"
        return GuardUnavailable(code or None, sentence, "hold", self._device, hint=hint)

    @property
    def alive(self) -> bool:
        """True if the guard can still be asked: the socket is open here, and the guard has not ended."""
        try:
            return self._socket.recv(1, MSG_PEEK | MSG_DONTWAIT) != b""
        except BlockingIOError:  # it has nothing to say
            return True
        except OSError:
            return False

    def new_id(self) -> int:
        """Return an id for the next hold."""
        return next(self._ids)

    def hold(
        self,
        sk: RouteSocket,
        hold_id: int,
        timeout: float | None,
        *,
        drop: bool = False,
        detached: bool = False,
        limit: int | None = None,
    ) -> None:
        """Have the guard hold the plugs until release(), until this process dies, or for ``timeout`` seconds.

        Raises PlugBusy if a plug is already held, by this process or another one. Raises PlugsRefused if the kernel
        refused some plugs; then none is held. Raises GuardUnavailable if the guard does not answer; then some may be
        held.
        """
        nanoseconds = 0 if timeout is None else max(1, int(timeout * 1e9))
        question = [lib.GUARD_HOLD, drop, detached, 0, hold_id, nanoseconds, limit or 0]
        deadline: float | None = None
        while True:
            answer, codes = self._ask(question)
            if answer is None:
                sentence = f"cannot hold {self._device}: its guard is gone or does not answer; the plug is released"
                raise GuardUnavailable(None, sentence, "hold", self._device)
            if not answer.error:
                return
            if answer.step == lib.GUARD_PLUG:
                if set(codes.values()) == {errno.EPERM}:
                    raise self._not_permitted()
                raise PlugsRefused(codes)
            if answer.error == errno.EBUSY:
                raise PlugBusy.by(self._device, os.getpid(), "a hold of this object is on already")
            if answer.error != errno.EADDRINUSE or answer.plug >= len(self._places):
                raise self._unavailable_at(answer.error, answer.step)
            taken = self._places[answer.plug]
            deadline = deadline or time.monotonic() + MARK_TIMEOUT
            holder = holder_of(sk, taken.mark)
            if holder is not None or time.monotonic() > deadline:
                raise busy(taken, holder)
            time.sleep(0.001)  # that hold has ended meanwhile, and another one may have begun

    def release(self, hold_id: int) -> Answer | None:
        """End this hold: the guard releases, then gives its marks back. Return None if the guard does not answer."""
        answer, codes = self._ask([lib.GUARD_RELEASE, 0, 0, 0, hold_id])
        if answer is None:
            return None
        if self._is_child:
            self.end()
        return Answer(
            codes,
            answer.outcome == lib.GUARD_EXPIRED,
            answer.outcome != lib.GUARD_NOT_ON,
            answer.held / 1e9,
            bool(answer.counted),
            answer.packets,
            answer.bytes,
            answer.dropped,
            _LOST.get(answer.lost, "something happened to it") if answer.lost else None,
            self._places[answer.plug].device if answer.plug < len(self._places) else self._device,
        )

    def _ask(self, question: list[int]) -> tuple[CData | None, dict[int, int]]:
        with self._lock:
            if self._socket.fileno() < 0:
                return None, {}
            asked = ffi.buffer(ffi.new("struct guard_question *", question))[:]
            answer, codes = _asked(self._socket, asked, len(self._places))
            if answer is None or answer.id != question[4]:  # it may still come, and must not be taken for a later one
                self._say_goodbye()
                self._socket.close()
                return None, {}
            return answer, codes

    def _say_goodbye(self) -> None:
        """Tell the guard to release what it holds, and to end."""
        try:
            words = ffi.buffer(ffi.new("struct guard_question *", [lib.GUARD_END]))[:]
            self._socket.send(words, MSG_NOSIGNAL | MSG_DONTWAIT)
        except OSError:
            pass

    def go_on(self) -> None:
        """Leave a detached guard alone: it ends the hold by itself."""
        self._socket.close()

    def end(self) -> bool:
        """End the guard: wait until it has released what it holds and has ended. Return whether it has. Calling it
        again does nothing."""
        ended = True
        with self._lock:
            if self._socket.fileno() < 0:
                return True
            self._say_goodbye()
            try:
                self._socket.settimeout(ANSWER_TIMEOUT)  # SO_RCVTIMEO begins anew after each signal
                while self._socket.recv(64):
                    pass
            except ConnectionResetError:
                pass
            except OSError:  # not in time
                ended = False
            self._socket.close()
        if self._is_child:
            wait(self.pid)
        return ended

    def forget(self) -> None:
        """In a forked child: close the copy of the descriptor, and tell the parent's guard nothing."""
        self._socket.close()


def configuration(places: Sequence[Place], messages: Mapping[int, bytes], port: int) -> bytes:
    """Return what a guard is told when it starts. ``port`` is the port of its netlink socket."""
    head = ffi.new("struct guard_config *", [lib.GUARD_VERSION, os.getpid(), len(places), port])
    for what, message in messages.items():
        ffi.buffer(head.messages[what])[: len(message)] = message
    tail = ffi.new("struct guard_place[]", [[place.ifindex, place.handle, place.parent] for place in places])
    return bytes(ffi.buffer(head)[:] + ffi.buffer(tail)[:])


def _asked(to: Socket, question: bytes, plugs: int) -> tuple[CData | None, dict[int, int]]:
    """Ask a guard of ``plugs`` plugs. Return its answer, or None if there is none, and the errno of each plug that
    failed, by its index."""
    size = ffi.sizeof("struct guard_answer")
    room = ffi.new("char[]", size + 4 * plugs)
    if lib.libnlplug_ask(to.fileno(), question, len(question), room, ffi.sizeof(room)) != ffi.sizeof(room):
        return None, {}
    answer = ffi.new("struct guard_answer *")
    ffi.buffer(answer)[:] = ffi.buffer(room)[:size]
    if answer.step != lib.GUARD_PLUG:
        return answer, {}
    errors = ffi.cast("int32_t *", room + size)
    return answer, {i: errors[i] for i in range(plugs) if errors[i]}
