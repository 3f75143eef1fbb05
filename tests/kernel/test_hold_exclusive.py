# SPDX-License-Identifier: GPL-2.0-or-later
"""One hold at a time per plug, across processes: the second is told who holds, and the mark goes with the hold."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import libnlplug
from libnlplug import ForkedError, GuardUnavailable, PlugBusy, PlugQdisc
from libnlplug.guard import holders
from tests.support.hold import (
    NOBODY,
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
    squatting,
    wait_until,
)
from tests.support.netlab import Wire, eventually

EXIT_THREAD = {"x86_64": 60, "aarch64": 93, "riscv64": 93, "ppc64le": 1, "s390x": 1}  # the number of exit(2)


def test_a_second_hold_of_the_same_object_is_refused(wire: Wire, plug: PlugQdisc) -> None:
    """The first hold goes on; the second is told our own pid, and can be had afterwards."""
    with plug.hold():
        numbers = expect_held(wire, plug)
        with pytest.raises(PlugBusy, match="a hold of this object is on already") as caught, plug.hold():
            pytest.fail("entered")
        assert caught.value.pid == os.getpid()
        numbers += expect_held(wire, plug)
    expect_flow(wire, numbers)
    with plug.hold():
        pass


def test_a_hold_is_entered_once(wire: Wire, plug: PlugQdisc) -> None:
    """Entering the same Hold object again is refused, within its block and after it; the hold that is on goes on."""
    held = plug.hold()
    with held:
        numbers = expect_held(wire, plug)
        with pytest.raises(RuntimeError, match="entered once"), held:
            pytest.fail("entered")
        assert plug.stats().qlen == len(numbers)
    expect_flow(wire, numbers)
    with pytest.raises(RuntimeError, match="entered once"), held:
        pytest.fail("entered")
    expect_flow(wire, [])


def test_the_holder_of_a_class_is_named(wire: Wire) -> None:
    """Two plugs at two classes of one device: only the one that is held has a holder."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio bands 3")
    one, two = (libnlplug.attach(wire.device, parent=parent, netns=wire.near) for parent in ("1:1", "1:2"))
    with one, two, one.hold():
        holder = one.holder()
        assert holder is not None
        assert (holder.pid, holder.guard) == (os.getpid(), one.guard().pid)
        assert two.holder() is None
        with two.hold():
            assert two.holder().guard == two.guard().pid


def test_a_second_object_of_the_same_process_is_refused(wire: Wire, plug: PlugQdisc) -> None:
    """The mark is the plug's, not the object's."""
    with PlugQdisc.open(wire.device, netns=wire.near) as other, plug.hold():
        numbers = expect_held(wire, plug)
        with pytest.raises(PlugBusy) as caught, other.hold():
            pytest.fail("entered")
        assert caught.value.pid == os.getpid()
        assert other.last_action is None
        assert plug.stats().qlen == len(numbers)
    expect_flow(wire, numbers)


def test_another_process_is_refused_and_told_the_pid(wire: Wire, plug: PlugQdisc) -> None:
    """PlugBusy carries the holder's pid, and the refused one sends the plug nothing."""
    with holding(wire) as holder:
        numbers = expect_held(wire, plug)
        with pytest.raises(PlugBusy, match=f"cannot hold {wire.device}: process {holder.pid} holds it") as caught:
            plug.hold().__enter__()
        assert caught.value.pid == holder.pid
        assert plug.last_action == "release_indefinite"
        assert plug.stats().qlen == len(numbers)
        holder.kill()
        expect_flow(wire, numbers)


def test_who_holds_since_when_and_for_how_long(wire: Wire, plug: PlugQdisc) -> None:
    """holder() tells pid, guard, since, timeout and limit of a hold in another process, and None without one."""
    assert plug.holder() is None
    before = time.time()
    with holding(wire, timeout=60) as holder:
        found = holder_of(plug)
        assert (found.pid, found.timeout, found.limit) == (holder.pid, 60.0, None)
        assert (found.detached, found.foreign, found.uid) == (False, False, os.geteuid())
        assert found.guard not in (holder.pid, os.getpid())
        assert found.since is not None
        assert before <= found.since <= time.time()
    eventually(lambda: plug.holder() is None, "the hold is over")
    plug.set_limit(123_456)
    with plug.hold():
        assert (holder_of(plug).limit, holder_of(plug).timeout, holder_of(plug).pid) == (123_456, None, os.getpid())


