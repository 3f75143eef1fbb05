# SPDX-License-Identifier: GPL-2.0-or-later
"""HoldReport: what was held, for how long, and what was dropped, counted by the kernel."""

from __future__ import annotations

import time
import warnings

import pytest

from libnlplug import HoldExpired, PacketsDropped, PlugQdisc
from libnlplug.hold import PacketsUncounted
from tests.support.hold import expect_flow, wait_until
from tests.support.netlab import FRAME, Wire


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    """A warning of drops that a test does not ask for is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PacketsDropped)
        yield


@pytest.mark.parametrize(("count", "frame"), [(0, FRAME), (1, 60), (100, FRAME), (17, 1514)])
def test_packets_and_bytes_are_those_that_were_held(wire: Wire, plug: PlugQdisc, count: int, frame: int) -> None:
    """The report says exactly how many packets and bytes, link headers included, waited; nothing was dropped."""
    wire.expect(wire.send(4))
    with plug.hold() as held:
        assert (held.packets, held.bytes, held.dropped, held.seconds) == (None, None, None, None)
        numbers = wire.send(count, frame=frame)
    assert (held.packets, held.bytes, held.dropped) == (count, count * frame, 0)
    assert (held.limit_needed, held.expired) == (None, False)
    expect_flow(wire, numbers)


def test_seconds_is_how_long_it_held(wire: Wire, plug: PlugQdisc) -> None:
    """The time in the block is within the report's seconds, and they are within the time around the block."""
    began = time.monotonic()
    with plug.hold() as held:
        inside = time.monotonic()
        wait_until(inside + 0.1)
        inside = time.monotonic() - inside
    assert held.seconds is not None
    assert inside <= held.seconds <= time.monotonic() - began


def test_what_found_the_plug_full_is_counted_and_warned_of(wire: Wire, plug: PlugQdisc) -> None:
    """Packets beyond the limit are the report's dropped, and a warning says how many and where."""
    wire.shrink()
    plug.set_limit(10 * FRAME)
    words = r"25 packets were dropped .* a limit of \d+ bytes would have been enough"
    with pytest.warns(PacketsDropped, match=words) as caught, plug.hold() as held:
        numbers = wire.send(35)
    assert [warning.filename for warning in caught] == [__file__]
    assert (held.packets, held.bytes, held.dropped) == (10, 10 * FRAME, 25)
    assert wire.near.qdisc(wire.device)["drops"] == 25
    expect_flow(wire, numbers[:10])


def test_the_limit_that_is_said_to_be_needed_is_enough(wire: Wire, plug: PlugQdisc) -> None:
    """The same packets again, with limit_needed as the limit: none is dropped, although those that were dropped before
    were larger than those that were held."""
    wire.near.tc(f"qdisc change dev {wire.device} root handle {plug.handle} plug limit {7 * FRAME}")
    with pytest.warns(PacketsDropped), plug.hold() as held:
        first = wire.send(7)
        wire.send(53, frame=1400)
    assert held.limit_needed is not None
    wire.expect(first)

    plug.set_limit(held.limit_needed)
    with plug.hold() as again:
        numbers = wire.send(7) + wire.send(53, frame=1400)
    assert (again.packets, again.dropped, again.limit_needed) == (60, 0, None)
    wire.expect(numbers)


def test_a_large_send_of_tcp_fits_into_the_limit_that_is_needed(wire: Wire, plug: PlugQdisc) -> None:
    """Packets of which segments are made later (GSO) are far larger than the MTU, and may be what was dropped."""
    assert plug.limit_for(100, 2) >= 100 + 2 * 65536
    assert plug.limit_for(0, 1 << 20) is None


def test_drops_before_the_hold_are_not_the_holds(wire: Wire, plug: PlugQdisc) -> None:
    """The drop counter goes on through a plug's life; a report tells only of its own hold."""
    wire.shrink()
    plug.set_limit(2 * FRAME)
    plug.buffer()
    wire.send(9)
    assert plug.stats().drops == 7
    plug.release_indefinite()
    wire.expect([0, 1])
    with plug.hold() as held:
        numbers = wire.send(2)
    assert (held.packets, held.dropped) == (2, 0)
    wire.expect(numbers)


def test_a_limit_below_one_packet_drops_all(wire: Wire, plug: PlugQdisc) -> None:
    """Where no packet fits, the number of drops is told, and a limit that has room for them."""
    wire.near.tc(f"qdisc change dev {wire.device} root handle {plug.handle} plug limit {FRAME - 1}")
    with pytest.warns(PacketsDropped, match="3 packets were dropped .*: a limit of "), plug.hold() as held:
        wire.send(3)
    assert (held.packets, held.bytes, held.dropped) == (0, 0, 3)
    assert held.limit_needed >= 3 * FRAME


def test_after_an_expiry_only_the_time_is_known(wire: Wire, plug: PlugQdisc) -> None:
    """What was in the plug when the guard released it, nobody counted: the report says None, not a guess."""
    began = time.monotonic()
    with pytest.raises(HoldExpired), plug.hold(timeout=0.05) as held:
        numbers = wire.send(3)
        wire.expect(numbers)
    assert (held.packets, held.bytes, held.dropped, held.limit_needed, held.expired) == (None, None, None, None, True)
    assert held.seconds is not None
    assert 0.05 <= held.seconds <= time.monotonic() - began


def test_a_report_is_not_made_up_where_the_plug_cannot_be_read(wire: Wire, plug: PlugQdisc) -> None:
    """An object that was closed in the block was released by its guard; the report then knows no numbers."""
    with plug.hold() as held:
        numbers = wire.send(3)
        plug.close()
    assert (held.packets, held.bytes, held.dropped, held.expired) == (None, None, None, False)
    expect_flow(wire, numbers)


def test_drops_of_another_plug_are_not_counted_backwards(wire: Wire, plug: PlugQdisc) -> None:
    """Somebody puts another plug with the same handle in the place of one that had dropped: nothing is known then."""
    wire.shrink()
    plug.set_limit(FRAME)
    with pytest.warns(PacketsDropped), plug.hold() as first:
        numbers = wire.send(5)
    wire.expect(numbers[: first.packets])
    with pytest.warns(PacketsUncounted, match="was deleted or replaced during the hold"), plug.hold() as held:
        wire.near.tc(f"qdisc del dev {wire.device} root")
        wire.near.tc(f"qdisc add dev {wire.device} root handle {plug.handle} plug limit 1000000")
    assert (held.packets, held.bytes, held.dropped) == (None, None, None)
    expect_flow(wire, [])
