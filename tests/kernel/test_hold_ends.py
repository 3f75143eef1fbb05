# SPDX-License-Identifier: GPL-2.0-or-later
"""However the block ends, the plug is released first; what makes that impossible is raised, and says what it was."""

from __future__ import annotations

import gc
import linecache
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress

import pytest

import libnlplug
from libnlplug import (
    ClosedError,
    DeviceNotFound,
    GuardUnavailable,
    HoldExpired,
    NetlinkError,
    PlugBusy,
    PlugQdisc,
    QdiscNotFound,
    hold,
)
from libnlplug.guard import client as guard
from libnlplug.hold import PacketsUncounted
from tests.support.hold import (
    Child,
    child,
    expect_ended,
    expect_flow,
    expect_held,
    holder_of,
    holding,
    marks,
    wait_until,
)
from tests.support.netlab import Wire, eventually, random_name, up


class Fault(Exception):
    """What a block raises here."""


def test_an_exception_in_the_block_releases_and_comes_out(wire: Wire, plug: PlugQdisc) -> None:
    """The block's own exception leaves the block as it is, after the release; the report is complete."""
    with pytest.raises(Fault), plug.hold() as held:
        numbers = expect_held(wire, plug)
        raise Fault
    expect_flow(wire, numbers)
    assert (held.packets, held.dropped) == (5, 0)
    assert plug.holder() is None


def test_ctrl_c_in_the_block_releases(wire: Wire, plug: PlugQdisc) -> None:
    """A real SIGINT in the block is a KeyboardInterrupt that comes out after the release."""
    with pytest.raises(KeyboardInterrupt), plug.hold():
        numbers = expect_held(wire, plug)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    expect_flow(wire, numbers)
    assert plug.holder() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV, signal.SIGKILL])
def test_a_signal_that_ends_the_process_releases(wire: Wire, plug: PlugQdisc, number: int) -> None:
    """Where no handler runs, the guard releases: packets flow, the plug stays, the mark and the guard are gone."""
    with holding(wire) as holder:
        numbers = expect_held(wire, plug)
        guard_pid = holder_of(plug).guard
        holder.kill(number)
        expect_flow(wire, numbers)
        assert holder.status() == -number
    expect_ended(guard_pid)
    assert marks(wire.near) == []
    assert wire.near.qdisc(wire.device)["kind"] == "plug"


def test_a_sigterm_handler_that_exits_releases_first(wire: Wire, plug: PlugQdisc) -> None:
    """SystemExit, raised by a handler of SIGTERM, leaves the block through the release; the exit status is its own."""

    def work(this: Child) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        with mine.hold() as held:
            try:
                this.say("held")
                time.sleep(10)
            finally:
                this.say(["last action in the block", mine.last_action])
        this.say(["not reached", held.packets])

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        holder.kill(signal.SIGTERM)
        assert holder.hear() == ["last action in the block", "buffer"]
        assert holder.status() == 3
    expect_flow(wire, numbers)


def test_closing_the_object_in_the_block_releases(wire: Wire, plug: PlugQdisc) -> None:
    """close() ends the hold that is on; leaving the block afterwards is no error."""
    with plug.hold():
        numbers = expect_held(wire, plug)
        plug.close()
        expect_flow(wire, numbers)
        assert marks(wire.near) == []


def test_closing_from_another_thread_leaves_nothing_held(wire: Wire, plug: PlugQdisc) -> None:
    """close() at any moment of another thread's holds: what that thread had begun to hold is released."""

    def toggle(mine: PlugQdisc) -> None:
        with suppress(ClosedError, NetlinkError):
            while True:
                with mine.hold():
                    pass

    for attempt in range(60):
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        thread = threading.Thread(target=toggle, args=(mine,))
        thread.start()
        eventually(lambda mine=mine: mine.last_action is not None, "the thread holds")
        wait_until(time.monotonic() + 0.0003 * attempt)
        mine.close()
        thread.join()
        expect_flow(wire, [])


