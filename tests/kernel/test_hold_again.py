# SPDX-License-Identifier: GPL-2.0-or-later
"""The second hold of an object and all later ones: two questions to the same guard, and as safe as the first."""

from __future__ import annotations

import os
import signal
import time

import pytest

from libnlplug import HoldExpired, PlugBusy, PlugQdisc
from tests.support.hold import Child, child, expect_ended, expect_flow, expect_held, holder_of, wait_until
from tests.support.netlab import Wire, eventually, in_thread
from tests.support.trace import counts, traced

TIMES = 5  # of a hold, of which the last one is looked at


def held_before(plug: PlugQdisc) -> PlugQdisc:
    """An object whose guard is there, from earlier holds."""
    for _ in range(TIMES - 1):
        with plug.hold(timeout=5):
            pass
    return plug


def test_it_costs_two_questions(wire: Wire, tmp_path) -> None:
    """A later hold: the holder sees that its guard is there, and asks it twice; the guard sends twice to the kernel."""
    script = f"""
plug = libnlplug.attach(device)
for number in range({TIMES}):
    mark(f"hold{{number}}")
    with plug.hold(timeout=5):
        pass
mark("end")
plug.close()
"""
    after = traced(wire.near, script, wire.device, tmp_path)
    started = counts(after["hold0"])
    assert (started["clone"], started["vfork"]) == (1, 1)
    for name in ("hold2", "hold3"):
        lines = [line for line in after[name] if "resumed>" not in line]
        to_the_kernel = [line for line in lines if "sendto(" in line and "RTM_NEWQDISC" in line]
        assert len(to_the_kernel) == 2
        first = min(int(line.split()[0]) for line in lines)  # the holder, which was there before its guard
        holder = counts([line for line in lines if int(line.split()[0]) == first])
        del holder["openat"], holder["newfstatat"]  # Python's, of a module that is used for the first time
        assert holder == {"sendto": 2, "recvfrom": 3}


@pytest.mark.parametrize("timeout", [0.003, 0.05])
def test_it_expires_on_time(wire: Wire, plug: PlugQdisc, timeout: float) -> None:
    """The guard releases when the time is up, and leaving says so."""
    held_before(plug)
    with pytest.raises(HoldExpired), plug.hold(timeout=timeout) as held:
        numbers = wire.send(2)
        wire.expect(numbers)
        wait_until(time.monotonic() + 0.02)
    assert held.expired
    with plug.hold(timeout=5):
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


@pytest.mark.parametrize("moment", ["at once", "later"])
@pytest.mark.parametrize("on_death", ["release", "drop"])
def test_it_ends_with_the_holder(wire: Wire, plug: PlugQdisc, on_death: str, moment: str) -> None:
    """A holder that is killed in a later hold: the guard releases or drops, and ends; the plug can be held again."""

    def hold(this: Child) -> None:
        mine = held_before(PlugQdisc.open(wire.device, netns=wire.near))
        with mine.hold(on_death=on_death):
            wire.send(2)
            this.say(mine._guard.pid)
            signal.pause()

    with child(hold) as holder:
        guard = holder.hear()
        if moment == "later":
            assert holder_of(plug).pid == holder.pid
            time.sleep(0.05)
        holder.kill()
        expect_ended(guard)
    if on_death == "drop":
        assert wire.near.kinds(wire.device) == ["noqueue"]
        assert wire.arrived() == []
        return
    expect_flow(wire, [0, 1])
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


def test_objects_take_turns(wire: Wire, plug: PlugQdisc) -> None:
    """Between its holds an object is in nobody's way, and each of two in turn can hold, with the right refusals."""
    with PlugQdisc.open(wire.device, netns=wire.near) as other:
        for _ in range(3):
            for first, second in ((plug, other), (other, plug)):
                held_before(first)
                with first.hold():
                    numbers = expect_held(wire, plug)
                    with pytest.raises(PlugBusy) as refused, second.hold():
                        pytest.fail("two hold")
                    assert refused.value.pid == os.getpid()
                    assert holder_of(plug).guard == first._guard.pid
                expect_flow(wire, numbers)


def test_a_dead_guard_is_replaced(wire: Wire, plug: PlugQdisc) -> None:
    """A guard that was killed between two holds is missed by the next one, which gets a new guard."""
    for _ in range(3):
        guard = held_before(plug)._guard.pid
        os.kill(guard, signal.SIGKILL)
        expect_ended(guard)
        with plug.hold():
            numbers = expect_held(wire, plug)
            assert holder_of(plug).guard == plug._guard.pid != guard
        expect_flow(wire, numbers)


def test_a_late_leaver_does_not_end_a_later_hold(wire: Wire, plug: PlugQdisc) -> None:
    """A hold that has expired is left while a later one of the same object is on: that one goes on."""
    held_before(plug)
    expired = plug.hold(timeout=0.01)
    expired.__enter__()
    eventually(lambda: plug.holder() is None, "it expires")
    for again in (plug.hold(), plug.hold()):
        with again:
            numbers = expect_held(wire, plug)
            with pytest.raises(HoldExpired):
                expired.__exit__(None, None, None)
            numbers += expect_held(wire, plug)
            assert wire.arrived() == []
        expect_flow(wire, numbers)


def test_threads_take_turns(wire: Wire, plug: PlugQdisc) -> None:
    """A hold of the same object from another thread is refused while one is on, and leaves that one alone."""
    held_before(plug)
    with plug.hold():
        for _ in range(20):
            with pytest.raises(PlugBusy):
                in_thread(plug.hold().__enter__)
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)
    with plug.hold() as held:
        wire.send(1)
    assert (held.packets, held.dropped, held.expired) == (1, 0, False)
