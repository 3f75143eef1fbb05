# SPDX-License-Identifier: GPL-2.0-or-later
"""NetlinkError and its family, and check(): the one place where a refusal becomes an exception.

The kernel answers a refused request with an errno and, in the extended ack, a sentence. libnl passes on neither: it
maps the errno to a smaller list of its own and drops the sentence. So the kernel's reply is read here, and both are
in the exception: ``errno`` is the kernel's, ``ext_ack`` its sentence, ``code`` what libnl made of them, ``hint`` what
to do. Where the kernel did not answer, ``errno`` is None: it is set only where it is certain.

Several refusals share one errno (four of them are ENOENT); only the sentence tells them apart. The sentences are
those of the kernel's net/sched/sch_api.c.
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
    """A request that was refused or failed: what was attempted, on what, why, and what to do.

    Attributes: ``operation`` and ``device`` (what was attempted), ``errno`` (the kernel's, or None where there is no
    certain one), ``ext_ack`` (the kernel's own sentence or None), ``code`` (libnl's return value or None), ``hint``.
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
    """This kernel has no sch_plug, neither built in nor as a module it can load (ENOENT)."""


class DeviceNotFound(NetlinkError, FileNotFoundError):
    """There is no such device in the namespace: never was, removed, or moved to another namespace (ENODEV)."""


class NetnsNotFound(NetlinkError, FileNotFoundError):
    """There is no such network namespace (ENOENT)."""


class QdiscNotFound(NetlinkError, FileNotFoundError):
    """There is no such qdisc: never attached, deleted, or replaced by another one (ENOENT)."""


class ParentNotFound(NetlinkError, FileNotFoundError):
    """The parent names a qdisc that the device does not have (ENOENT)."""


class ClassNotFound(NetlinkError, FileNotFoundError):
    """The parent qdisc is there, but it has no such class (ENOENT)."""


class ParentNotClassful(NetlinkError):
    """The parent qdisc is of a kind that has no classes, a plug for one (EOPNOTSUPP)."""


class QdiscExists(NetlinkError, FileExistsError):
    """Another configured qdisc stands there, and is never displaced (EEXIST)."""


class InvalidHandle(NetlinkError, ValueError):
    """Not a qdisc's handle: a qdisc has a major number and no minor one (EINVAL)."""


class HandleInUse(NetlinkError):
    """The device has a qdisc with this handle already, at another parent (EINVAL)."""


class NotDrained(NetlinkError, TimeoutError):
    """Released packets did not leave the queue in time; the plug stays, released, so that none is lost (ETIMEDOUT)."""


class GuardUnavailable(NetlinkError):
    """The guard that would end the hold cannot be started, so nothing is held."""


class PlugBusy(NetlinkError):
    """The plug is being held (EBUSY). ``pid`` is the holder's, 0 where it cannot be known."""

    pid: int = 0

    @classmethod
    def by(cls, device: str, pid: int, why: str, operation: str = "hold") -> PlugBusy:
        """The refusal of ``operation`` because ``pid`` holds."""
        error = cls(_errno.EBUSY, f"cannot {operation} {device}: {why}", operation, device)
        error.pid = pid
        return error

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:  # type: ignore[override]
        return (*super().__reduce__(), {"pid": self.pid})


class HoldExpired(NetlinkError, TimeoutError):
    """The block overstayed the hold's timeout: the guard has released the plug before the block ended (ETIMEDOUT)."""


class ClosedError(ValueError):
    """The object was closed."""


class ForkedError(RuntimeError):
    """The object belongs to the parent process: a netlink socket that two processes share loses its answers."""
