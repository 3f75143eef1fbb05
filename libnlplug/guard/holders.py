# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks: a plug's mark says who holds it, and keeps others from holding it.

A mark is an abstract Unix socket in the plug's network namespace, named after the plug's place. A name can be bound
only once, so its owner excludes all other processes. It vanishes with its owner and leaves no file behind.

    hold()             the guard has the mark while it holds, and tells everyone who connects who holds
    attach(), detach() this process has the mark while it creates or deletes the plug, and says nothing

Any local user can take any name, so a mark keeps others away but proves nothing. The answer of its owner counts if the
owner is root or this user. Root also believes another user's guard, after checking its program and whom it watches.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from _socket import (
    AF_UNIX,
    SO_PEERCRED,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOL_SOCKET,
)
from _socket import socket as Socket

from ..errors import NetlinkError, PlugBusy
from ..netlink.libnl import ffi, lib
from ..netlink.messages import handle_text
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..netlink.route_socket import RouteSocket

__all__ = ["Holder", "Mark", "Place", "Taken", "busy", "called", "end_detached_guard", "holder_of", "mark_name"]

MARK_TIMEOUT = 2.0  # seconds to wait for a mark whose owner does not answer
VISIT_TIMEOUT = 0.5  # seconds
END_TIMEOUT = 1.0  # seconds
REFUSED = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES)  # Unix sockets cannot be made here

_open: set[Mark] = set()


class Place(Record):
    """Where a plug stands: device, interface index, handle and parent."""

    __slots__ = ("device", "ifindex", "handle", "parent")
    device: str
    ifindex: int
    handle: int
    parent: int

    @property
    def at(self) -> tuple[int, int]:
        """Interface index and parent: only one qdisc can stand there."""
        return self.ifindex, self.parent

    @property
    def mark(self) -> str:
        """The name of its mark."""
        return mark_name(self.ifindex, self.parent)


class Holder(Record):
    """Who holds a plug: its ``pid``, ``since`` when (seconds of the epoch), its ``timeout`` in seconds or None, and the
    plug's ``limit`` in bytes if the holder has set it, else None.

    ``guard`` is the guard's pid. A ``detached`` hold goes on until its timeout without the process that began it.
    ``foreign`` is true if the process that has the plug's mark, an abstract unix socket, does not answer as a guard, or
    belongs to another user and cannot be checked: then only its pid and ``uid`` are known. A pid that cannot be known,
    as in another pid namespace, is 0, and a uid -1.
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
    """A mark that this process can have: take() binds its name, close() gives it back. An interrupt in take() leaves
    no socket behind, because this object exists before the socket. Fork: a child closes its copies at once.

    A ``silent`` mark uses another type of socket: a process that looks whether the mark is taken leaves nothing in its
    queue. So it can be kept for long.
    """

    def __init__(self, name: str, *, silent: bool = False) -> None:
        self._name = name
        self._silent = silent
        self._socket: Socket | None = None

    def take(self, sk: RouteSocket) -> bool:
        """Bind the name in the namespace of ``sk``. Return False if somebody has it. If no Unix socket can be made
        here, nobody can have it, and this returns True."""
        return sk.in_netns(self._bind)

    def _bind(self) -> bool:
        try:
            self._socket = Socket(AF_UNIX, (SOCK_DGRAM if self._silent else SOCK_SEQPACKET) | SOCK_CLOEXEC)
            _open.add(self)
            self._socket.bind("\0" + self._name)
            if not self._silent:
                self._socket.listen(128)  # the kernel tells this process's pid to whoever connects
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
        """True while this process has the name."""
        return self._socket is not None

    def close(self) -> None:
        """Give the name back. Calling it again does nothing."""
        _open.discard(self)
        mark, self._socket = self._socket, None
        if mark is not None:
            mark.close()


def _close_copies() -> None:
    for mark in list(_open):
        mark.close()


os.register_at_fork(after_in_child=_close_copies)


class Taken:
    """Take a plug's mark for a block, so that no other process attaches, detaches or holds there meanwhile.

    Entering raises PlugBusy, with the holder's pid, if somebody holds. It waits for a process that attaches or
    detaches. With ``guard``, the pid of a hold's guard that has gone or is stuck, the block is entered without the mark
    if that guard has it, or a squatter, who holds nothing: otherwise the packets would stay held.
    """

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
                if holder is not None and self._guard and (holder.guard == self._guard or _is_squatter(holder)):
                    return
                if holder is not None or time.monotonic() > deadline:
                    raise busy(self._place, holder, self._operation)
                time.sleep(0.001)
        except OSError as error:
            self._mark.close()
            if isinstance(error, NetlinkError):
                raise
            operation, device = self._operation, self._place.device
            sentence = f"cannot {operation} {device}: {os.strerror(error.errno or 0)}"
            raise NetlinkError(error.errno, sentence, operation, device) from None
        except BaseException:
            self._mark.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mark.close()


def mark_name(ifindex: int, parent: int) -> str:
    """Return the name of a plug's mark, an abstract unix socket. It says where the plug stands."""
    return f"libnlplug-hold/{ifindex}/{parent:x}"


def holder_of(sk: RouteSocket | None, mark: str) -> Holder | None:
    """Return the owner of the mark, or None. This looks in the namespace of ``sk``, which needs CAP_NET_ADMIN. If
    ``sk`` is None, it looks in the calling thread's namespace, which needs no right."""
    return _ask_mark(mark) if sk is None else sk.in_netns(lambda: _ask_mark(mark))


