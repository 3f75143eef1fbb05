# SPDX-License-Identifier: GPL-2.0-or-later
"""The marks of lanes: whose a lane is, and the lock of a device's lanes. A Mark is an abstract unix socket.

A name can be bound once in a network namespace by each type of socket, and is free again as soon as the socket is
closed, however the process ends; no file is left behind. Any local user can take any name, so a mark keeps others away
and proves nothing more.
"""

from __future__ import annotations

import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM
from _socket import socket as Socket

from ..errors import PlugBusy
from ..guard.holders import Mark

__all__ = ["Lock", "taken_names"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..netlink.route_socket import RouteSocket

PATIENCE = 10.0  # seconds; the longest work under a lock waits twice for a lane to drain


def taken_names(sk: RouteSocket, names: list[str]) -> set[str]:
    """Which of these names of Marks somebody has, this process included."""
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
    """One process at a time, and one thread of it: what changes the lanes of a device happens inside."""

    def __init__(self, sk: RouteSocket, name: str, operation: str, device: str) -> None:
        self._sk = sk
        self._name = name
        self._operation = operation
        self._device = device
        self._mark = Mark(name, silent=True)

    def __enter__(self) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            while not self._mark.take(self._sk):
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
