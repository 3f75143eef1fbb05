# SPDX-License-Identifier: GPL-2.0-or-later
"""Open a network namespace by name, path, pid or file, and call a function in it.

setns() changes one thread only, so a short-lived thread enters the namespace and calls the function.
"""

from __future__ import annotations

import errno
import os
from _thread import allocate_lock, start_new_thread

from ..errors import NetlinkError, NetnsNotFound, NotPermitted
from .libnl import ffi, lib

__all__ = ["Netns", "call_in", "cannot_enter", "in_netns", "netns_of_thread"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Protocol, TypeVar, Union

    class HasFileno(Protocol):
        """An object with a file descriptor, as a file or a socket."""

        def fileno(self) -> int: ...

    Netns = Union[str, "os.PathLike[str]", int, HasFileno, None]
    T = TypeVar("T")


def netns_of_thread() -> tuple[int, int] | None:
    """Return device and inode of the calling thread's namespace, or None without /proc."""
    try:
        found = os.stat("/proc/thread-self/ns/net")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def in_netns(netns: Netns, call: Callable[[], T]) -> T:
    """Call ``call`` in the namespace, in a thread of its own, and return its result. None is the caller's namespace."""
    if netns is None:
        return call()
    return call_in(_open_netns(netns), netns, call)


def call_in(fd: int, netns: str | os.PathLike[str] | int | HasFileno, call: Callable[[], T]) -> T:
    """Call ``call`` in the namespace of ``fd`` and return its result. ``fd`` is closed. ``netns`` is for messages."""
    outcome: list[T | BaseException] = []
    done = allocate_lock()
    done.acquire()
    # The thread closes fd, or the garbage collector does: after an exception here, the thread may or may not run.
    owned = ffi.gc(ffi.cast("void *", fd), lambda _: os.close(fd))

    def go() -> None:
        try:
            if lib.setns(fd, lib.CLONE_NEWNET) < 0:
                raise cannot_enter(netns, ffi.errno)
            outcome.append(call())
        except BaseException as error:  # raised again in the caller's thread
            outcome.append(error)
        finally:
            ffi.release(owned)
            done.release()

    try:
        start_new_thread(go, ())
    except RuntimeError as error:
        raise cannot_enter(netns, errno.EAGAIN) from error
    done.acquire()
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    return result


def _open_netns(netns: str | os.PathLike[str] | int | HasFileno) -> int:
    """Return a descriptor of the namespace: a name of 'ip netns', a path, a pid (int), or an object with a fileno()."""
    if isinstance(netns, bool) or not (isinstance(netns, (str, int, os.PathLike)) or hasattr(netns, "fileno")):
        raise TypeError(f"netns is a name, a path, a pid (int) or an object with a fileno(), not {netns!r}")
    try:
        if isinstance(netns, int):
            if netns <= 0:
                why = "a pid must be positive; give a descriptor as an object with a fileno()"
                raise ValueError(f"netns is {netns}: {why}")
            return os.open(f"/proc/{netns}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if isinstance(netns, (str, os.PathLike)):
            path = os.fsdecode(netns)
            if "/" not in path:
                path = f"/run/netns/{path}"
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for a writer
        return os.dup(netns.fileno())
    except OverflowError:
        raise cannot_enter(netns, errno.EBADF) from None
    except OSError as error:
        raise cannot_enter(netns, error.errno or 0) from None


def cannot_enter(netns: Netns, code: int, capability: str = "CAP_SYS_ADMIN") -> NetlinkError:
    """Return the error for a namespace that cannot be entered, with the errno ``code``."""
    shown = netns if isinstance(netns, str) else repr(netns)
    error_class: type[NetlinkError] = NetlinkError
    hint = ""
    if code in (errno.ENOENT, errno.ESRCH, errno.ENOTDIR):
        by_pid = isinstance(netns, int)
        hint = "; no process has this pid" if by_pid else "; 'ip netns' lists the named namespaces"
        error_class = NetnsNotFound
    elif code in (errno.EPERM, errno.EACCES):
        error_class, hint = NotPermitted, f"; {capability} is needed to enter a network namespace"
    elif code == errno.EINVAL:
        hint = "; it is not a network namespace"
    elif code == errno.EAGAIN:
        hint = "; it needs a thread, but the limit of processes (ulimit -u, pids.max) is reached"
    sentence = f"cannot enter the network namespace {shown}: {os.strerror(code)}{hint}"
    return error_class(code, sentence, "enter the network namespace")
