# SPDX-License-Identifier: GPL-2.0-or-later
"""NetlinkError and its subclasses, and the errors for objects that were closed or belong to another process.

This module needs no libnl, so that programs can catch these errors without it. Most of them are made in
libnlplug.netlink.refusals.
"""

from __future__ import annotations

import errno as _errno

__all__ = [
    "ClassNotFound",
    "ClosedError",
    "DeviceNotFound",
    "ForkedError",
    "GuardUnavailable",
    "HandleInUse",
    "HoldExpired",
    "InvalidHandle",
    "NetlinkError",
    "NetnsNotFound",
    "NotDrained",
    "NotPermitted",
    "ParentNotClassful",
    "ParentNotFound",
    "PlugBusy",
    "PlugUnavailable",
    "QdiscExists",
    "QdiscNotFound",
]


class NetlinkError(OSError):
    """A request was refused or failed. The message says what was attempted, on which device, why, and what to do.

    ``operation`` and ``device`` are what was attempted. ``errno`` is the kernel's, or None if the kernel gave none.
    ``ext_ack`` is the kernel's own sentence, ``code`` is libnl's return value, ``hint`` says what to do; each may be
    None.
    """

    def __init__(
        self,
        errno: int | None,
        strerror: str,
        operation: str = "",
        device: str | None = None,
        code: int | None = None,
        ext_ack: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(errno, strerror)
        self.operation = operation
        self.device = device
        self.code = code
        self.ext_ack = ext_ack
        self.hint = hint

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        details = (self.errno, self.strerror, self.operation, self.device, self.code, self.ext_ack, self.hint)
        return type(self), details


class NotPermitted(NetlinkError, PermissionError):
    """CAP_NET_ADMIN is missing in the network namespace (EPERM)."""


class PlugUnavailable(NetlinkError):
    """The kernel has no sch_plug, or lacks another module that a lane needs (ENOENT)."""


class DeviceNotFound(NetlinkError, FileNotFoundError):
    """The network namespace has no such device (ENODEV)."""


class NetnsNotFound(NetlinkError, FileNotFoundError):
    """The network namespace does not exist (ENOENT)."""


class QdiscNotFound(NetlinkError, FileNotFoundError):
    """The qdisc does not exist: it was never attached, or it was deleted or replaced (ENOENT)."""


class ParentNotFound(NetlinkError, FileNotFoundError):
    """The device has no qdisc with the parent's handle (ENOENT)."""


class ClassNotFound(NetlinkError, FileNotFoundError):
    """The parent qdisc has no such class (ENOENT)."""


class ParentNotClassful(NetlinkError):
    """The parent qdisc is of a kind without classes, such as a plug (EOPNOTSUPP)."""


class QdiscExists(NetlinkError, FileExistsError):
    """The device already has a configured qdisc at this parent, and libnlplug does not replace it (EEXIST)."""


class InvalidHandle(NetlinkError, ValueError):
    """The handle of a qdisc is a major number without a minor number, as in '40:' (EINVAL)."""


class HandleInUse(NetlinkError):
    """Another qdisc of the device has this handle (EINVAL)."""


class NotDrained(NetlinkError, TimeoutError):
    """Released packets did not leave the queue in time. The plug stays attached and released (ETIMEDOUT)."""


class GuardUnavailable(NetlinkError):
    """The guard could not be started, so nothing is held; or it was gone when the hold ended."""


class PlugBusy(NetlinkError):
    """Another hold of the plug is on (EBUSY). ``pid`` is the holder's, or 0 if it is unknown."""

    pid: int = 0

    @classmethod
    def by(cls, device: str, pid: int, why: str, operation: str = "hold") -> PlugBusy:
        """Return the error for ``operation``, refused because process ``pid`` holds."""
        error = cls(_errno.EBUSY, f"cannot {operation} {device}: {why}", operation, device)
        error.pid = pid
        return error

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:  # type: ignore[override]
        return (*super().__reduce__(), {"pid": self.pid})


class HoldExpired(NetlinkError, TimeoutError):
    """The block took longer than the timeout, so the guard ended the hold before the block ended (ETIMEDOUT)."""


class ClosedError(ValueError):
    """The object is closed."""


class ForkedError(RuntimeError):
    """The object belongs to the parent process. Two processes that share a netlink socket lose answers."""
