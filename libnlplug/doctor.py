# SPDX-License-Identifier: GPL-2.0-or-later
"""Doctor: can this host hold packets, and where it cannot, what to do.

    examine()  -->  [Check, Check, ...]  -->  report(), as_json(), can_hold()

What the kernel can do is found out by doing it, not by reading module folders: a child process enters a network
namespace of its own, makes a plug there, holds a packet, has a guard release it, and makes what a lane needs. All of it
goes when that process ends. Where no such namespace can be made, the kernel is asked by a request that it must refuse,
and what cannot be found out that way is a warning that says so.

Nothing in the caller's own network namespace is changed. The kernel may load a module to do what it is asked, as it
would at the first real use; ifb, which would bring the links ifb0 and ifb1 with it, is loaded without them or not at
all. Every child has a time limit, and no answer of a host (no /proc, no right, a seccomp filter that kills) is an
exception here.

Threads: call it where there is one thread, as in the command: it forks.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import struct
import time
from _socket import AF_INET, SOCK_DGRAM, htons
from _socket import socket as Socket
from functools import partial

from ._libnl import ffi, lib
from ._record import Record
from .attributes import attribute
from .errors import DeviceNotFound, NetlinkError, NotPermitted, QdiscExists, check
from .qdisc import PlugQdisc, attach
from .route import RouteSocket, qdisc_message

__all__ = ["NAMES", "Check", "as_json", "can_hold", "examine", "report"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

    from ._libnl import CData

PATIENCE = 15.0  # seconds for all that one child tries
ANSWER = 3.0  # seconds for a released packet to arrive, for a zombie to go

def examine() -> list[Check]:
    """Look at everything, and return one Check for each of NAMES, in that order. Takes a second or two."""
    flags, refusal = _private_namespace()
    found = [*_libnl(), _kernel(), _right(), _netns(flags), _cgroup(), _pid_namespace(), _orphans()]
    lines, trouble = _in_child(partial(_lines, flags, refusal))
    found += [Check(*json.loads(line)) for line in lines]
    missing = set(NAMES) - {one.name for one in found}
    found += [_unknown(name, f"the attempt {trouble or 'ended early'}") for name in missing]
    return sorted(found, key=lambda one: NAMES.index(one.name))


def can_hold(checks: Iterable[Check]) -> bool:
    """Whether the main job, to attach to a device and hold, can be done, as far as could be found out."""
    return not any(one.needed and one.state == "failed" for one in checks)


def report(checks: Iterable[Check]) -> str:
    """One line for each check: its state, its name, what was found, what to do."""
    lines = [f"{one.state:<8} {one.name:<14} {one.detail}" + (f"; {one.advice}" * bool(one.advice)) for one in checks]
    return "\n".join(" ".join(line.splitlines()) for line in lines)


def as_json(checks: Iterable[Check]) -> str:
    """The checks as a JSON list, one object each, in the order of NAMES.

    The keys: ``name``, ``state`` ("ok", "warning" or "failed"), ``detail``, ``advice`` (a text or null), ``needed``
    (true where holding on a device depends on it). Keys, names and states are for programs and stay; texts change.
    """
    return json.dumps([one.as_dict() for one in checks], indent=2)


def _libnl() -> Iterator[Check]:
    version = f"{lib.nl_ver_maj}.{lib.nl_ver_min}.{lib.nl_ver_mic}"
    maps = _text("/proc/self/maps") or ""
    files = sorted({line.split()[-1] for line in maps.splitlines() if "/libnl-" in line})
    yield _check("libnl", "ok", f"version {version}" + "".join(f", {file}" for file in files))
    names = [name for name in dir(lib) if name.startswith(("nl_", "nla_", "nlmsg_", "rtnl_"))]
    count = sum(callable(getattr(lib, name)) for name in names)
    yield _check("functions", "ok", f"all {count} of libnl's that are called were bound when the module was loaded")


def _kernel() -> Check:
    """The guard watches its holder through a pidfd."""
    release = os.uname().release
    advice = "the guard needs pidfd_open: Linux 5.3 or newer, and a seccomp profile that lets it pass"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:  # Python was built where there was none
        number = [int(part) for part in "".join(c if c.isdigit() else " " for c in release).split()[:2]]
        if number < [5, 3]:
            return _check("kernel", "failed", f"Linux {release}", advice)
    except OSError as error:
        return _check("kernel", "failed", f"Linux {release} refuses pidfd_open ({error.strerror})", advice)
    return _check("kernel", "ok", f"Linux {release}, has pidfd_open")


def _right() -> Check:
    trouble = _trial(_ask_permission)
    if not trouble:
        return _check("CAP_NET_ADMIN", "ok", "this process may change the qdiscs of its network namespace")
    advice = "run it as root, in a unit with AmbientCapabilities=CAP_NET_ADMIN, in a container with --cap-add NET_ADMIN"
    return _check("CAP_NET_ADMIN", "failed", trouble, advice)


def _netns(flags: int) -> Check:
    trouble = _trial(lambda: RouteSocket("/proc/self/ns/net").close())
    if not trouble:
        made = "can be made and entered" if flags else "can be entered, but none can be made"
        return _check("netns", "ok", f"network namespaces {made}")
    advice = "--netns needs CAP_SYS_ADMIN; without it start libnlplug inside the namespace"
    return _check("netns", "warning", f"no other network namespace can be entered: {trouble.split(';')[0]}", advice)


def _cgroup() -> Check:
    path = _cgroup_path()
    if path is None:
        return _unknown("cgroup", "/proc/self/cgroup cannot be read")
    container = _in_own_namespace("cgroup") or any(word in path for word in ("docker", "libpod", "kubepods", "/lxc"))
    if path == "/" and not container:
        return _check("cgroup", "ok", "the root cgroup, which nothing ends as a whole")
    name = "a container" if container else path.rsplit("/", 1)[1]
    detail = f"in {name}: what kills all of it at once (cgroup.kill, a forced stop) kills the guard with its holder"
    if container:
        return _check("cgroup", "warning", detail, "release from outside then: libnlplug release DEV --netns PID")
    if name.endswith(".service"):
        return _check("cgroup", "warning", detail, f"give {name} the line 'ExecStopPost=-libnlplug release DEV'")
    return _check("cgroup", "ok", detail)


def _pid_namespace() -> Check:
    own = _in_own_namespace("pid")
    if own is None:
        return _unknown("pid-namespace", "/proc/self/ns/pid cannot be read")
    if not own:
        return _check("pid-namespace", "ok", "the system's first, which ends with the system alone")
    detail = f"a pid namespace of its own: when its PID 1 ({_pid_1()}) ends, the guard is killed with its holder"
    advice = "release from outside then: libnlplug release DEV --netns PID; or share the host's (--pid=host)"
    return _check("pid-namespace", "warning", detail, advice)


def _orphans() -> Check:
    """A guard is nobody's child, so PID 1 must wait for it: let an orphan end, and see whether it stays a zombie."""
    ours, theirs = os.pipe()

    def work(out: int) -> Iterator[str]:
        os.close(theirs)
        pid = os.fork()
        if not pid:
            os.close(out)
            os.read(ours, 1)  # the end of the file says that the parent is gone
            os._exit(0)
        yield str(pid)

    try:
        lines, why = _in_child(work)
    finally:
        os.close(theirs)
        os.close(ours)
    if why:
        return _unknown("orphans", f"the attempt {why}")
    pid, deadline = int(lines[0]), time.monotonic() + ANSWER
    while time.monotonic() < deadline:
        try:
            os.waitpid(pid, os.WNOHANG)  # where this process is PID 1 or a subreaper, it is its own
        except ChildProcessError:
            pass
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return _check("orphans", "ok", f"PID 1 ({_pid_1()}) waits for orphans, so no ended guard stays a zombie")
        time.sleep(0.001)
    detail = f"PID 1 ({_pid_1()}) does not wait for orphans: each ended guard stays a zombie"
    return _check("orphans", "warning", detail, "run an init that does, in a container with --init")


def _pid_1() -> str:
    return (_text("/proc/1/comm") or "unknown").strip()


def _cgroup_path() -> str | None:
    """This process's cgroup: that of the unified hierarchy, or systemd's where that one is not in use."""
    text = _text("/proc/self/cgroup")
    if text is None:
        return None
    paths = [line.split(":", 2)[1:] for line in text.splitlines() if line.count(":") >= 2]
    return next((path for kind in ("", "name=systemd") for its, path in paths if its == kind and path != "/"), "/")


