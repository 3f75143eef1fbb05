# SPDX-License-Identifier: GPL-2.0-or-later
"""Doctor: can this host hold packets, and where it cannot, what to do.

    examine()  -->  [Check, Check, ...]  -->  report(), as_json(), can_hold()

What the kernel can do is found out by doing it (probe.py), not by reading module folders. Here is what surrounds it:
libnl, the rights of this process, and what would end a guard together with its holder.

Nothing in the caller's own network namespace is changed, and nothing is left behind but what the kernel may have loaded
to do what it was asked, as it would at the first real use: a module. ifb, which would bring the links ifb0 and ifb1
with it, is loaded without them or not at all. Every child has a time limit, and no answer of a host (no /proc, no
right, a seccomp filter that kills) is an exception here.

Threads: for a process with one thread, as the command is: it forks.
"""

from __future__ import annotations

import json
import os
import time

from .check import NAMES, Check, in_own_namespace, result, text_of, unknown
from .child import ANSWER, in_child

__all__ = ["NAMES", "Check", "as_json", "can_hold", "examine", "report"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def examine() -> list[Check]:
    """Look at everything, and return one Check for each of NAMES, in that order. Takes a second or two."""
    try:
        from . import probe
    except ImportError as error:
        found = _without_libnl(error)
    else:
        found, can_make = probe.probe()
        found += [*probe.libnl(), probe.right(), probe.netns(can_make)]
    found += [_kernel(), _cgroup(), _pid_namespace(), _orphans()]
    return sorted(found, key=lambda one: NAMES.index(one.name))


def _without_libnl(error: ImportError) -> list[Check]:
    """The checks that need libnl, where it cannot be loaded: what to install, and that the rest is not known."""
    found, _, advice = str(error).rpartition(": ")
    missing = result("libnl", "failed", found or advice, advice if found else "reinstall the package")
    names = [name for name in NAMES if name not in ("libnl", "kernel", "cgroup", "pid-namespace", "orphans")]
    return [missing, *(unknown(name, "libnl is needed to find out", "see libnl") for name in names)]


def can_hold(checks: Iterable[Check]) -> bool:
    """Whether the main job, to attach to a device and hold, can be done, as far as could be found out."""
    return not any(one.needed and one.state == "failed" for one in checks)


def report(checks: Iterable[Check]) -> str:
    """One line for each check: its state, its name, what was found, what to do."""
    lines = [
        f"{one.state:<8} {one.name:<14} {one.detail}" + (f"; {one.advice}" if one.advice else "") for one in checks
    ]
    return "\n".join(" ".join(line.splitlines()) for line in lines)


def as_json(checks: Iterable[Check]) -> str:
    """The checks as a JSON list, one object each, in the order of NAMES.

    The keys: ``name``, ``state`` ("ok", "warning" or "failed"), ``detail``, ``advice`` (a text or null), ``needed``
    (true where holding on a device depends on it). Keys, names and states are for programs and stay; texts change.
    """
    return json.dumps([one.as_dict() for one in checks], indent=2)


def _kernel() -> Check:
    """The guard watches its holder through a pidfd."""
    release = os.uname().release
    advice = "the guard needs pidfd_open: Linux 5.3 or newer, and a seccomp filter that lets it pass"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:  # this Python was built where there was none
        number = [int(part) for part in "".join(c if c.isdigit() else " " for c in release).split()[:2]]
        if number < [5, 3]:
            return result("kernel", "failed", f"Linux {release}", advice)
    except OSError as error:
        return result("kernel", "failed", f"Linux {release} refuses pidfd_open ({error.strerror})", advice)
    return result("kernel", "ok", f"Linux {release}, has pidfd_open")


def _cgroup() -> Check:
    text = text_of("/proc/self/cgroup")
    if text is None:
        return unknown("cgroup", "/proc/self/cgroup cannot be read", "mount /proc")
    paths = dict(line.split(":", 2)[1:] for line in text.splitlines() if line.count(":") > 1)
    path = paths.get("", "/")
    if path == "/":  # the unified hierarchy is not in use, or this is its root
        path = paths.get("name=systemd", "/")
    container = in_own_namespace("cgroup") or any(word in path for word in ("docker", "libpod", "kubepods", "/lxc"))
    if path == "/" and not container:
        return result("cgroup", "ok", "the root cgroup, which nothing ends as a whole")
    name = "a container" if container else path.rsplit("/", 1)[1]
    detail = f"in {name}: what kills all of it at once (cgroup.kill, a forced stop) kills the guard with its holder"
    if container:
        return result("cgroup", "warning", detail, "release from outside then: libnlplug release DEV --netns PID")
    if name.endswith(".service"):
        return result("cgroup", "warning", detail, f"give {name} the line 'ExecStopPost=-libnlplug release DEV'")
    return result("cgroup", "ok", detail)


def _pid_namespace() -> Check:
    own = in_own_namespace("pid")
    if own is None:
        return unknown("pid-namespace", "/proc/self/ns/pid cannot be read", "mount /proc")
    if not own:
        return result("pid-namespace", "ok", "the system's first, which ends with the system alone")
    detail = f"one of its own: when its PID 1 ({_pid_1()}) ends, the guard is killed with its holder"
    return result("pid-namespace", "warning", detail, "release from outside then: libnlplug release DEV --netns PID")


def _orphans() -> Check:
    """A guard is nobody's child, so PID 1 must wait for it: let an orphan end, and see whether it stays a zombie."""
    ours, theirs = os.pipe()

    def work(out: int) -> Iterator[str]:
        os.close(theirs)
        pid = os.fork()
        if not pid:
            os.close(out)
            os.read(ours, 1)  # the end of the file comes when its parent has gone
            os._exit(0)
        yield str(pid)

    try:
        lines, why = in_child(work)
    finally:
        os.close(theirs)
        os.close(ours)
    if why:
        return unknown("orphans", f"the attempt {why}", "run this as root, outside of what restricts it")
    pid, deadline = int(lines[0]), time.monotonic() + ANSWER
    while time.monotonic() < deadline:
        if _is_gone(pid):
            return result("orphans", "ok", f"PID 1 ({_pid_1()}) waits for orphans: no guard that has ended stays")
        time.sleep(0.001)
    detail = f"PID 1 ({_pid_1()}) does not wait for orphans: each guard that has ended stays a zombie"
    return result("orphans", "warning", detail, "run an init that does; in a container, --init")


def _is_gone(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # where this process is PID 1 or a subreaper, the orphan is its own
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _pid_1() -> str:
    return (text_of("/proc/1/comm") or "unknown").strip()
