# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks: who holds a plug, and that nobody else does.

A mark is an abstract unix socket in the plug's network namespace, named after the plug's place. Its name can be bound
once, so whoever has it excludes the others across processes, and it vanishes with its owner, leaving no file behind:

    hold()             the guard has the mark as long as it holds, and tells who connects to it who holds
    attach(), detach() this process has it for the moments in which it creates or deletes the plug, and says nothing

Any local user can take any name, so a mark keeps others away and proves nothing more. What its owner says counts if
that is root or this user; root also believes another user's guard, after a look at its program and at whom it watches.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from _socket import (
    AF_UNIX,
    MSG_NOSIGNAL,
    SO_PEERCRED,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOL_SOCKET,
)
from _socket import socket as Socket

from ..errors import NetlinkError, PlugBusy
from ..netlink.libnl import ffi, lib
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..netlink.route_socket import RouteSocket

__all__ = ["Holder", "Mark", "Place", "Taken", "busy", "called", "end_detached_guard", "holder_of", "mark_name"]

MARK_TIMEOUT = 2.0  # seconds for a mark that somebody has and nobody can be asked about
ANSWER_TIMEOUT = 500_000  # microseconds
END_TIMEOUT = 1.0  # seconds
REFUSED = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES)  # no unix sockets here

_open: set[Mark] = set()


class Place(Record):
    """Where a plug stands: device, interface index, handle and parent."""

    __slots__ = ("device", "ifindex", "handle", "parent")
    device: str
    ifindex: int
    handle: int
    parent: int

    @property
    def mark(self) -> str:
        """The name of its mark."""
        return mark_name(self.ifindex, self.parent)


class Holder(Record):
    """Who holds a plug: the ``pid``, ``since`` when (seconds of the epoch), its ``timeout`` in seconds or None,
    the plug's ``limit`` in bytes where the holder has set it, else None.

    ``guard`` is its guard's pid. A ``detached`` hold goes on without the process that began it, until its timeout. The
    owner of the mark is ``foreign`` if it does not answer as a guard does, or is another user's and cannot be looked
    into: nothing is known of it but its pid and ``uid``. A pid that cannot be known from here, as in another pid
    namespace, is 0, a uid -1.
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


class Mark:
    """One name, taken by take() and given back by close(). The object is there before the socket, so that close() gives
    back what take() has taken, whatever interrupts it. Fork: a child closes its copies at once.

    A ``silent`` mark is of another type of socket, which can be asked for without leaving anything in a queue: for a
    mark that is kept for long and that no guard asks about.
    """

    def __init__(self, name: str, *, silent: bool = False) -> None:
        self._name = name
        self._silent = silent
        self._socket: Socket | None = None

    def take(self, sk: RouteSocket) -> bool:
        """Whether the name is this process's now, in the namespace of ``sk``; False where somebody has it. Where
        there are no unix sockets nobody can have it."""
        return sk.in_netns(self._bind)

    def _bind(self) -> bool:
        try:
            self._socket = Socket(AF_UNIX, (SOCK_DGRAM if self._silent else SOCK_SEQPACKET) | SOCK_CLOEXEC)
            _open.add(self)
            self._socket.bind("\0" + self._name)
            if not self._silent:
                self._socket.listen(128)  # who connects is told this process's pid by the kernel
            return True
        except OSError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:
                return False
            if error.errno in REFUSED:
                return True
            raise

    @property
    def taken(self) -> bool:
        """Whether this process has taken the name."""
        return self._socket is not None

    def close(self) -> None:
        """Give the name back; calling it again does nothing."""
        _open.discard(self)
        mark, self._socket = self._socket, None
        if mark is not None:
            mark.close()


def _close_copies() -> None:
    for mark in list(_open):
        mark.close()


os.register_at_fork(after_in_child=_close_copies)


class Taken:
    """A plug's mark for the length of a block: nobody attaches, detaches or holds there meanwhile. Entering raises
    PlugBusy, with the pid, where somebody holds; it waits for who attaches or detaches. ``guard`` may have the mark."""

    def __init__(self, sk: RouteSocket, place: Place, operation: str, guard: int = 0) -> None:
        self._sk = sk
        self._place = place
        self._operation = operation
        self._guard = guard
        self._mark = Mark(place.mark)

    def __enter__(self) -> None:
        deadline = time.monotonic() + MARK_TIMEOUT
        try:
            while not self._mark.take(self._sk):
                holder = holder_of(self._sk, self._place.mark)
                if holder is not None and holder.guard == self._guard:
                    return
                if holder is not None or time.monotonic() > deadline:
                    raise busy(self._place.device, holder, self._operation)
                time.sleep(0.001)
        except OSError as error:
            self._mark.close()
            if isinstance(error, NetlinkError):
                raise
            operation, device = self._operation, self._place.device
            message = f"cannot {operation} {device}: {os.strerror(error.errno or 0)}"
            raise NetlinkError(error.errno, message, operation, device) from None
        except BaseException:
            self._mark.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mark.close()


def mark_name(ifindex: int, parent: int) -> str:
    """The name of a plug's mark in the abstract socket namespace: the plug's place in its network namespace."""
    return f"libnlplug-hold/{ifindex}/{parent:x}"


def holder_of(sk: RouteSocket | None, mark: str) -> Holder | None:
    """Who owns the mark, or None where nobody does: in the socket's namespace, which needs CAP_NET_ADMIN, or, with
    None, in the calling thread's, which needs nothing."""
    return _ask_mark(mark) if sk is None else sk.in_netns(lambda: _ask_mark(mark))


