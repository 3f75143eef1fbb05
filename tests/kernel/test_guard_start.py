# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guard takes over from its holder: nothing that could keep it from its work. And what it keeps alive."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from libnlplug import GuardUnavailable, PlugQdisc
from libnlplug.guard.start import CGROUP
from tests.support.hold import (
    Cgroup,
    Child,
    child,
    descriptors,
    expect_ended,
    expect_flow,
    expect_held,
    needs_root,
    process_status,
)
from tests.support.netlab import Wire, eventually, random_name, unable

PR_SET_TIMERSLACK = 29


def test_signals_limits_and_timers_are_its_own(wire: Wire, plug: PlugQdisc) -> None:
    """A holder that is nice, coarse with time, has little of everything and blocks signals: its guard does not."""
    needs_root()

    def work(this: Child) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        os.nice(15)
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 5_000_000_000, 0, 0, 0)
        for what in (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
            resource.setrlimit(what, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
        with PlugQdisc.open(wire.device, netns=wire.near).hold(timeout=60) as held:
            del held
            this.say(os.getpid())
            signal.sigwait({signal.SIGUSR2})

    with child(work) as holder:
        holder.hear()
        found = plug.holder()
        assert found is not None
        guard = found.guard
        status = process_status(guard)
        assert int(status["SigBlk"], 16) == 0
        assert int(status["SigIgn"], 16) | int(status["SigCgt"], 16) >= 0x7FFF_FFFE  # all of the first 31 that can be
        assert os.getpriority(os.PRIO_PROCESS, guard) == -20
        assert int(Path(f"/proc/{guard}/timerslack_ns").read_text()) == 1
        for what in (resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
            assert resource.prlimit(guard, what) == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        soft, hard = resource.prlimit(guard, resource.RLIMIT_NOFILE)
        assert soft == hard >= 4096
        numbers = expect_held(wire, plug)
        holder.kill()
        expect_flow(wire, numbers)


# -- the cgroup


@pytest.fixture
def cgroup():
    needs_root()
    try:
        made = Cgroup("pids")
    except OSError as error:
        unable(f"no cgroup with the pids controller: {error}")
    if not (made.path / "cgroup.kill").exists():
        made.close()
        unable("no cgroup.kill, which came with Linux 5.14")
    yield made
    made.close()


@pytest.mark.parametrize("where", ["", "root"])
def test_a_killed_cgroup_spares_a_guard_that_was_moved(
    wire: Wire, plug: PlugQdisc, cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """With LIBNLPLUG_GUARD_CGROUP=root the hold is released when its holder's cgroup is killed; without, it stays."""
    monkeypatch.setenv(CGROUP, where)

    def work(this: Child) -> None:
        cgroup.write("cgroup.procs", 0)
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        with mine.hold(timeout=60):
            this.say([mine.guard().pid, Path(f"/proc/{mine.guard().pid}/cgroup").read_text()])
            signal.pause()

    with child(work) as holder:
        guard, shown = holder.hear()
        assert (shown == "0::/\n") is bool(where)
        numbers = expect_held(wire, plug)
        cgroup.write("cgroup.kill", 1)
        if where:
            expect_flow(wire, numbers)
        expect_ended(guard)
        if not where:
            assert plug.stats().qlen == len(numbers)
            plug.release_indefinite()
            expect_flow(wire, numbers)


@pytest.mark.parametrize("where", ["roots", "/", "0"])
def test_another_word_for_the_cgroup_is_refused(
    wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Nothing is held by a guard that may be in another cgroup than its holder thinks."""
    monkeypatch.setenv(CGROUP, where)
    with pytest.raises(GuardUnavailable, match=f"{CGROUP}: Invalid argument"), plug.hold():
        pytest.fail("entered")
    expect_flow(wire, [])


def test_a_move_that_is_refused_is_told(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the root cgroup cannot be entered, nothing is held, and no guard stays."""
    monkeypatch.setenv(CGROUP, "root")

    def refused(pid: int) -> None:
        raise PermissionError(13, "Permission denied", "/sys/fs/cgroup/cgroup.procs")

    monkeypatch.setattr("libnlplug.guard.client.move_to_cgroup", refused)
    words = f"its move to the root cgroup: /sys/fs/cgroup/cgroup.procs: Permission denied; without {CGROUP}"
    before = descriptors()
    with pytest.raises(GuardUnavailable, match=words), plug.hold():
        pytest.fail("entered")
    assert descriptors() == before
    expect_flow(wire, [])


# -- the namespace


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch):
    """A named namespace with a veth eth0, whose other end is here; it is removed if a test has not done it."""
    needs_root()
    if "ino:" not in Path("/proc/self/fdinfo/0").read_text():
        unable("the kernel does not tell of which file a descriptor is: Linux 5.14 does")
    name, end = random_name(), random_name()
    subprocess.run(["ip", "netns", "add", name], check=True)
    make_end(name, end)
    yield name, end
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", end], capture_output=True)


def make_end(name: str, end: str) -> None:
    subprocess.run(["ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
    subprocess.run(["ip", "link", "set", end, "up"], check=True)
    subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "plug"], check=True)


def is_there(end: str) -> bool:
    return os.path.exists(f"/sys/class/net/{end}")


def detached(name: str) -> int:
    """Hold eth0 of the namespace for a minute with nobody but a guard: the guard's pid."""
    with PlugQdisc.open("eth0", netns=name) as plug:
        plug.hold_detached(60)
        found = plug.holder()
        assert found is not None
        return found.guard


def test_a_namespace_that_only_a_guard_keeps_is_let_go(named) -> None:
    """'ip netns del' removes it, its veth goes, and a successor can be made."""
    name, end = named
    guard = detached(name)
    time.sleep(2.5)
    assert process_status(guard)["State"][0] in "RS"  # the name keeps it
    subprocess.run(["ip", "netns", "del", name], check=True)
    eventually(lambda: not is_there(end), "the namespace has gone", 10.0)
    expect_ended(guard)
    subprocess.run(["ip", "netns", "add", name], check=True)
    make_end(name, end)


@pytest.mark.parametrize("what", ["process", "thread", "descriptor"])
def test_a_namespace_that_somebody_else_keeps_stays_held(named, what: str) -> None:
    """A process or a thread in it, or a process with a descriptor of it: the hold goes on after 'ip netns del'."""
    name, end = named

    def work(this: Child) -> None:
        import threading

        libc = ctypes.CDLL(None)
        fd = os.open(f"/run/netns/{name}", os.O_RDONLY)

        def enter() -> None:
            assert libc.setns(fd, 0) == 0
            os.close(fd)
            this.say("there")
            signal.pause() if what == "process" else time.sleep(60)

        if what == "process":
            enter()
        elif what == "thread":
            threading.Thread(target=enter).start()
        else:
            this.say("there")
        signal.pause()

    with child(work) as user:
        assert user.hear() == "there"
        guard = detached(name)
        subprocess.run(["ip", "netns", "del", name], check=True)
        time.sleep(3.5)
        assert process_status(guard)["State"][0] in "RS"
        user.kill()
        user.status()
        eventually(lambda: not is_there(end), "the namespace has gone", 10.0)
        expect_ended(guard)
