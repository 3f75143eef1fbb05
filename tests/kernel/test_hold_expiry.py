# SPDX-License-Identifier: GPL-2.0-or-later
"""A hold that is longer than its timeout: its packets flow on time, whoever is to blame, and leaving it says so."""

from __future__ import annotations

import os
import signal
import time

import pytest

from libnlplug import HoldExpired, PlugQdisc
from tests.support.hold import Child, child, expect_flow, expect_held, holding, marks, wait_until
from tests.support.netlab import Wire, eventually


class Fault(Exception):
    """What a block raises here."""


def test_a_hold_that_overstays_is_released_on_time(wire: Wire, plug: PlugQdisc) -> None:
    """At the timeout the packets flow, with the block still running; leaving it raises HoldExpired, a TimeoutError."""
    began = time.monotonic()
    words = f"the hold of {wire.device} overstayed its timeout of 0.2 s"
    with pytest.raises(HoldExpired, match=words) as caught, plug.hold(timeout=0.2):
        numbers = expect_held(wire, plug)
        wire.expect(numbers)
        assert 0.2 <= time.monotonic() - began < 2
        assert marks(wire.near) == []
        expect_flow(wire, [])
    assert isinstance(caught.value, TimeoutError)
    assert plug.last_action == "release_indefinite"


def test_a_hold_within_its_timeout_does_not_expire(wire: Wire, plug: PlugQdisc) -> None:
    """A timeout that does not come is not noticed, also not by the hold after it."""
    with plug.hold(timeout=0.2):
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)
    began = time.monotonic()
    with plug.hold():
        numbers = expect_held(wire, plug)
        wait_until(began + 0.4)
        assert wire.arrived() == []
    expect_flow(wire, numbers)


def test_an_expiry_is_chained_to_what_the_block_raised(wire: Wire, plug: PlugQdisc) -> None:
    """HoldExpired is raised in any case; the block's exception is its context."""
    fault = Fault()
    with pytest.raises(HoldExpired) as caught, plug.hold(timeout=0.05):
        wire.expect(wire.send(1))
        raise fault
    assert caught.value.__context__ is fault


def test_a_late_exit_does_not_end_somebody_elses_hold(wire: Wire, plug: PlugQdisc) -> None:
    """The hold expired and another process holds now: leaving the block, and the object's own, releases nothing."""
    with (
        pytest.raises(HoldExpired),
        PlugQdisc.open(wire.device, netns=wire.near) as mine,
        mine.hold(timeout=0.05),
    ):
        wire.expect(wire.send(2))
        second = holding(wire)
        second.__enter__()
        numbers = expect_held(wire, plug)
    assert plug.stats().qlen == len(numbers)
    assert wire.arrived() == []
    second.__exit__(None, None, None)
    expect_flow(wire, numbers)


def test_a_late_exit_does_not_end_a_later_hold_of_the_same_object(wire: Wire, plug: PlugQdisc) -> None:
    """Two holds of one object, the first of which expired: each exit is about its own hold."""
    first, second = plug.hold(timeout=0.05), plug.hold()
    first.__enter__()
    wire.expect(wire.send(2))
    report = second.__enter__()
    numbers = expect_held(wire, plug)
    with pytest.raises(HoldExpired):
        first.__exit__(None, None, None)
    assert plug.stats().qlen == len(numbers)
    second.__exit__(None, None, None)
    assert (report.packets, report.expired) == (len(numbers), False)
    expect_flow(wire, numbers)


def test_an_expiry_that_could_not_release_says_so(wire: Wire, plug: PlugQdisc) -> None:
    """The device went before the time was up: HoldExpired does not claim that the guard released it."""
    with pytest.raises(HoldExpired, match="could not end it: No such device"), plug.hold(timeout=0.2):
        wire.near.ip(f"link del {wire.device}")
        eventually(lambda: marks(wire.near) == [], "the hold expires")


def test_a_stopped_holder_does_not_stop_the_expiry(wire: Wire, plug: PlugQdisc) -> None:
    """SIGSTOP past the timeout: the guard releases on time; the holder, continued, is told by HoldExpired."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        try:
            with mine.hold(timeout=0.5):
                this.say("held")
                os.kill(os.getpid(), signal.SIGSTOP)
        except HoldExpired:
            this.say("expired")

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        expect_flow(wire, numbers)
        holder.kill(signal.SIGCONT)
        assert holder.hear() == "expired"
