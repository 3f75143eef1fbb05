# SPDX-License-Identifier: GPL-2.0-or-later
"""Start a guard's process, and give it what it watches: this process's pidfd and /proc/PID/stat, and a netlink socket
that hears of changes of links and qdiscs. This process's children, namespaces and cgroup stay as they are.

Killing a whole cgroup kills the guard with its holder. With LIBNLPLUG_GUARD_CGROUP=root in the environment, the guard
is moved to the root of every mounted cgroup hierarchy before it holds anything. Only root can do that.
"""

from __future__ import annotations

import errno
import os
import time
from _socket import AF_NETLINK, SCM_RIGHTS, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET
from _socket import socket as Socket

from ..netlink.libnl import ffi, lib

__all__ = ["CGROUP", "is_child", "listening", "move_to_cgroup", "send_config", "start", "wait"]

ROOM = 512 * 1024  # bytes of the netlink socket's queue; the kernel allows twice as many
CGROUP = "LIBNLPLUG_GUARD_CGROUP"
OWN = "/proc/thread-self/ns/pid"
CHILDREN = "/proc/thread-self/ns/pid_for_children"


def listening() -> Socket:
    """Return a netlink socket in this thread's namespace that hears of changes of links and qdiscs."""
    try:
        netlink = Socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC)
        netlink.bind((0, lib.RTMGRP_LINK | lib.RTMGRP_TC))
        netlink.setsockopt(SOL_SOCKET, SO_RCVBUF, ROOM)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), "its netlink socket") from None
    try:
        netlink.setsockopt(SOL_SOCKET, lib.SO_RCVBUFFORCE, ROOM)
    except PermissionError:  # without the right, the system's maximum is the limit
        pass
    return netlink


def send_config(commands: Socket, config: bytes, netlink: int) -> None:
    """Send the guard its configuration, and the descriptors of what it watches; ``netlink`` is the netlink socket's.
    Raise OSError, with the name of what was refused."""
    pidfd = lib.libnlplug_pidfd()
    if pidfd < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno), "pidfd_open")
    state = -1
    try:
        try:
            state = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):  # without /proc, the guard watches the pidfd alone
            pass
        given = ffi.buffer(ffi.new("int[]", [pidfd, pidfd if state < 0 else state, netlink]))[:]
        commands.sendmsg([config], [(SOL_SOCKET, SCM_RIGHTS, given)])
    finally:
        os.close(pidfd)
        if state >= 0:
            os.close(state)


def start(path: str, commands: int) -> int:
    """Start the program with this socket as its descriptor 0, and return its pid. Raise OSError if it cannot start."""
    words = [ffi.new("char[]", word) for word in (b"libnlplug-guard", b"of", b"%d" % os.getpid())]
    argv = ffi.new("char *[]", [*words, ffi.NULL])
    unshared = _pid_namespace_is_unshared()
    other = _namespace_of_children() if unshared else -1
    try:
        if unshared:
            _use_own_pid_namespace()
        pid = int(lib.libnlplug_spawn(os.fsencode(path), argv, commands))
    finally:
        if unshared:
            _use_pid_namespace(other)
    if pid <= 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _pid_namespace_is_unshared() -> bool:
    """Return whether this thread's next child would be in another pid namespace, perhaps as its first process.

    The process that starts the guard must not be that first process: it ends at once, and then no other process can
    start there.
    """
    try:
        own = os.readlink(OWN)
    except OSError:
        return False
    try:
        return os.readlink(CHILDREN) != own
    except FileNotFoundError:  # the namespace has no process yet
        return True


def _namespace_of_children() -> int:
    """Return a descriptor of the pid namespace in which this thread's children would start, or -1 if that is empty."""
    try:
        return os.open(CHILDREN, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _use_own_pid_namespace() -> None:
    """Let this thread's children start in its own pid namespace."""
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if lib.setns(own, lib.CLONE_NEWPID) < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno), OWN)
    finally:
        os.close(own)


def _use_pid_namespace(other: int) -> None:
    """Let this thread's children start in the namespace ``other`` again. An empty one (-1) is replaced by a new one:
    no process can have entered the old one."""
    if other < 0:
        lib.unshare(lib.CLONE_NEWPID)
        return
    lib.setns(other, lib.CLONE_NEWPID)
    os.close(other)


def move_to_cgroup(pid: int) -> None:
    """Move the guard to the root cgroup, if the environment says so. Raise OSError, with the file's name, if that
    fails."""
    wanted = os.environ.get(CGROUP, "")
    if not wanted:
        return
    if wanted != "root":
        raise OSError(errno.EINVAL, f"{CGROUP} must be 'root'", CGROUP)
    with open("/proc/self/mounts", errors="surrogateescape") as mounts:
        fields = [line.split(" ") for line in mounts]
    roots = [path for _, path, kind, *_ in fields if kind in ("cgroup", "cgroup2")]
    if not roots:
        raise OSError(errno.ENOENT, "no cgroup hierarchy is mounted", "/proc/self/mounts")
    for root in roots:
        with open(f"{root}/cgroup.procs", "w") as processes:
            processes.write(str(pid))


def is_child(pid: int) -> bool:
    """Return whether the process is a running child of this one."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def wait(pid: int) -> None:
    """Wait for a child's end, at most a second, so that it does not stay a zombie."""
    deadline = time.monotonic() + 1.0
    while is_child(pid) and time.monotonic() < deadline:
        time.sleep(0.001)