def test_a_signal_handler_may_close_the_object(wire: Wire, plug: PlugQdisc) -> None:
    """A handler that closes the object, at whatever moment, neither hangs nor leaves the plug holding."""
    for delay in [0.0002 * step for step in range(1, 30)]:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        before = signal.signal(signal.SIGALRM, lambda *_, mine=mine: mine.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            try:
                for _ in range(3):
                    with mine.hold(timeout=5):
                        pass
            except (ValueError, RuntimeError, NetlinkError):  # closed, in the middle of something
                pass
            eventually(lambda mine=mine: mine.closed, "the handler runs")
        finally:
            signal.signal(signal.SIGALRM, before)
            mine.close()
        assert marks(wire.near) == []
        expect_flow(wire, [])


def test_an_object_that_is_forgotten_in_the_block_releases(wire: Wire, plug: PlugQdisc) -> None:
    """When nobody refers to the object any more, its guard sees that and releases."""
    mine = PlugQdisc.open(wire.device, netns=wire.near)
    hold = mine.hold()
    hold.__enter__()
    numbers = expect_held(wire, plug)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it is what is done here
        del mine, hold
        gc.collect()
    expect_flow(wire, numbers)


class _Interrupter:
    """Raises KeyboardInterrupt at the n-th line that is run of the hold's and the guard's own code.

    Not where CPython runs no signal handler: at a 'try:', and at a 'with', whose line is shown again when it is left.
    """

    def __init__(self, at: int) -> None:
        self.left = at
        self._files = {hold.__file__, guard.__file__}
        self.where = ""

    def __call__(self, frame, event, _arg):
        if frame.f_code.co_filename not in self._files:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and line != "try:" and not line.startswith("with "):
            self.left -= 1
            if self.left == 0:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def test_an_interrupt_at_any_line_of_hold_leaves_nothing_held(wire: Wire, plug: PlugQdisc) -> None:
    """Ctrl-C while the hold begins or ends: whatever line it hits, afterwards nothing is held and nobody holds."""
    other = PlugQdisc.open(wire.device, netns=wire.near)
    hits = []
    for at in range(1, 1000):
        interrupter = _Interrupter(at)
        numbers: list[int] = []
        interrupted = False
        try:
            sys.settrace(interrupter)
            with plug.hold(timeout=30):
                numbers = wire.send(1)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(None)
        where = f"interrupted at line {at}, {interrupter.where}"
        eventually(lambda: other.holder() is None, f"nobody holds, {where}", 2.0)
        numbers += wire.send(1)
        eventually(lambda: plug.stats().qlen == 0, f"nothing is held, {where}", 2.0)
        wire.expect(numbers)
        if not interrupted:
            break
        hits.append(interrupter.where)
    assert len(hits) > 50
    with other.hold():
        pass
    other.close()
    assert {where.split(":")[0] for where in hits} == {"hold.py", "client.py"}


def _delete_qdisc(wire: Wire) -> None:
    wire.near.tc(f"qdisc del dev {wire.device} root")


def _replace_by_fifo(wire: Wire) -> None:
    wire.near.tc(f"qdisc replace dev {wire.device} root handle 77: pfifo")


def _replace_by_fifo_of_the_same_handle(wire: Wire) -> None:
    _delete_qdisc(wire)
    wire.near.tc(f"qdisc add dev {wire.device} root handle 504c: pfifo")


def _replace_by_another_plug(wire: Wire) -> None:
    _delete_qdisc(wire)
    wire.near.tc(f"qdisc add dev {wire.device} root handle 77: plug limit 10000")


def _remove_device(wire: Wire) -> None:
    wire.near.ip(f"link del {wire.device}")


def _move_device(wire: Wire) -> None:
    wire.near.ip(f"link set {wire.device} netns {wire.far.path}")


_GONE = [
    (_delete_qdisc, QdiscNotFound, "plug"),
    (_replace_by_fifo, QdiscNotFound, "plug"),
    (_replace_by_fifo_of_the_same_handle, QdiscNotFound, "plug"),
    (_replace_by_another_plug, QdiscNotFound, "plug"),
    (_remove_device, DeviceNotFound, "No such device"),
    (_move_device, DeviceNotFound, "No such device"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), _GONE)
def test_a_release_that_is_impossible_is_raised(wire: Wire, plug: PlugQdisc, spoil, error, words: str) -> None:
    """The plug or the device goes during the hold: leaving raises at once and says so, and the mark is gone."""
    with pytest.raises(error, match=f"cannot release {wire.device}: .*{words}") as caught, plug.hold():
        wire.send(2)
        spoil(wire)
        left = time.monotonic()
    assert time.monotonic() - left < 2
    assert caught.value.operation == "release"
    assert marks(wire.near) == []


@pytest.mark.parametrize(("spoil", "error", "words"), _GONE)
def test_a_failed_release_is_chained_to_what_the_block_raised(
    wire: Wire, plug: PlugQdisc, spoil, error, words: str
) -> None:
    """Neither of the two is lost: the failed release is raised, the block's exception is its context."""
    fault = Fault()
    with pytest.raises(error, match=words) as caught, plug.hold():
        spoil(wire)
        raise fault
    chain = [caught.value]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    assert fault in chain


@pytest.mark.parametrize("spoil", [_delete_qdisc, _remove_device])
def test_the_loss_is_told_through_the_whole_nest(wire: Wire, spoil) -> None:
    """Leaving both the hold and attach()'s own block, the error still comes out, and nothing hangs."""
    with (
        pytest.raises(FileNotFoundError),
        libnlplug.attach(wire.device, netns=wire.near) as plug,
        plug.hold(),
    ):
        wire.send(1)
        spoil(wire)
    assert plug.closed


@pytest.mark.parametrize(("spoil", "error", "words"), _GONE)
def test_a_hold_of_what_is_gone_does_not_begin(wire: Wire, plug: PlugQdisc, spoil, error, words: str) -> None:
    """Entering says that it cannot buffer, and why; no mark is left."""
    spoil(wire)
    with pytest.raises(error, match=f"cannot buffer on {wire.device}: .*{words}"), plug.hold():
        pytest.fail("entered")
    eventually(lambda: marks(wire.near) == [], "no mark is left")


def kill_guard(plug: PlugQdisc) -> None:
    """Kill the guard of the hold that is on, and wait until it has gone."""
    pid = holder_of(plug).guard
    os.kill(pid, signal.SIGKILL)
    expect_ended(pid)


def test_a_failed_release_is_tried_again(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its guard, and with two releases that fail in passing, the third one releases; the guard is missed."""
    real, failures = plug.release_indefinite, [1, 2]

    def flaky() -> None:
        if failures:
            failures.pop()
            raise NetlinkError(None, "cannot release: it passes", "release", wire.device)
        real()

    monkeypatch.setattr(plug, "release_indefinite", flaky)
    with pytest.raises(GuardUnavailable, match="has gone"), plug.hold():
        numbers = expect_held(wire, plug)
        kill_guard(plug)
    assert failures == []
    expect_flow(wire, numbers)


def test_a_release_that_fails_for_good_is_raised(wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few tries the failure comes out; it is never passed over."""
    tries = []

    def failing() -> None:
        tries.append(1)
        raise NetlinkError(None, "cannot release: it lasts", "release", wire.device)

    monkeypatch.setattr(plug, "release_indefinite", failing)
    with pytest.raises(NetlinkError, match="it lasts"), plug.hold():
        numbers = wire.send(1)
        kill_guard(plug)
    assert len(tries) == hold.RELEASE_TRIES
    monkeypatch.undo()
    plug.release_indefinite()
    wire.expect(numbers)


def test_a_hold_without_its_guard_does_not_release_for_another(wire: Wire, plug: PlugQdisc) -> None:
    """The guard was killed and somebody else holds now: leaving does not end that hold, it says who holds."""
    with pytest.raises(PlugBusy, match="this hold's guard has gone") as caught, plug.hold():
        os.kill(holder_of(plug).guard, signal.SIGKILL)
        eventually(lambda: marks(wire.near) == [], "the mark goes with the guard")
        other = PlugQdisc.open(wire.device, netns=wire.near)
        second = other.hold()
        second.__enter__()
        numbers = expect_held(wire, plug)
    assert caught.value.pid == os.getpid()
    assert wire.arrived() == []
    second.__exit__(None, None, None)
    other.close()
    expect_flow(wire, numbers)


def test_a_stopped_guard_does_not_stop_the_release(
    wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving releases without a guard that does not answer, and says so; that one ends as soon as it may run."""
    monkeypatch.setattr(guard, "ANSWER_TIMEOUT", 1)
    with pytest.raises(GuardUnavailable, match="does not answer"), plug.hold():
        numbers = expect_held(wire, plug)
        guard_pid = holder_of(plug).guard
        os.kill(guard_pid, signal.SIGSTOP)
    expect_flow(wire, numbers)
    assert holder_of(plug).pid == os.getpid()
    os.kill(guard_pid, signal.SIGCONT)
    expect_ended(guard_pid)
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


def test_a_guard_that_does_not_answer_is_done_without(
    wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped guard that is asked to hold: nothing is held, and it ends as soon as it may run again."""
    monkeypatch.setattr(guard, "ANSWER_TIMEOUT", 1)
    with plug.hold():
        guard_pid = holder_of(plug).guard
    assert plug.holder() is None
    os.kill(guard_pid, signal.SIGSTOP)
    with pytest.raises(GuardUnavailable), plug.hold():
        pytest.fail("it holds")
    expect_flow(wire, [])
    os.kill(guard_pid, signal.SIGCONT)
    expect_ended(guard_pid)


# -- on_death="drop"


def _expect_dropped(wire: Wire, numbers: list[int]) -> None:
    """The plug is gone with what it held; what is sent afterwards flows."""
    eventually(lambda: wire.near.qdisc(wire.device)["kind"] != "plug", "the plug is deleted")
    later = wire.send(3)
    wire.expect(later)
    assert not set(numbers) & set(later)


def test_drop_on_death(wire: Wire, plug: PlugQdisc) -> None:
    """on_death='drop': the receiver never sees what was held when the holder was killed; the plug is deleted."""
    with holding(wire, on_death="drop") as holder:
        numbers = expect_held(wire, plug)
        holder.kill()
        _expect_dropped(wire, numbers)
    assert marks(wire.near) == []


def test_drop_on_expiry(wire: Wire) -> None:
    """on_death='drop' and an overstayed timeout: dropped as well, and HoldExpired says so, also through attach()."""
    with (
        pytest.raises(HoldExpired, match="deleted the plug with the packets in it"),
        libnlplug.attach(wire.device, netns=wire.near) as plug,
        plug.hold(timeout=0.2, on_death="drop"),
    ):
        numbers = expect_held(wire, plug)
        _expect_dropped(wire, numbers)


def test_drop_is_only_for_death(wire: Wire, plug: PlugQdisc) -> None:
    """With on_death='drop', a block that ends, also by an exception, releases; and so does closing the object in it."""
    with plug.hold(on_death="drop"):
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)
    with pytest.raises(Fault), plug.hold(timeout=5, on_death="drop"):
        numbers = expect_held(wire, plug)
        raise Fault
    expect_flow(wire, numbers)
    mine = PlugQdisc.open(wire.device, netns=wire.near)
    with mine.hold(timeout=30, on_death="drop"):
        numbers = expect_held(wire, plug)
        mine.close()
        expect_flow(wire, numbers)
    assert wire.near.qdisc(wire.device)["kind"] == "plug"


def test_drop_deletes_only_this_plug(wire: Wire, plug: PlugQdisc) -> None:
    """Another qdisc that has taken the plug's place during the hold is not deleted when the holder dies."""
    with holding(wire, on_death="drop") as holder:
        guard_pid = holder_of(plug).guard
        _replace_by_fifo_of_the_same_handle(wire)
        holder.kill()
        expect_ended(guard_pid)
    assert wire.near.qdisc(wire.device)["kind"] == "pfifo"
    expect_flow(wire, [])


# -- the device and its namespace


def _rename(wire: Wire) -> None:
    """Give the device another name, which some kernels allow only while it is down."""
    name = random_name()
    wire.near.ip(
        f"link set {wire.device} down",
        f"link set {wire.device} name {name}",
        *up(name, Wire.NEAR),
        f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {name} nud permanent",
    )


def test_a_renamed_device_is_released(wire: Wire, plug: PlugQdisc) -> None:
    """A device that gets another name during the hold is still the same one."""
    with warnings.catch_warnings(), plug.hold():
        warnings.simplefilter("ignore", PacketsUncounted)  # it was down for that
        _rename(wire)
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


def test_a_renamed_device_is_released_by_the_guard(wire: Wire, plug: PlugQdisc) -> None:
    """The guard, too, knows the device by its index."""
    with holding(wire) as holder:
        _rename(wire)
        numbers = expect_held(wire, plug)
        holder.kill()
        expect_flow(wire, numbers)