def test_other_plugs_are_free(wire: Wire, plug: PlugQdisc) -> None:
    """A hold of one plug is none of another device, another parent or another namespace."""
    wire.near.tc(f"qdisc replace dev {wire.device} root handle 1: prio")
    with (
        libnlplug.attach(wire.device, parent="1:1", netns=wire.near) as first,
        libnlplug.attach(wire.device, parent="1:2", netns=wire.near) as second,
        libnlplug.attach("lo", netns=wire.near) as third,
        libnlplug.attach("lo", netns=wire.far) as fourth,
        first.hold(),
        second.hold(),
        third.hold(),
        fourth.hold(),
    ):
        assert len(marks(wire.near)) == 3
        assert len(marks(wire.far)) == 1
    assert marks(wire.near) == marks(wire.far) == []


def test_the_mark_is_there_while_held_and_no_file(wire: Wire, plug: PlugQdisc) -> None:
    """It is an abstract socket of the plug's namespace, and is there as long as the hold."""
    assert marks(wire.near) == []
    with plug.hold():
        assert marks(wire.near) == [mark_of(plug)]
        assert marks(wire.far) == []
    assert marks(wire.near) == []


def test_the_mark_goes_with_a_killed_holder(wire: Wire, plug: PlugQdisc) -> None:
    """After a SIGKILL the mark vanishes by itself, and the plug can be held again."""
    with holding(wire) as holder:
        assert marks(wire.near) == [mark_of(plug)]
        holder.kill()
        eventually(lambda: marks(wire.near) == [], "the mark goes")
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


def test_one_hold_after_the_other(wire: Wire, plug: PlugQdisc) -> None:
    """As soon as one object's block has ended, another object can hold: a mark never outlives its hold."""
    with PlugQdisc.open(wire.device, netns=wire.near) as other:
        for _ in range(50):
            for mine in (plug, other):
                with mine.hold(timeout=5) as held:
                    numbers = wire.send(1)
                assert held.packets == 1
                wire.expect(numbers)  # a release is not over when it returns: the next hold might count this packet too


