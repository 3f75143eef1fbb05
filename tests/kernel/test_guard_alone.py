# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard acts alone: whatever is killed, stopped or raced, nothing is held that nobody watches."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
import threading
import time

import pytest

import libnlplug
from libnlplug import GuardUnavailable, HoldExpired, NetlinkError, PlugBusy, PlugGroup, PlugQdisc
from libnlplug import plug as plug_module
from libnlplug.guard import client as guard
from libnlplug.guard import holders, start
from libnlplug.hold import PacketsUncounted
from tests.support.hold import (
    Child,
    child,
    expect_ended,
    expect_flow,
    expect_held,
    holder_of,
    holding,
    mark_of,
    marks,
    needs_root,
    process_status,
    squatting,
)
from tests.support.netlab import Netns, Wire, eventually, setns

ROUNDS = int(os.environ.get("GUARD_ROUNDS", "10"))
CLONE_NEWPID = 0x2000_0000


# -- nothing is held that nobody watches


@pytest.mark.parametrize("what", ["plug", "group", "detached"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_holder_that_is_struck_anywhere_leaves_nothing_held(
    wire: Wire, plug: PlugQdisc, what: str, number: signal.Signals
) -> None:
    """Killed or stopped between any two steps of holds with timeouts of 10 us to 1 ms: afterwards the traffic flows."""
    chance = random.Random(7)

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        held = PlugGroup([mine]) if what == "group" else mine
        held.guard()
        this.say("ready")
        while True:
            timeout = 10 ** chance.uniform(-5, -3)
            try:
                if what == "detached":
                    mine.hold_detached(timeout)
                else:
                    with held.hold(timeout=timeout):
                        pass
            except NetlinkError:  # it expired, or the one before is not over
                pass

    for attempt in range(ROUNDS):
        chance.seed(attempt)
        with child(work) as holder:
            assert holder.hear() == "ready"
            time.sleep(chance.uniform(0, 0.02))
            holder.kill(number)
            eventually(lambda: marks(wire.near) == [], "nobody holds", 2.0)
            expect_flow(wire, [])
            assert plug.stats().qlen == 0


def test_a_guard_that_is_killed_anywhere_is_missed(wire: Wire, plug: PlugQdisc) -> None:
    """Its holder is told when it leaves, at the latest, and the traffic flows then."""
    told = 0
    for attempt in range(ROUNDS):
        pid = plug.guard().pid
        killer = threading.Timer(random.Random(attempt).uniform(0, 0.006), os.kill, (pid, signal.SIGKILL))
        killer.start()
        try:
            while killer.is_alive():
                with plug.hold(timeout=5):
                    pass
        except GuardUnavailable:
            told += 1
        finally:
            killer.join()
        expect_flow(wire, [])
    assert told


def test_the_timeout_of_a_killed_guard_is_not_called_kept(wire: Wire, plug: PlugQdisc) -> None:
    """Nobody ended the hold in time, and leaving does not pass over that."""
    with (
        pytest.raises(GuardUnavailable, match="its timeout of 1 s may not have been kept"),
        plug.hold(timeout=1) as held,  # long enough for a busy machine to get to the next line in time
    ):
        os.kill(holder_of(plug).guard, signal.SIGKILL)
        time.sleep(1.1)
    assert (held.packets, held.dropped) == (None, None)


def test_a_guard_that_did_not_run_in_time_says_so(wire: Wire, plug: PlugQdisc) -> None:
    """Stopped past the timeout, and asked to release then: the hold expired, whoever was to blame."""
    hold = plug.hold(timeout=0.1)
    hold.__enter__()
    pid = holder_of(plug).guard
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
    with pytest.raises(HoldExpired):
        hold.__exit__(None, None, None)
    expect_flow(wire, [])


def test_a_holder_that_executes_another_program_ends_its_hold(wire: Wire, plug: PlugQdisc) -> None:
    """Also where a child that it has forked keeps a copy of all that it had open."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        mine.hold().__enter__()
        forked = os.fork()
        if not forked:
            time.sleep(60)
            os._exit(0)
        this.say(forked)
        while True:  # and not pause(): the signal may come right before it, and would not end it
            time.sleep(0.01)

    def leave(*_: object) -> None:
        os.execv("/bin/sleep", ["sleep", "60"])

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        with child(work) as holder:
            forked = holder.hear()
            try:
                numbers = expect_held(wire, plug)
                holder.kill(signal.SIGUSR1)
                expect_flow(wire, numbers)
                assert marks(wire.near) == []
            finally:
                os.kill(forked, signal.SIGKILL)
    finally:
        signal.signal(signal.SIGUSR1, before)


def two_interrupts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let two interrupts come, each before a release is asked for; those that have not come yet."""
    real, left = guard.Guard.release, [1, 2]

    def interrupted(self, hold_id):
        if left:
            left.pop()
            raise KeyboardInterrupt
        return real(self, hold_id)

    monkeypatch.setattr(guard.Guard, "release", interrupted)
    return left


def test_two_interrupts_while_a_hold_is_left(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, and again: the release is sent all the same, and the interrupt comes out."""
    interrupts = two_interrupts(monkeypatch)
    with pytest.raises(KeyboardInterrupt), plug.hold():
        numbers = expect_held(wire, plug)
    assert interrupts == []
    assert plug.holder() is None
    expect_flow(wire, numbers)


def test_two_interrupts_while_a_hold_is_entered(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when it has just begun, and again while that is taken back: nothing is held."""
    interrupts, real = two_interrupts(monkeypatch), guard.Guard.hold

    def interrupted(self, *words, **options):
        real(self, *words, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(guard.Guard, "hold", interrupted)
    with pytest.raises(KeyboardInterrupt), plug.hold():
        pytest.fail("entered")
    assert interrupts == []
    assert plug.holder() is None
    expect_flow(wire, [])


def test_no_limit_of_recursion_leaves_a_hold_on(wire: Wire, plug: PlugQdisc) -> None:
    """However near the limit of recursion the block stands: after RecursionError, nothing is held."""
    with plug.hold():
        pass
    outcomes = set()
    limit = sys.getrecursionlimit()

    def down(frames: int) -> None:
        if frames:
            return down(frames - 1)
        with plug.hold():
            pass
        return None

    depth = len(__import__("inspect").stack())
    for margin in range(1, 45):
        sys.setrecursionlimit(1000)
        try:
            down(1000 - depth - margin)
            outcomes.add("held")
        except RecursionError:
            outcomes.add("refused")
        finally:
            sys.setrecursionlimit(limit)
        assert plug.holder() is None, margin
        expect_flow(wire, [])
    assert outcomes == {"held", "refused"}


# -- attach, detach and hold exclude each other


def test_attach_does_not_end_a_hold_that_begins_meanwhile(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug that another process makes and holds between the look and the creation is adopted, and stays held."""
    real, others = plug_module.qdisc_at, []

    def found(*args):
        if others:
            return real(*args)
        before = real(*args)
        others.append(None)  # the other process looks without this
        others.append(holding_of_its_own(wire))
        return before

    monkeypatch.setattr(plug_module, "qdisc_at", found)
    with libnlplug.attach(wire.device, netns=wire.near) as mine:
        assert not mine.created
        numbers = expect_held(wire, mine)
        others[1].close()
        expect_flow(wire, numbers)


def test_attach_keeps_others_away_while_it_creates(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the second look and the creation another process begins to attach: it waits, and its hold stays on."""
    real, looks, others = plug_module.qdisc_at, [], []

    def found(*args):
        seen = real(*args)
        looks.append(seen)
        if len(looks) == 2:
            others.append(Child(attach_and_hold, wire))
            assert not others[0].has_said(within=0.6)
        return seen

    monkeypatch.setattr(plug_module, "qdisc_at", found)
    monkeypatch.setattr(holders, "VISIT_TIMEOUT", 0.9)  # of the other one: nobody answers it meanwhile
    try:
        with libnlplug.attach(wire.device, netns=wire.near) as mine:
            assert mine.created
            assert others[0].hear() == "held"
            numbers = expect_held(wire, mine)
            others[0].close()
            expect_flow(wire, numbers)
    finally:
        others[0].close()


def attach_and_hold(this: Child, wire: Wire) -> None:
    """In a child: attach, hold and say so."""
    with libnlplug.attach(wire.device, netns=wire.near).hold():
        this.say("held")
        signal.pause()


def holding_of_its_own(wire: Wire) -> Child:
    """A process that makes a plug and holds it."""
    made = Child(attach_and_hold, wire)
    assert made.hear() == "held"
    return made


def test_many_attach_hold_and_detach_at_once(wire: Wire) -> None:
    """4 processes: every refusal names another's pid, and in the end the device is as it was before."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        named, odd = set(), []
        for _ in range(8):
            try:
                with libnlplug.attach(wire.device) as mine, mine.hold(timeout=5):
                    time.sleep(0.001)
            except PlugBusy as error:
                named.add(error.pid)
            except NetlinkError as error:  # another one has removed the plug
                if not isinstance(error, FileNotFoundError):
                    odd.append(str(error))
        this.say([sorted(named & {0, os.getpid()}), odd])

    with child(work) as one, child(work) as two, child(work) as three, child(work) as four:
        for racer in (one, two, three, four):
            assert racer.hear() == [[], []]
    assert marks(wire.near) == []
    with libnlplug.attach(wire.device, netns=wire.near) as rest:
        rest.detach()
    assert wire.near.kinds(wire.device) == ["noqueue"]


# -- the guard's start


def test_it_takes_over_nothing_that_binds_its_holder(wire: Wire, plug: PlugQdisc) -> None:
    """A realtime holder on one processor, with a file limit and a umask of its own: none of it is the guard's."""
    needs_root()

    def work(this: Child) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.umask(0)
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        with mine.hold(timeout=60):
            this.say(mine.guard().pid)
            signal.pause()

    with child(work) as holder:
        pid = holder.hear()
        assert os.sched_getscheduler(pid) == os.SCHED_FIFO
        assert os.sched_getparam(pid).sched_priority == os.sched_get_priority_max(os.SCHED_FIFO)
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
        assert process_status(pid)["Umask"] == "0077"
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        numbers = expect_held(wire, plug)
        holder.kill()
        expect_flow(wire, numbers)


def test_a_caller_that_has_unshared_its_pid_namespace_can_still_fork(wire: Wire, plug: PlugQdisc) -> None:
    """The namespace that it has made for its children is still empty after a hold: its next child becomes PID 1."""
    needs_root()

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        mine = PlugQdisc.open(wire.device)
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) == 0
        with mine.hold():
            guard_pid = mine.guard().pid  # which lives on, between holds
        ready, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(tell, b"%d" % os.getpid())
            os._exit(0)
        os.waitpid(pid, 0)
        this.say([os.read(ready, 9).decode(), os.path.exists(f"/proc/{guard_pid}")])

    with child(work) as holder:
        assert holder.hear() == ["1", True]


def test_an_interrupted_start_leaves_the_namespace_of_the_children(wire: Wire, plug: PlugQdisc) -> None:
    """Ctrl-C while the thread starts its children elsewhere: the pid namespace for them is the same one afterwards."""
    needs_root()
    children = "/proc/thread-self/ns/pid_for_children"

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        mine = PlugQdisc.open(wire.device)
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) == 0
        first = os.fork()
        if not first:
            signal.pause()
        before = os.readlink(children)
        start.lib = _Interrupted(start.lib)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            mine.hold().__enter__()
        after = os.readlink(children)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        this.say(after == before)

    with child(work) as holder:
        assert holder.hear() is True


class _Interrupted:
    """The compiled module, with an interrupt right after its first setns()."""

    def __init__(self, lib: object) -> None:
        self._lib, self._left = lib, 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._lib, name)

    def setns(self, fd: int, kind: int) -> int:
        done = guard.lib.setns(fd, kind)
        if self._left:
            self._left = 0
            raise KeyboardInterrupt
        return done


def test_the_first_process_of_a_pid_namespace_has_no_child_left(wire: Wire, plug: PlugQdisc) -> None:
    """To PID 1 the guard is a child: it ends with each hold, so that a wait for all children ends too."""
    needs_root()

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) == 0
        pid = os.fork()
        if pid:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        for _ in range(2):
            with mine.hold() as held:
                pass
            with pytest.raises(ChildProcessError):
                os.wait()
        mine.close()
        this.say([os.getpid(), held.dropped])

    with child(work) as holder:
        assert holder.hear() == [1, 0]
    expect_flow(wire, [])


def test_close_does_not_wait_for_ever_for_a_stopped_guard(
    wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It releases what is held, and comes back; the guard ends as soon as it may run."""
    monkeypatch.setattr(guard, "ANSWER_TIMEOUT", 1)
    mine = PlugQdisc.open(wire.device, netns=wire.near)
    mine.hold().__enter__()
    pid = mine.guard().pid
    numbers = expect_held(wire, plug)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        mine.close()
        assert time.monotonic() - began < 3
        expect_flow(wire, numbers)
    finally:
        os.kill(pid, signal.SIGCONT)
    expect_ended(pid)


# -- who is in the way


def test_a_squatter_is_not_ended_as_a_guard(wire: Wire, plug: PlugQdisc) -> None:
    """Whoever sits on the mark is asked to end, and sent no signal; nobody holds other than he."""
    with squatting(wire, mark_of(plug), uid=0) as squatter:
        assert squatter.hear() == "sitting"
        assert not plug.end_detached()
        assert process_status(squatter.pid)["State"][0] in "SR"


def test_a_detached_hold_is_ended_by_another_object(wire: Wire, plug: PlugQdisc) -> None:
    """Its guard releases and ends; a hold that is not detached goes on."""
    plug.hold_detached(60)
    numbers = expect_held(wire, plug)
    pid = holder_of(plug).guard
    with PlugQdisc.open(wire.device, netns=wire.near) as other:
        assert other.end_detached()
        expect_ended(pid)
        expect_flow(wire, numbers)
        with holding(wire):
            numbers = expect_held(wire, plug)
            assert not other.end_detached()
            assert wire.arrived() == []
    expect_flow(wire, numbers)


def test_a_stopped_guard_is_still_named(wire: Wire, plug: PlugQdisc) -> None:
    """PlugBusy has the holder's pid, not the guard's, also where the guard cannot say it."""
    with holding(wire) as holder:
        pid = holder_of(plug).guard
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(PlugBusy) as caught, plug.hold():
                pytest.fail("entered")
            assert caught.value.pid == holder.pid
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_namespace_of_another_is_watched(netns: Netns) -> None:
    """The changes that the guard sees are those of the plug's namespace, wherever its holder is."""
    netns.ip("link set lo up")
    with libnlplug.attach("lo", netns=netns) as mine:
        with pytest.warns(PacketsUncounted, match="its link went down"), mine.hold():
            netns.ip("link set lo down", "link set lo up")
