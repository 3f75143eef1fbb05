# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard's other end: start it, tell it that a hold begins or ends, and ask who holds.

The guard (guard.c) is a tiny program that releases the plug when its holder dies or overstays. It is started once for
an object, says that it is ready before anything is held, and lives, unarmed between holds, until the object is closed.
It is no child of this process, so neither SIGCHLD nor wait() tells of it.

While it holds it owns the mark of the plug, an abstract unix socket in the plug's namespace: the name can be bound
once, so there is one hold at a time across processes, and it vanishes with the guard, leaving no file behind.

Its limit: what kills a whole cgroup at once (cgroup.kill; memory.oom.group, unless the guard has the right to be
spared, as root's has) or a whole pid namespace (a container whose first process ends) kills the guard together with the
holder; what freezes a cgroup (docker pause) stops both, past any timeout.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_PEEK,
    SCM_RIGHTS,
    SO_PEERCRED,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _socket import socket as Socket
from _thread import RLock, allocate_lock
from itertools import count

from ..errors import GuardUnavailable, NetlinkError, NotPermitted, PlugBusy
from ..netlink.libnl import ffi, lib
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..netlink.libnl import CData
    from ..netlink.route_socket import RouteSocket

__all__ = ["Guard", "Holder", "holder_of", "mark_name"]

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libnlplug-guard")
ANSWER_TIMEOUT = 5
MARK_TIMEOUT = 0.5


class Holder(Record):
    """Who holds a plug: the ``pid``, ``since`` when (seconds of the epoch), its ``timeout`` in seconds or None,
    the plug's ``limit`` in bytes where the holder has set it, else None.

    ``guard`` is its guard's pid. A ``detached`` hold goes on without the process that began it, until its timeout. Who
    has the plug's mark and is another user's, or does not answer as a guard does, is ``foreign``: nothing is known of
    it but its pid and ``uid``. A pid that cannot be known from here, as in another pid namespace, is 0, a uid -1.
    """

    __slots__ = ("pid", "since", "timeout", "limit", "guard", "detached", "foreign", "uid")
    pid: int
    since: float | None
    timeout: float | None
    limit: int | None
    guard: int
    detached: bool
    foreign: bool
    uid: int


class Guard:
    """One guard process for one set of plugs. Threads: it locks. Fork: the parent's only. Signals: a handler may end()
    it at any time, and speak with it but in the middle of another word with it (RuntimeError)."""

    def __init__(
        self,
        route: RouteSocket,
        device: str,
        marks: list[str],
        release: bytes,
        drop: bytes,
        devices: list[str] | None = None,
    ) -> None:
        self._lock = RLock()
        self._asking = allocate_lock()  # by this thread, and not a flag: an interrupt cannot leave it set
        self._numbers = count(1)
        self._route = route
        self._device = device
        self._marks = marks
        self._devices = devices or [device] * len(marks)
        self.pid = 0
        try:
            self._socket = route.in_netns(lambda: self._start(release, drop))
        except NetlinkError as error:
            if error.operation == "hold":
                raise
            kind = NotPermitted if isinstance(error, NotPermitted) else GuardUnavailable
            raise kind(error.errno, f"cannot hold {device}: {error}", "hold", device, hint=error.hint) from None

    def _start(self, release: bytes, drop: bytes) -> Socket:
        try:
            ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        except OSError as error:
            raise self._unavailable(error.errno or 0) from None
        ours_ready, owned = False, None
        file = ffi.new("int *", -1)
        try:
            page = lib.libnlplug_page_new(file)
            if page == ffi.NULL:
                raise self._unavailable(ffi.errno)
            self._page = owned = ffi.gc(page, lib.libnlplug_page_free)
            timeout = ffi.new("long[2]", [ANSWER_TIMEOUT, 0])
            for option in (SO_RCVTIMEO, SO_SNDTIMEO):
                ours.setsockopt(SOL_SOCKET, option, ffi.buffer(timeout)[:])
            names = b"".join(mark.encode() + b"\0" for mark in self._marks)
            size = len(release) + len(drop) + len(names)
            if size > ours.getsockopt(SOL_SOCKET, SO_SNDBUF) // 2:
                try:
                    ours.setsockopt(SOL_SOCKET, lib.SO_SNDBUFFORCE, size)
                except PermissionError:
                    pass  # it may be too large then, and the send says so
            shown = [ffi.new("char[]", text) for text in (b"libnlplug-guard", b"of", b"%d" % os.getpid())]
            pid = lib.libnlplug_spawn(os.fsencode(PATH), ffi.new("char *[]", [*shown, ffi.NULL]), theirs.fileno())
            theirs.close()
            if pid < 0:
                raise self._unavailable(-pid)
            self.pid = pid
            head = ffi.new("struct guard_config *", [len(release), len(drop), len(names), os.getpid()])
            try:
                descriptors = ffi.new("int[2]", [file[0], page.timer])
                rights = [(SOL_SOCKET, SCM_RIGHTS, ffi.buffer(descriptors)[:])]
                ours.sendmsg([ffi.buffer(head)[:], release, drop, names], rights, MSG_NOSIGNAL)
                answer = _answer(ours.recv(64))
            except BlockingIOError:
                raise self._unavailable(errno.ETIMEDOUT) from None
            except (ConnectionResetError, BrokenPipeError):
                raise self._unavailable(0) from None
            except OSError as error:
                raise self._unavailable(error.errno or 0) from None
            if answer is None:
                raise self._unavailable(0)
            if answer.error:
                raise self._unavailable(answer.error)
            ours_ready = True
            return ours
        finally:
            theirs.close()
            if file[0] >= 0:
                os.close(file[0])
            if not ours_ready:
                ours.close()
                if owned is not None:
                    ffi.release(owned)  # now, and not when the last traceback is gone: it has a descriptor

    def _unavailable(self, number: int) -> NetlinkError:
        words = os.strerror(number) if number else "it ended at once"
        message = f"cannot hold {self._device}: the guard that would release it cannot be started: {words}"
        if number == errno.EPERM:
            hint = "CAP_NET_ADMIN is missing: run as root or give the process that capability"
            return NotPermitted(number, f"{message}; {hint}", "hold", self._device, hint=hint)
        hint = {
            errno.EAGAIN: "the limit of processes (ulimit -u, pids.max) is reached",
            errno.EMFILE: "the limit of open files (ulimit -n) is reached",
            errno.EMSGSIZE: "these are too many plugs for one guard here: make several groups",
            errno.ENOENT: f"{PATH} is missing: reinstall the package",
            errno.EACCES: f"{PATH} must be executable, on a file system not mounted noexec",
            errno.ETIMEDOUT: f"it has not said within {ANSWER_TIMEOUT} s that it is ready",
            errno.ENOSYS: "it needs pidfd_open, Linux 5.3 or newer",
        }.get(number, "nothing is held")
        return GuardUnavailable(number or None, f"{message}; {hint}", "hold", self._device, hint=hint)

    @property
    def ready(self) -> bool:
        """Whether the guard's process is there. Asks nobody: the kernel keeps it in the page."""
        return bool(lib.libnlplug_guard_is_alive(self._page)) and self._socket.fileno() >= 0

    @property
    def alive(self) -> bool:
        """Whether the guard can still be spoken to: not closed here, and not ended there."""
        with self._lock:
            try:
                return self._socket.recv(1, MSG_PEEK | MSG_DONTWAIT) != b""
            except BlockingIOError:  # it has nothing to say
                return True
            except OSError:
                return False

    def new_number(self) -> int:
        """A number for the next hold: 24 bits, and never 0."""
        return next(self._numbers) & 0xFF_FFFF or next(self._numbers) & 0xFF_FFFF

    def hold(
        self,
        timeout: float | None,
        *,
        number: int = 0,
        drop: bool = False,
        detached: bool = False,
        limit: int | None = None,
    ) -> None:
        """Arm: from the return of this call, the guard releases if this process dies or ``timeout`` seconds pass.

        ``number`` is what release() will call this hold. PlugBusy where the plug is held already, by whoever;
        GuardUnavailable where the guard does not answer.
        """
        nanoseconds = 0 if timeout is None else max(1, int(timeout * 1e9))
        if not detached and lib.libnlplug_hold_begin(self._page, number, drop, nanoseconds, limit or 0):
            return
        command = ffi.new(
            "struct guard_command *", [lib.GUARD_HOLD, drop, detached, number, nanoseconds, time.time_ns(), limit or 0]
        )
        deadline = time.monotonic() + MARK_TIMEOUT
        while True:
            answer = self._ask(command)
            if answer is None or answer.mark >= len(self._marks):
                raise GuardUnavailable(
                    None, f"cannot hold {self._device}: its guard has gone; nothing is held", "hold", self._device
                )
            if not answer.error:
                return
            if answer.error == errno.EBUSY:
                raise PlugBusy.by(self._device, os.getpid(), "a hold of this object is on already")
            if answer.error != errno.EADDRINUSE:
                raise self._unavailable(answer.error)
            holder = holder_of(self._route, self._marks[answer.mark])
            if holder is not None:
                raise busy(self._devices[answer.mark], holder)
            if time.monotonic() > deadline:
                raise busy(self._devices[answer.mark], Holder(0, None, None, None, 0, False, True, -1))
            time.sleep(0.001)  # a hold that has ended in between, and perhaps another one that has begun

    @property
    def begun(self) -> float:
        """When the hold that is on began, on the clock of time.monotonic()."""
        return float(self._page.begun) / 1e9

    def is_on(self, number: int) -> bool:
        """Whether this hold has neither expired nor ended."""
        return bool(self._page.state == number << 8 | lib.GUARD_HELD)

    def leave(self, number: int) -> bool:
        """Whether this hold has not expired: then it will not any more, and is to be released, and left() be called.

        Should this process die in between, the guard releases.
        """
        return bool(lib.libnlplug_hold_leave(self._page, number))

    def left(self, number: int) -> None:
        """It was released. The guard keeps the mark for the next hold, and gives it to whoever else wants to hold."""
        lib.libnlplug_hold_left(self._page, number)

    def release(self, number: int = 0) -> CData | None:
        """End the hold of this number, or the one that is on: the guard releases, then takes its mark away.

        Its answer, or None where it has gone.
        """
        return self._ask(ffi.new("struct guard_command *", [lib.GUARD_RELEASE, 0, 0, number]))

    def _ask(self, command: CData) -> CData | None:
        with self._lock:
            if self._asking.locked():
                raise RuntimeError("called from a signal handler in the middle of a request of the same object")
            with self._asking:
                try:
                    self._socket.send(ffi.buffer(command)[:], MSG_NOSIGNAL)
                    answer = _answer(self._socket.recv(64))
                except OSError:
                    answer = None
                except BaseException:  # an interrupt between question and answer: the conversation cannot go on
                    self._hang_up()
                    raise
            if answer is None:
                self._hang_up()
            return answer

    def _hang_up(self) -> None:
        self._say_goodbye()
        self._socket.close()

    def _say_goodbye(self) -> None:
        """Tell the guard to end; a hold that is on is released first, not treated as its holder's death."""
        for what in (lib.GUARD_RELEASE, lib.GUARD_END):
            try:
                self._socket.send(ffi.buffer(ffi.new("struct guard_command *", [what]))[:], MSG_NOSIGNAL)
            except OSError:
                pass

    def go_on(self) -> None:
        """Let a detached guard go on alone."""
        with self._lock:
            self._socket.close()

    def end(self) -> None:
        """End the guard, and wait for its end; calling it again does nothing."""
        with self._lock:
            if self._socket.fileno() < 0:
                return
            self._say_goodbye()
            try:
                while self._socket.recv(64):
                    pass
            except OSError:
                pass
            self._socket.close()
        try:
            os.waitpid(self.pid, 0)  # it is this process's only where this is PID 1 or a child subreaper
        except ChildProcessError:
            pass

    def forget(self) -> None:
        """In a forked child: close the copy of the descriptor, and say nothing to the parent's guard."""
        self._socket.close()


def _answer(received: bytes) -> CData | None:
    answer = ffi.new("struct guard_answer *")
    if len(received) != ffi.sizeof("struct guard_answer"):
        return None
    ffi.buffer(answer)[:] = received
    return answer


def mark_name(ifindex: int, parent: int) -> str:
    """The name of a plug's mark in the abstract socket namespace: the plug's place in its network namespace."""
    return f"libnlplug-hold/{ifindex}/{parent:x}"


def holder_of(route: RouteSocket | None, mark: str) -> Holder | None:
    """Who owns the mark, or None where nobody does: in the socket's namespace, which needs CAP_NET_ADMIN, or, with
    None, in the calling thread's, which needs nothing."""
    return _ask_mark(mark) if route is None else route.in_netns(lambda: _ask_mark(mark))


def _ask_mark(mark: str) -> Holder | None:
    peer = b"\0" * 4 + b"\xff" * 4
    visitor = Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        visitor.setsockopt(SOL_SOCKET, SO_RCVTIMEO, ffi.buffer(ffi.new("long[2]", [0, 500_000]))[:])
        visitor.setblocking(False)
        visitor.connect("\0" + mark)
        visitor.setblocking(True)
        peer = visitor.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
        received = visitor.recv(64)
    except (ConnectionRefusedError, ConnectionResetError):  # nobody, or a hold that ended at this moment
        return None
    except OSError:  # nobody of ours: one that accepts nobody, or one that says nothing
        received = b""
    finally:
        visitor.close()
    pid, uid = (int.from_bytes(peer[at : at + 4], sys.byteorder, signed=True) for at in (0, 4))
    info = ffi.new("struct guard_info *")
    if uid not in (0, os.geteuid()) or len(received) != ffi.sizeof("struct guard_info"):
        return Holder(pid, None, None, None, pid, False, True, uid)
    ffi.buffer(info)[:] = received
    holder = int(info.holder) if info.guard == pid else _watched_by(pid)
    if info.detached:
        holder = pid
    timeout, limit = max(0, info.timeout) / 1e9 or None, max(0, int(info.limit)) or None
    return Holder(holder, info.since / 1e9, timeout, limit, pid, bool(info.detached), False, uid)


def _watched_by(guard: int) -> int:
    """The pid, as seen from here, of the holder that a guard in another pid namespace watches; 0 where it is not
    seen. Its descriptor 1 is the holder's pidfd, of which /proc tells who may look."""
    try:
        with open(f"/proc/{guard}/fdinfo/1") as lines:
            return max([0, *(int(line.split()[1]) for line in lines if line.startswith("Pid:"))])
    except OSError:
        return 0


def called(holder: Holder) -> str:
    """What a sentence calls it."""
    if holder.foreign and holder.uid < 0:
        return "a socket that answers nobody"
    who = f"process {holder.pid}" if holder.pid else "a process in another pid namespace"
    return f"{who} of uid {holder.uid}" if holder.foreign else who


def busy(device: str, holder: Holder, operation: str = "hold") -> PlugBusy:
    """The refusal that names the holder."""
    who = called(holder)
    if holder.foreign and holder.uid < 0:
        why = f"{who} sits on the plug's mark ('ss -xap' may show whose); end it"
    elif holder.foreign:
        why = f"{who} sits on the plug's mark; whether it is a guard is not known: end it only if it is none"
    elif holder.detached:
        why = f"{who}, a guard, holds it until its deadline; 'libnlplug release {device}' ends it"
    else:
        why = f"{who} holds it"
    return PlugBusy.by(device, holder.pid, why, operation)
