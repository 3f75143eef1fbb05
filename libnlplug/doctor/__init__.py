# SPDX-License-Identifier: GPL-2.0-or-later
"""Doctor: check whether this host can hold packets, and say what to do if it cannot.

    examine()  -->  [Check, Check, ...]  -->  report(), as_json(), can_hold()

probe.py tries what the kernel can do; it does not read module folders. This module checks the rest: libnl, the rights
of this process, and what would kill a guard together with its holder.

The doctor changes nothing in the caller's network namespace. The kernel may load a module, as it would at the first
real use; the doctor loads ifb without the links ifb0 and ifb1, or not at all. Every child has a time limit. A host
without /proc, without rights or with a seccomp filter that kills gives a Check, never an exception.

Threads: call it from a process with one thread, because it forks.
"""

from __future__ import annotations

import json
import os
import time

from .check import NAMES, Check, in_own_namespace, result, text_of, unknown
from .child import AT_ONCE, in_child

__all__ = ["NAMES", "Check", "as_json", "can_hold", "examine", "report"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def examine() -> list[Check]:
    """Return one Check for each of NAMES, in that order. This takes a second or two."""
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
    """Return the checks that need libnl if it cannot be loaded: what to install, and 'not known' for the others."""
    found, _, advice = str(error).rpartition(": ")
    missing = result("libnl", "failed", found or advice, advice if found else "reinstall the package")
    names = [name for name in NAMES if name not in ("libnl", "kernel", "cgroup", "pid-namespace", "orphans")]
    return [missing, *(unknown(name, "libnl is needed to find out", "see libnl") for name in names)]


def can_hold(checks: Iterable[Check]) -> bool:
    """Return False if a check that holding needs has failed."""
    return not any(one.needed and one.state == "failed" for one in checks)


def report(checks: Iterable[Check]) -> str:
    """Return one line for each check: its state, its name, what was found, and what to do."""
    lines = [
        f"{one.state:<8} {one.name:<14} {one.detail}" + (f"; {one.advice}" if one.advice else "") for one in checks
    ]
    return "\n".join(" ".join(line.splitlines()) for line in lines)


def as_json(checks: Iterable[Check]) -> str:
    """Return the checks as a JSON list with an object for each, in the order of NAMES.

    The keys are ``name``, ``state`` ("ok", "warning" or "failed"), ``detail``, ``advice`` (a text or null) and
    ``needed`` (true if holding on a device depends on it). Programs may rely on keys, names and states. Texts change.
    """
    return json.dumps([one.as_dict() for one in checks], indent=2)


def _kernel() -> Check:
    """Check for pidfd_open: the guard watches its holder through a pidfd."""
    release = os.uname().release
    advice = "the guard needs pidfd_open: Linux 5.3 or newer, and a seccomp filter that lets it pass"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:  # this Python was built on a system without it
        version = [int(part) for part in "".join(c if c.isdigit() else " " for c in release).split()[:2]]
        if version < [5, 3]:
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
        return result("cgroup", "ok", "the root cgroup, which cannot be killed as a whole")
    name = "a container" if container else path.rsplit("/", 1)[1]
    if not container and os.environ.get("LIBNLPLUG_GUARD_CGROUP") == "root":
        return result("cgroup", "ok", f"in {name}: the guard moves to the root cgroup (LIBNLPLUG_GUARD_CGROUP)")
    detail = f"in {name}: whoever kills it as a whole (cgroup.kill, a forced stop) kills the guard with its holder"
    if container:
        return result("cgroup", "warning", detail, "then release from outside: libnlplug release DEV --netns PID")
    if name.endswith(".service"):
        advice = f"give {name} the line 'ExecStopPost=-libnlplug release DEV' or, as root, LIBNLPLUG_GUARD_CGROUP=root"
        return result("cgroup", "warning", detail, advice)
    return result("cgroup", "ok", detail)


def _pid_namespace() -> Check:
    own = in_own_namespace("pid")
    if own is None:
        return unknown("pid-namespace", "/proc/self/ns/pid cannot be read", "mount /proc")
    if not own:
        return result("pid-namespace", "ok", "the system's first, which ends only with the system")
    detail = f"a pid namespace of its own: when its PID 1 ({_pid_1()}) ends, the kernel kills guard and holder"
    return result("pid-namespace", "warning", detail, "then release from outside: libnlplug release DEV --netns PID")


def _orphans() -> Check:
    """Check that PID 1 waits for orphans, because the guard is one: let an orphan end and see if it stays a zombie."""
    ours, theirs = os.pipe()

    def work(out: int) -> Iterator[str]:
        os.close(theirs)
        pid = os.fork()
        if not pid:
            os.close(out)
            os.read(ours, 1)  # returns when the parent has gone
            os._exit(0)
        yield str(pid)

    try:
        lines, why = in_child(work)
    finally:
        os.close(theirs)
        os.close(ours)
    if why:
        return unknown("orphans", f"the attempt {why}", "run this as root, outside of what restricts it")
    pid, deadline = int(lines[0]), time.monotonic() + AT_ONCE
    while time.monotonic() < deadline:
        if _is_gone(pid):
            return result("orphans", "ok", f"PID 1 ({_pid_1()}) waits for orphans, so no guard stays a zombie")
        time.sleep(0.001)
    detail = f"PID 1 ({_pid_1()}) does not wait for orphans, so each ended guard stays a zombie"
    return result("orphans", "warning", detail, "run an init that waits for them; in a container, use --init")


def _is_gone(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # if this process is PID 1 or a subreaper, the orphan is its child
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _pid_1() -> str:
    return (text_of("/proc/1/comm") or "unknown").strip()
