# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard: a process that shares nothing with the holder, that surprises nobody, and that does not stay behind."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress

import pytest

from libnlplug import GuardUnavailable, HoldExpired, PlugQdisc
from libnlplug.guard.client import ANSWER_TIMEOUT
from tests.support.hold import (
    Child,
    child,
    descriptors,
    expect_ended,
    expect_flow,
    expect_held,
    holder_of,
    holding,
    marks,
    needs_root,
    process_status,
    wait_until,
)
from tests.support.netlab import Wire, eventually

PR_SET_CHILD_SUBREAPER = 36


def guard_of(plug: PlugQdisc) -> int:
    """The pid of an object's guard, which is started by its first hold."""
    with plug.hold():
        pass
    assert plug._guard is not None
    return plug._guard.pid


def kinds(pid: int) -> list[str]:
    """What the descriptors of a process are, in their order."""
    found = descriptors(pid)
    return [found[number].split(":[")[0] for number in sorted(found)]


def test_it_has_its_own_descriptors_only(wire: Wire, plug: PlugQdisc) -> None:
    """Whatever the holder has open, inheritable or not: a guard has four descriptors, and one more a plug it holds."""
    own = ["socket", "anon_inode", f"/proc/{os.getpid()}/stat", "socket"]
    with open("/dev/null") as null:
        spare = [fcntl.fcntl(null, fcntl.F_DUPFD, lowest) for lowest in (30, 31, 500)]
        try:
            pid = guard_of(plug)
        finally:
            for number in spare:
                os.close(number)
    assert [kind.split(":[")[0] for kind in kinds(pid)] == own
    with plug.hold():
        assert [kind.split(":[")[0] for kind in kinds(pid)] == [*own, "socket"]
    assert len(descriptors(pid)) == 4


def test_it_is_nobodys_child_and_in_its_own_session(wire: Wire, plug: PlugQdisc) -> None:
    """Its parent is not the holder, and it leads a session and a process group of its own: no terminal reaches it."""
    pid = guard_of(plug)
    assert int(process_status(pid)["PPid"]) != os.getpid()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    with open(f"/proc/{pid}/environ", "rb") as environ:
        assert environ.read() == b""
    with open(f"/proc/{pid}/cmdline", "rb") as words:
        assert words.read() == b"libnlplug-guard\0of\0%d\0" % os.getpid()


def test_it_is_locked_into_memory_and_spared(wire: Wire, plug: PlugQdisc) -> None:
    """Where it has the right, it cannot be swapped out, and running out of memory ends others first."""
    needs_root()
    status = process_status(guard_of(plug))
    assert int(status["VmLck"].split()[0]) > 0
    with open(f"/proc/{status['Pid']}/oom_score_adj") as score:
        assert score.read().strip() == "-1000"


def test_it_allocates_nothing_from_hold_to_hold(wire: Wire, plug: PlugQdisc) -> None:
    """After 100 holds it has the same memory and the same descriptors as after the first one."""
    pid = guard_of(plug)

    def size() -> tuple[str, ...]:
        status = process_status(pid)
        return tuple(status[name] for name in ("VmSize", "VmData", "VmRSS", "Threads"))

    before = size(), descriptors(pid)
    for _ in range(100):
        with plug.hold(timeout=5):
            plug.holder()
    # Who asked has the answer a moment before the guard has closed that conversation.
    eventually(lambda: (size(), descriptors(pid)) == before, "memory and descriptors are those of before")


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGPIPE,
        signal.SIGALRM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGABRT,  # systemd's, to all processes of a service whose watchdog has run out
        signal.SIGXCPU,
        signal.SIGPROF,
        signal.SIGPWR,
        signal.SIGRTMIN + 3,
        signal.SIGRTMAX,
    ],
)
def test_it_ignores_the_signals_of_daily_life(wire: Wire, plug: PlugQdisc, number: int) -> None:
    """A signal sent to the guard itself ends neither it nor the hold, and the holder's death is noticed after it."""
    with holding(wire) as holder:
        guard = holder_of(plug).guard
        numbers = expect_held(wire, plug)
        os.kill(guard, number)
        assert holder_of(plug).guard == guard
        assert process_status(guard)["State"][0] in "RS"
        numbers += expect_held(wire, plug)
        holder.kill()
        expect_flow(wire, numbers)


def test_ctrl_c_for_the_whole_group_does_not_reach_it(wire: Wire, plug: PlugQdisc) -> None:
    """SIGINT, SIGTERM and SIGHUP to the holder's process group: a holder that survives them still holds."""

    def work(this: Child) -> None:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with PlugQdisc.open(wire.device, netns=wire.near).hold():
            this.say("held")
            time.sleep(60)

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.killpg(holder.pid, number)
        numbers += expect_held(wire, plug)
        assert holder_of(plug).pid == holder.pid
        holder.kill()
        expect_flow(wire, numbers)