def end_detached_guard(sk: RouteSocket, mark: str) -> bool:
    """Ask the guard of a detached hold to release and end. Return whether the mark is free. No signal is sent, because
    the pid that a mark names is not certain; the question reaches whoever listens there."""
    deadline = time.monotonic() + END_TIMEOUT
    while holder_of(sk, mark) is not None:
        if time.monotonic() > deadline:
            return False
        sk.in_netns(lambda: _visit(mark, end=True))
        time.sleep(0.001)
    return True


def _ask_mark(mark: str) -> Holder | None:
    for _ in range(3):
        peer, received = _visit(mark)
        if received != b"" or peer is None:
            break  # otherwise it hung up: a guard that has just ended, or no guard
    if peer is None:
        return None
    pid, uid = peer
    ours = uid in (0, os.geteuid())
    known = ours or _is_guard_of(uid, pid)
    info = ffi.new("struct guard_info *")
    if not known or received is None or len(received) != ffi.sizeof("struct guard_info"):
        # A stopped guard says nothing, but its holder is known.
        holder = _watched_by(pid) if known and received is None else 0
        return Holder(holder or pid, None, None, None, pid, False, not holder, uid)
    ffi.buffer(info)[:] = received
    holder = int(info.holder) if ours and info.guard == pid else _watched_by(pid)
    if info.detached:
        holder = pid
    timeout, limit = max(0, info.timeout) / 1e9 or None, max(0, int(info.limit)) or None
    return Holder(holder, info.since / 1e9, timeout, limit, pid, bool(info.detached), False, uid)


def _is_guard_of(uid: int, pid: int) -> bool:
    """Return whether root can see that this process of another user is a guard that holds for that user. Any user can
    start the guard's program, but cannot make it watch another user's process unnoticed."""
    if os.geteuid() or os.path.basename(_program(pid)) != "libnlplug-guard":
        return False
    try:
        with open(f"/proc/{_watched_by(pid)}/status", errors="replace") as lines:  # a name may be cut in a character
            return next(int(line.split()[1]) for line in lines if line.startswith("Uid:")) == uid
    except OSError:  # the holder has ended, and the hold is detached or about to end
        return True


def _is_squatter(holder: Holder) -> bool:
    """Return whether root can see that this process of another user is no guard."""
    visible = holder.foreign and holder.pid > 0 and holder.uid > 0 and not os.geteuid()
    return visible and not _is_guard_of(holder.uid, holder.guard)


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _visit(mark: str, *, end: bool = False) -> tuple[tuple[int, int] | None, bytes | None]:
    """Ask the owner of the mark. Return its pid and uid, or None if there is no owner, and its answer, or None if it
    did not answer in time. With ``end``, ask a detached guard to end."""
    peer = b"\0" * 4 + b"\xff" * 4
    received: bytes | None = None
    try:
        visitor = Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    except OSError as error:
        if error.errno in REFUSED:
            return None, None
        raise
    try:
        limit = ffi.buffer(ffi.new("long[2]", [0, int(VISIT_TIMEOUT * 1e6)]))[:]
        visitor.setsockopt(SOL_SOCKET, SO_SNDTIMEO, limit)
        visitor.settimeout(None)  # or socket.setdefaulttimeout() makes connect() fail where it should wait
        if end:
            visitor.bind(f"\0libnlplug-end/{os.urandom(8).hex()}")
        visitor.connect("\0" + mark)
        peer = visitor.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
        visitor.settimeout(VISIT_TIMEOUT)  # SO_RCVTIMEO begins anew after each signal
        received = visitor.recv(64)
        if end:
            visitor.recv(64)  # until it hangs up, after the release
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):  # no owner, or it ends at this moment
        return None, None
    except OSError:  # no guard: it accepts nobody, or says nothing
        pass
    finally:
        visitor.close()
    pid, uid = (int.from_bytes(peer[at : at + 4], sys.byteorder, signed=True) for at in (0, 4))
    return (pid, uid), received


def _watched_by(guard: int) -> int:
    """Return the pid of the holder that a guard watches, or 0 if it is not visible here. The guard's descriptor 1 is
    the holder's pidfd, and /proc shows its pid to those who may look."""
    try:
        with open(f"/proc/{guard}/fdinfo/1") as lines:
            return max([0, *(int(line.split()[1]) for line in lines if line.startswith("Pid:"))])
    except OSError:
        return 0


def called(holder: Holder) -> str:
    """Return how a sentence names the holder."""
    if holder.foreign and holder.uid < 0:
        return "a process that does not answer"
    who = f"process {holder.pid}" if holder.pid else "a process in another pid namespace"
    return f"{who} of uid {holder.uid}" if holder.foreign or holder.uid not in (0, os.geteuid()) else who


def busy(place: Place, holder: Holder | None, operation: str = "hold") -> PlugBusy:
    """Return the PlugBusy that names the holder of the plug at ``place``. None is a process that does not answer."""
    holder = holder or Holder(0, None, None, None, 0, False, True, -1)
    who = called(holder)
    if holder.foreign and holder.uid < 0:
        why = f"{who} has taken the plug's mark, an abstract unix socket ('ss -xap' may show which process); end it"
    elif holder.foreign:
        why = f"{who} has taken the plug's mark, an abstract unix socket; end it unless it is a guard"
    elif holder.detached:
        where = (
            place.device if place.parent == lib.TC_H_ROOT else f"{place.device} --parent {handle_text(place.parent)}"
        )
        why = f"{who}, a guard, holds it until its deadline; 'libnlplug release {where}' ends it"
    else:
        why = f"{who} holds it"
    return PlugBusy.by(place.device, holder.pid, why, operation)
