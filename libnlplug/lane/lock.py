# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask for the marks of lanes, and lock a device's lanes. A Mark is an abstract unix socket.

In a network namespace, one socket of a type can have a name. The name is free again as soon as the socket is closed,
also if its process is killed, and no file stays. Any local user can take any name: a mark only keeps others away, it
proves nothing about its owner.
"""

from __future__ import annotations

import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_SEQPACKET
from _socket import socket as Socket

from ..errors import PlugBusy
from ..guard.holders import Mark

__all__ = ["Lock", "taken_marks"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..netlink.route_socket import RouteSocket

PATIENCE = 10.0  # seconds; the longest work under a lock is to wait twice until a lane is empty


def taken_marks(sk: RouteSocket, names: list[str]) -> set[str]:
    """Return those of these marks, by their names, that a process has, this one included."""
    return sk.in_netns(lambda: {name for name in names if _is_taken(name)}) if names else set()


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
    """A context manager: one thread of one process at a time changes the lanes of a device."""

    def __init__(self, sk: RouteSocket, name: str, operation: str, device: str) -> None:
        self._sk = sk
        self._name = name
        self._operation = operation
        self._device = device
        self._mark = Mark(name)

    def __enter__(self) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while not self._mark.take(self._sk):
                if time.monotonic() > deadline:
                    why = f"somebody keeps the lock of its lanes, the socket @{self._name} ('ss -xap' may show who)"
                    raise PlugBusy.by(self._device, 0, why, self._operation)
                self._queue_up()
        except BaseException:
            self._mark.close()
            raise

    def _queue_up(self) -> None:
        """Wait until the owner closes the socket. The kernel then wakes those who have connected, the first one
        first."""
        visitor = self._sk.in_netns(lambda: Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC))
        try:
            visitor.settimeout(1.0)
            visitor.connect("\0" + self._name)
            visitor.recv(1)
        except OSError:  # there is no owner any more, it does not listen yet, or it goes on
            pass
        finally:
            visitor.close()
        time.sleep(0.001)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mark.close()