def test_it_ends_with_close(wire: Wire, plug: PlugQdisc) -> None:
    """When close() returns, the guard is as good as gone: no process, no zombie. That is before its patience ends."""
    pid = guard_of(plug)
    began = time.monotonic()
    plug.close()
    assert time.monotonic() - began < ANSWER_TIMEOUT
    expect_ended(pid)


def test_close_waits_until_the_guard_has_released(wire: Wire, plug: PlugQdisc) -> None:
    """While the guard has not released what is held, close() in another thread does not come back."""
    mine = PlugQdisc.open(wire.device, netns=wire.near)
    mine.hold().__enter__()
    pid = mine.guard().pid
    numbers = expect_held(wire, plug)
    os.kill(pid, signal.SIGSTOP)
    closing = threading.Thread(target=mine.close)
    try:
        closing.start()
        closing.join(0.5)
        assert closing.is_alive()
    finally:
        os.kill(pid, signal.SIGCONT)
    closing.join(10)
    assert not closing.is_alive()
    expect_flow(wire, numbers)
    expect_ended(pid)


def test_it_ends_with_the_holder_between_holds(wire: Wire, plug: PlugQdisc) -> None:
    """A holder that dies while it holds nothing leaves no guard behind, and nothing is sent to the plug."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        this.say(guard_of(mine))
        time.sleep(60)

    with child(work) as holder:
        pid = holder.hear()
        plug.buffer()
        numbers = expect_held(wire, plug)
        holder.kill()
        expect_ended(pid)
        assert plug.stats().qlen == len(numbers)


def test_it_ends_when_the_program_ends(wire: Wire, plug: PlugQdisc) -> None:
    """A program that forgets close() leaves no guard."""

    def work(this: Child) -> None:
        this.say(guard_of(PlugQdisc.open(wire.device, netns=wire.near)))

    with child(work) as holder:
        pid = holder.hear()
        assert holder.status() == 0
        expect_ended(pid)


def test_wait_and_sigchld_do_not_know_of_it(wire: Wire, plug: PlugQdisc) -> None:
    """While guards come, live, are killed and go, no SIGCHLD handler is called and os.wait() finds no child."""

    def work(this: Child) -> None:
        called: list[int] = []
        signal.signal(signal.SIGCHLD, lambda number, _: called.append(number))

        def no_child() -> bool:
            for wait in (os.wait, lambda: os.waitpid(-1, os.WNOHANG), lambda: os.waitid(os.P_ALL, 0, os.WEXITED)):
                try:
                    wait()
                except ChildProcessError:
                    continue
                return False
            return True

        answers = [no_child()]
        for ending in ("close", "kill", "close"):
            mine = PlugQdisc.open(wire.device, netns=wire.near)
            with suppress(GuardUnavailable), mine.hold():
                answers.append(no_child())
                pid = holder_of(mine).guard
                if ending == "kill":
                    os.kill(pid, signal.SIGKILL)
            answers.append(no_child())
            mine.close()
            expect_ended(pid)
            answers.append(no_child())
        this.say([answers, called])

    with child(work) as holder:
        answers, called = holder.hear()
    assert answers == [True] * 10
    assert called == []


def test_children_of_the_holder_are_waited_for_as_ever(wire: Wire, plug: PlugQdisc) -> None:
    """subprocess works while a guard lives: a child's end and status are its own."""
    with plug.hold():
        assert subprocess.run([sys.executable, "-Sc", "raise SystemExit(7)"]).returncode == 7


def test_a_subreaper_gets_no_zombie(wire: Wire, plug: PlugQdisc) -> None:
    """A holder to whom orphans come is not the guard's parent either: it has no child to wait for, held or not."""

    def work(this: Child) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        for hold in (mine.hold(), nullcontext()):
            with hold, pytest.raises(ChildProcessError):
                os.wait()
        this.say(mine.guard().pid)
        mine.close()

    with child(work) as holder:
        pid = holder.hear()
        assert holder.status() == 0
        expect_ended(pid)