def end_detached_guard(sk: RouteSocket, mark: str) -> bool:
    """Ask the guard of a detached hold to release and end; whether the mark is free. No signal is sent: whose pid the
    mark names is not certain, but who listens there hears the question."""
    deadline = time.monotonic() + END_TIMEOUT
    while holder_of(sk, mark) is not None:
        if time.monotonic() > deadline:
            return False
        sk.in_netns(lambda: _visit(mark, end=True))  # which the guard may miss, where others visit it too
        time.sleep(0.001)
    return True


def _ask_mark(mark: str) -> Holder | None:
    for _ in range(3):
        peer, received = _visit(mark)
        if received != b"" or peer is None:
            break  # else it hung up without a word: a guard that has just ended, or no guard
    if peer is None:
        return None
    pid, uid = peer
    ours = uid in (0, os.geteuid())
    known = ours or _is_guard_of(uid, pid)
    info = ffi.new("struct guard_info *")
    if not known or received is None or len(received) != ffi.sizeof("struct guard_info"):
        # A guard that was stopped says nothing, but its holder is known all the same.
        holder = _watched_by(pid) if known and received is None else 0
        return Holder(holder or pid, None, None, None, pid, False, not holder, uid)
    ffi.buffer(info)[:] = received
    holder = int(info.holder) if ours and info.guard == pid else _watched_by(pid)
    if info.detached:
        holder = pid
    timeout, limit = max(0, info.timeout) / 1e9 or None, max(0, int(info.limit)) or None
    return Holder(holder, info.since / 1e9, timeout, limit, pid, bool(info.detached), False, uid)


def _is_guard_of(uid: int, pid: int) -> bool:
    """Whether root can see that this process of another user is a guard, which holds for that user. A user may start
    the guard's program as he likes, but not make it watch a process of somebody else's unnoticed."""
    if os.geteuid() or os.path.basename(_program(pid)) != "libnlplug-guard":
        return False
    try:
        with open(f"/proc/{_watched_by(pid)}/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("Uid:")) == uid
    except OSError:  # the holder has ended, and the hold is detached or about to end
        return True


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _visit(mark: str, *, end: bool = False) -> tuple[tuple[int, int] | None, bytes | None]:
    """The pid and uid of the mark's owner, None where there is none, and what it said: nothing in time is None."""
    peer = b"\0" * 4 + b"\xff" * 4
    received: bytes | None = None
    try:
        visitor = Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    except OSError as error:
        if error.errno in REFUSED:
            return None, None
        raise
    try:
        for option in (SO_RCVTIMEO, SO_SNDTIMEO):
            visitor.setsockopt(SOL_SOCKET, option, ffi.buffer(ffi.new("long[2]", [0, ANSWER_TIMEOUT]))[:])
        visitor.connect("\0" + mark)
        peer = visitor.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
        received = visitor.recv(64)
        if end:
            visitor.send(ffi.buffer(ffi.new("struct guard_question *", [lib.GUARD_END]))[:], MSG_NOSIGNAL)
            visitor.recv(64)  # it hangs up when it has released
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):  # nobody, or one that ends at this moment
        return None, None
    except OSError:  # nobody of ours: one that accepts nobody, or one that says nothing
        pass
    finally:
        visitor.close()
    pid, uid = (int.from_bytes(peer[at : at + 4], sys.byteorder, signed=True) for at in (0, 4))
    return (pid, uid), received


def _watched_by(guard: int) -> int:
    """The pid, as seen from here, of the holder that a guard watches; 0 where it is not seen. The guard's descriptor 1
    is the holder's pidfd, of which /proc tells who may look."""
    try:
        with open(f"/proc/{guard}/fdinfo/1") as lines:
            return max([0, *(int(line.split()[1]) for line in lines if line.startswith("Pid:"))])
    except OSError:
        return 0


def called(holder: Holder) -> str:
    """What a sentence calls it."""
    if holder.foreign and holder.uid < 0:
        return "a socket that does not answer"
    who = f"process {holder.pid}" if holder.pid else "a process in another pid namespace"
    return f"{who} of uid {holder.uid}" if holder.foreign or holder.uid not in (0, os.geteuid()) else who


def busy(device: str, holder: Holder | None, operation: str = "hold") -> PlugBusy:
    """The refusal that names the holder; None is a socket that does not answer."""
    holder = holder or Holder(0, None, None, None, 0, False, True, -1)
    who = called(holder)
    if holder.foreign and holder.uid < 0:
        why = f"{who} has taken the plug's mark ('ss -xap' may show whose); end it"
    elif holder.foreign:
        why = f"{who} has taken the plug's mark; it may or may not be a guard; end it only if it is not"
    elif holder.detached:
        why = f"{who}, a guard, holds it until its deadline; 'libnlplug release {device}' ends it"
    else:
        why = f"{who} holds it"
    return PlugBusy.by(device, holder.pid, why, operation)
