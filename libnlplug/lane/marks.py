# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks: abstract unix sockets by which a process says that something is its own, for as long as it lives.

A name can be bound once in a network namespace by each type of socket, and is free again as soon as the socket is
closed, however the process ends; no file is left behind. Any local user can take any name, so a mark keeps others away
and proves nothing more.

Fork: a child closes its copies at once, or it would keep alive what should vanish with this process.
"""

from __future__ import annotations

import errno
import os
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM
from _socket import socket as Socket

from ..errors import PlugBusy

__all__ = ["Lock", "Mark", "taken_names"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..netlink.route_socket import RouteSocket

PATIENCE = 10.0  # seconds; the longest work under a lock waits twice for a lane to drain

_open: set[Mark] = set()


class Mark:
    """One name, taken by take() and given back by close(). The object is there before the socket, so that whatever
    interrupts take(), close() gives back what it has taken."""

    def __init__(self, name: str, kind: int = SOCK_DGRAM) -> None:
        self._name = name
        self._kind = kind
        self._socket: Socket | None = None

    def take(self, route: RouteSocket) -> bool:
        """Whether the name is this process's now, in the namespace of ``route``; False where somebody has it."""
        return route.in_netns(self._bind)

    def _bind(self) -> bool:
        self._socket = Socket(AF_UNIX, self._kind | SOCK_CLOEXEC)
        _open.add(self)
        try:
            self._socket.bind("\0" + self._name)
            return True
        except OSError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:
                return False
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


def taken_names(route: RouteSocket, names: list[str]) -> set[str]:
    """Which of these names of Marks somebody has, this process included."""
    return route.in_netns(lambda: {name for name in names if _is_taken(name)}) if names else set()


def _is_taken(name: str) -> bool:
    visitor = Socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        visitor.connect("\0" + name)
        return True
    except ConnectionRefusedError:
        return False
    finally:
        visitor.close()


class Lock:
    """One process at a time, and one thread of it: what changes the lanes of a device happens inside."""

    def __init__(self, route: RouteSocket, name: str, operation: str, device: str) -> None:
        self._route = route
        self._name = name
        self._operation = operation
        self._device = device
        self._mark = Mark(name)

    def __enter__(self) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while not self._mark.take(self._route):
                if time.monotonic() > deadline:
                    why = f"somebody keeps the lock of its lanes, the socket @{self._name} ('ss -xap' may show who)"
                    raise PlugBusy.by(self._device, 0, why, self._operation)
                time.sleep(0.001)
        except BaseException:
            self._mark.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mark.close()