def test_a_holder_that_ignores_sigchld(wire: Wire, plug: PlugQdisc) -> None:
    """Where children are not waited for at all, a guard is started all the same, and does its work."""

    def work(this: Child) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with PlugQdisc.open(wire.device, netns=wire.near).hold():
            this.say("held")
            time.sleep(60)

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        holder.kill()
        expect_flow(wire, numbers)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_a_holder_without_standard_streams(wire: Wire, plug: PlugQdisc, closed: tuple[int, ...]) -> None:
    """A daemon that has closed its first descriptors, so that the guard's are made of these, is guarded too."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        for number in closed:
            os.close(number)
        with mine.hold():
            this.say(kinds(mine.guard().pid))
            time.sleep(60)

    with child(work) as holder:
        own = ["socket", "anon_inode", f"/proc/{holder.pid}/stat", "socket", "socket"]
        assert [kind.split(":")[0] for kind in holder.hear()] == own
        numbers = expect_held(wire, plug)
        holder.kill()
        expect_flow(wire, numbers)


def test_a_killed_guard_is_done_without(wire: Wire, plug: PlugQdisc) -> None:
    """SIGKILL for the guard in the middle of a hold: the block's end still releases, and says that it is gone."""
    words = "has gone .* this process has released the packets itself, and its timeout of 5 s may not have been kept"
    with pytest.raises(GuardUnavailable, match=words), plug.hold(timeout=5) as held:
        numbers = expect_held(wire, plug)
        os.kill(holder_of(plug).guard, signal.SIGKILL)
        numbers += expect_held(wire, plug)
    assert (held.packets, held.dropped, held.expired) == (None, None, False)
    expect_flow(wire, numbers)


def test_a_killed_guard_is_replaced_by_the_next_hold(wire: Wire, plug: PlugQdisc) -> None:
    """A guard that was killed between two holds is started again by the next one, and does its work."""
    for _ in range(2):
        pid = guard_of(plug)
        os.kill(pid, signal.SIGKILL)
        expect_ended(pid)
        with pytest.raises(HoldExpired), plug.hold(timeout=0.1):
            assert holder_of(plug).guard != pid
            wire.expect(wire.send(3))


def test_a_killed_guard_kills_nobody(wire: Wire, plug: PlugQdisc) -> None:
    """A program with SIGPIPE at its default, as command-line tools have it, survives its guard and releases."""

    def work(this: Child) -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        with pytest.raises(GuardUnavailable), mine.hold():
            this.say("held")
            pid = holder_of(mine).guard
            os.kill(pid, signal.SIGKILL)
            expect_ended(pid)

    with child(work) as holder:
        assert holder.hear() == "held"
        assert holder.status() == 0
    expect_flow(wire, [])
    assert marks(wire.near) == []


def test_objects_leave_nothing_behind(wire: Wire, plug: PlugQdisc) -> None:
    """20 objects, each with a hold and a guard: afterwards the same descriptors, threads and processes as before."""

    def guards() -> list[str]:
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as words:
                    if words.read().startswith(f"libnlplug-guard\0of\0{os.getpid()}\0"):
                        found.append(pid)
            except OSError:
                pass
        return found

    before = descriptors(), threading.active_count()
    for _ in range(20):
        with PlugQdisc.open(wire.device, netns=wire.near) as mine, mine.hold():
            pass
    assert (descriptors(), threading.active_count()) == before
    eventually(lambda: guards() == [], "no guard is left", 2.0)


def test_starting_it_changes_nothing_in_the_caller(wire: Wire, plug: PlugQdisc) -> None:
    """The signal mask, the handlers, the session, the directory and the namespace are those of before."""

    def state() -> list[object]:
        status = process_status(os.getpid())
        masks = [status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "CapInh", "CapAmb", "CapEff")]
        return [*masks, os.getsid(0), os.getpgid(0), os.getcwd(), os.readlink("/proc/thread-self/ns/net")]

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        before = state()
        guard_of(plug)
        assert state() == before
        pid = plug._guard.pid  # type: ignore[union-attr]
        eventually(lambda: int(process_status(pid)["SigBlk"], 16) == 0, "a guard that waits blocks no signal")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


def test_many_threads_start_guards_at_once(wire: Wire, plug: PlugQdisc) -> None:
    """8 threads start and end guards of their own, while another forks and waits: every one of them works."""
    errors: list[BaseException] = []
    over = threading.Event()

    def start() -> None:
        try:
            for _ in range(5):
                mine = PlugQdisc.open(wire.device, netns=wire.near)
                mine.guard()
                assert mine._guard is not None
                assert mine._guard.alive
                mine.close()
        except BaseException as error:
            errors.append(error)

    def fork() -> None:
        try:
            while not over.is_set():
                assert subprocess.run(["true"]).returncode == 0
        except BaseException as error:
            errors.append(error)

    forker = threading.Thread(target=fork)
    forker.start()
    starters = [threading.Thread(target=start) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    over.set()
    forker.join()
    assert errors == []


def test_an_unarmed_guard_sleeps(wire: Wire, plug: PlugQdisc) -> None:
    """Between holds a guard is not woken by anything: it costs no processor time."""
    pid = guard_of(plug)

    def sleeps() -> bool:
        before = process_status(pid)
        wait_until(time.monotonic() + 0.3)
        after = process_status(pid)
        return before["State"][0] == "S" and after["voluntary_ctxt_switches"] == before["voluntary_ctxt_switches"]

    eventually(sleeps, "it sleeps for 0.3 s")  # it may still have been on its way there