def test_threads_race_and_one_at_a_time_holds(wire: Wire, plug: PlugQdisc) -> None:
    """4 threads with objects of their own and one shared one: never two in the block, and every refusal names us."""
    inside, most, held, refused = 0, 0, 0, 0
    count = threading.Lock()
    errors: list[BaseException] = []
    named: set[int] = set()

    def race(mine: PlugQdisc) -> None:
        nonlocal inside, most, held, refused
        try:
            for _ in range(20):
                try:
                    with mine.hold(timeout=5):
                        with count:
                            inside, most, held = inside + 1, max(most, inside + 1), held + 1
                        time.sleep(0.001)
                        with count:
                            inside -= 1
                except PlugBusy as busy:
                    with count:
                        refused += 1
                        named.add(busy.pid)
                    time.sleep(0.001)
        except BaseException as error:
            errors.append(error)

    objects = [PlugQdisc.open(wire.device, netns=wire.near) for _ in range(3)]
    threads = [threading.Thread(target=race, args=(mine,)) for mine in (plug, plug, *objects)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in objects:
        mine.close()
    assert errors == []
    assert most == 1
    assert held + refused == 100
    assert held > 0
    assert refused > 0
    assert named == {os.getpid()}
    assert plug.holder() is None
    assert marks(wire.near) == []
    expect_flow(wire, [])


def test_processes_race_and_one_at_a_time_holds(wire: Wire, plug: PlugQdisc) -> None:
    """3 processes toggle one plug: what each sends in its block is what it held, and every refusal names another."""

    def race(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        held = refused = 0
        named: set[int] = set()
        for _ in range(60):
            try:
                with mine.hold(timeout=5) as report:
                    wire.send(2)
                    time.sleep(0.001)
                assert report.packets >= 2  # what another process has released and what had not left yet is held again
                held += 1
            except PlugBusy as busy:
                named.add(busy.pid)
                refused += 1
                time.sleep(0.002)
        assert not named & {0, os.getpid()}
        this.say([held, refused])

    with child(race) as first, child(race) as second, child(race) as third:
        counts = [racer.hear() for racer in (first, second, third)]
    assert all(held + refused == 60 and held > 0 for held, refused in counts)
    assert sum(refused for _, refused in counts) > 0
    got: list[int] = []

    def all_arrived() -> bool:
        got.extend(wire.arrived())
        return len(got) == 2 * sum(held for held, _ in counts)

    eventually(all_arrived, "every packet arrives")
    assert plug.holder() is None


def test_detach_is_refused_while_held(wire: Wire, plug: PlugQdisc) -> None:
    """detach() names the holder, and neither releases nor deletes; it works once the hold is over."""
    with holding(wire) as holder:
        numbers = expect_held(wire, plug)
        with pytest.raises(PlugBusy, match=f"cannot detach the plug of {wire.device}.*{holder.pid}") as caught:
            plug.detach()
        assert caught.value.pid == holder.pid
        assert plug.stats().qlen == len(numbers)
        holder.kill()
        expect_flow(wire, numbers)
        eventually(lambda: plug.holder() is None, "the hold is over")
    plug.detach()
    assert wire.near.qdisc(wire.device)["kind"] != "plug"


def test_the_own_hold_refuses_a_detach_too(wire: Wire, plug: PlugQdisc) -> None:
    """detach() in the block would lose the hold: PlugBusy with our pid; the hold goes on."""
    with plug.hold():
        numbers = expect_held(wire, plug)
        with pytest.raises(PlugBusy) as caught:
            plug.detach()
        assert caught.value.pid == os.getpid()
        numbers += expect_held(wire, plug)
    expect_flow(wire, numbers)


# -- fork and threads


@pytest.mark.parametrize("fault", [None, KeyboardInterrupt])
def test_a_forked_child_that_leaves_the_block_does_nothing(wire: Wire, plug: PlugQdisc, fault) -> None:
    """The hold is the parent's: a child that leaves both blocks, by an exception too, changes nothing."""
    pid = parent = os.getpid()
    try:
        with PlugQdisc.open(wire.device, netns=wire.near) as mine, mine.hold() as held:
            numbers = expect_held(wire, plug)
            pid = os.fork()
            if pid:
                _, status = os.waitpid(pid, 0)
                assert os.waitstatus_to_exitcode(status) == 0
                assert plug.stats().qlen == len(numbers)
                numbers += expect_held(wire, plug)
            elif fault is not None:
                raise fault
        if pid == 0:
            os._exit(0 if held.packets is None and mine.closed else 1)
    except BaseException as error:
        if os.getpid() != parent:
            os._exit(0 if fault is not None and type(error) is fault else 1)
        raise
    assert held.packets == len(numbers)
    expect_flow(wire, numbers)


def test_a_holder_that_has_no_thread_left_but_another(wire: Wire, plug: PlugQdisc) -> None:
    """The thread that began the hold has ended, the process goes on: still held; killed then, it is released."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        hold = mine.hold()
        starter = threading.Thread(target=hold.__enter__)
        starter.start()
        starter.join()
        this.say("held")
        time.sleep(60)

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        wait_until(time.monotonic() + 0.2)
        assert plug.stats().qlen == len(numbers)
        holder.kill()
        expect_flow(wire, numbers)


def test_the_main_thread_may_end_first(wire: Wire, plug: PlugQdisc) -> None:
    """A process whose main thread has ended is alive: still held; killed then, it is released."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)

        def hold() -> None:
            with mine.hold():
                this.say("held")
                time.sleep(60)

        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(EXIT_THREAD[platform.machine()], 0)

    with child(work) as holder:
        assert holder.hear() == "held"
        stat = Path(f"/proc/{holder.pid}/stat")
        eventually(lambda: stat.read_text().split(") ")[1][0] == "Z", "the main thread ends")
        numbers = expect_held(wire, plug)
        wait_until(time.monotonic() + 0.2)
        assert plug.stats().qlen == len(numbers)
        holder.kill()
        expect_flow(wire, numbers)


def test_leaked_descriptors_do_not_keep_a_plug_held(wire: Wire, plug: PlugQdisc) -> None:
    """A child that was forked in the block has a copy of everything: the holder's death is noticed nevertheless."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        with mine.hold():
            leaked = os.fork()
            if leaked == 0:
                time.sleep(60)
                os._exit(0)
            this.say(leaked)
            time.sleep(60)

    with child(work) as holder:
        leaked = holder.hear()
        try:
            numbers = expect_held(wire, plug)
            guard = holder_of(plug).guard
            holder.kill()
            expect_flow(wire, numbers)
            expect_ended(guard)
            assert os.path.exists(f"/proc/{leaked}")
            assert marks(wire.near) == []
        finally:
            os.kill(leaked, 9)


def test_a_forked_child_cannot_hold_with_the_parents_object(wire: Wire, plug: PlugQdisc) -> None:
    """ForkedError in the child, also where the parent's guard runs; the parent's hold goes on and ends as ever."""

    def work(this: Child) -> None:
        try:
            plug.hold().__enter__()
        except ForkedError:
            this.say("refused")
        plug.close()

    with plug.hold():
        numbers = expect_held(wire, plug)
        with child(work) as forked:
            assert forked.hear() == "refused"
            assert forked.status() == 0
        numbers += expect_held(wire, plug)
    expect_flow(wire, numbers)
    with child(work) as forked:
        assert forked.hear() == "refused"
    assert plug.holder() is None
    with plug.hold() as held:
        pass
    assert held.expired is False


# -- squatters


def test_a_squatter_of_another_uid_is_named(wire: Wire, plug: PlugQdisc) -> None:
    """Any user can take the mark's name: the hold is refused with the squatter's pid and uid, and nothing is held."""
    with squatting(wire, mark_of(plug)) as squatter:
        assert squatter.hear() == "sitting"
        with pytest.raises(PlugBusy, match=f"process {squatter.pid} of uid {NOBODY} has taken") as caught:
            plug.hold().__enter__()
        assert caught.value.pid == squatter.pid
        holder = holder_of(plug)
        assert (holder.pid, holder.uid, holder.foreign) == (squatter.pid, NOBODY, True)
        assert (holder.since, holder.timeout, holder.limit) == (None, None, None)
        expect_flow(wire, [])
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


def test_a_squatter_that_does_not_listen_is_told(wire: Wire, plug: PlugQdisc) -> None:
    """Whose it is cannot be asked then, but the hold is refused, and nothing is held."""
    with squatting(wire, mark_of(plug), backlog=None) as squatter:
        assert squatter.hear() == "sitting"
        with pytest.raises(PlugBusy, match="a process that does not answer has taken the plug's mark") as caught:
            plug.hold().__enter__()
        assert caught.value.pid == 0
        expect_flow(wire, [])


def test_a_squatter_does_not_keep_on_a_hold_without_its_guard(wire: Wire, plug: PlugQdisc) -> None:
    """The guard was killed, and somebody sits on the mark: leaving releases all the same, and tells of the guard."""
    hold = plug.hold()
    hold.__enter__()
    numbers = expect_held(wire, plug)
    pid = holder_of(plug).guard
    os.kill(pid, signal.SIGKILL)
    expect_ended(pid)
    with squatting(wire, mark_of(plug)) as squatter:
        assert squatter.hear() == "sitting"
        with pytest.raises(GuardUnavailable, match="has gone"):
            hold.__exit__(None, None, None)
        expect_flow(wire, numbers)


def test_a_squatter_with_a_full_queue_is_told(wire: Wire, plug: PlugQdisc) -> None:
    """A squatter that accepts nobody is not known any more once its queue is full; then no pid and no uid are shown."""
    with squatting(wire, mark_of(plug), backlog=0) as squatter:
        assert squatter.hear() == "sitting"
        assert holder_of(plug).pid == squatter.pid
        holder = holder_of(plug)
        assert (holder.pid, holder.uid, holder.foreign) == (0, -1, True)
        with pytest.raises(PlugBusy, match="a process that does not answer has taken the plug's mark"):
            plug.hold().__enter__()


@pytest.mark.parametrize("program", ["python", "libnlplug-guard"])
def test_a_squatter_cannot_lie(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Whatever a squatter of another uid says about holders, it is shown as what it is; also where it runs the guard's
    program, and watches a process that is not its user's."""
    needs_root()
    monkeypatch.setattr(holders, "_program", lambda pid: program)

    def work(this: Child) -> None:
        from libnlplug.netlink.libnl import ffi
        from tests.support.netlab import setns

        setns(wire.near.fileno())
        os.setresuid(NOBODY, NOBODY, NOBODY)
        sitting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sitting.bind("\0" + mark_of(plug).lstrip("@"))
        sitting.listen()
        os.dup2(os.pidfd_open(os.getppid()), 1)
        this.say("sitting")
        info = ffi.buffer(ffi.new("struct guard_info *", {"holder": 1, "since": 1}))[:]
        while True:
            visitor, _ = sitting.accept()
            visitor.send(info)
            visitor.close()

    with child(work) as squatter:
        assert squatter.hear() == "sitting"
        holder = holder_of(plug)
        assert (holder.pid, holder.foreign, holder.since) == (squatter.pid, True, None)


def test_visitors_do_not_keep_a_guard_from_its_work(wire: Wire, plug: PlugQdisc) -> None:
    """Somebody who knocks at the mark all the time, never reading, delays neither the release nor the next question."""
    needs_root()

    def work(this: Child) -> None:
        from tests.support.netlab import setns

        setns(wire.near.fileno())
        os.setresuid(NOBODY, NOBODY, NOBODY)
        knocking = []
        this.say("knocking")
        while True:
            visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            visitor.setblocking(False)
            try:
                visitor.connect("\0" + mark_of(plug).lstrip("@"))
            except OSError:
                continue
            knocking.append(visitor)
            del knocking[:-20]

    with holding(wire) as holder, child(work) as visitor:
        assert visitor.hear() == "knocking"
        numbers = expect_held(wire, plug)
        eventually(lambda: holder_of(plug).pid == holder.pid, "a question is answered")
        holder.kill()
        expect_flow(wire, numbers)
