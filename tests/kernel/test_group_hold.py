# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugGroup.hold(): all devices or none, one guard for all of them, and the sums in the report."""

from __future__ import annotations

import os
import resource
import signal
import time

import pytest

import libnlplug
from libnlplug import (
    ClosedError,
    DeviceNotFound,
    GroupError,
    HoldExpired,
    PacketsDropped,
    PlugBusy,
    PlugGroup,
    PlugQdisc,
)
from tests.support.fleet import Fleet, fleet_of
from tests.support.hold import Child, child, expect_ended, wait_until
from tests.support.netlab import Netns, eventually, shrink, unable


@pytest.fixture
def fleet():
    """Five devices with a plug each."""
    with fleet_of(5) as made:
        yield made


def expect_released(fleet: Fleet) -> None:
    eventually(lambda: set(fleet.waiting()) == {0}, "all queues are empty")
    fleet.send(1)
    assert set(fleet.waiting()) == {0}


def test_all_are_held_and_the_sums_reported(fleet: Fleet) -> None:
    """Within the block every device holds, after it none does; packets and bytes are those of all together."""
    with PlugGroup(fleet.plugs) as group:
        for _ in range(3):
            with group.hold(timeout=5) as held:
                fleet.send(2)
                assert fleet.waiting() == [2] * 5
            expect_released(fleet)
            assert (held.packets, held.bytes, held.dropped) == (10, 10 * (50 + 42), 0)
            assert 0 < held.seconds < 5
            assert {plug.last_action for plug in fleet.plugs} == {"release_indefinite"}


def test_one_guard_for_all(fleet: Fleet) -> None:
    """A group's holds have one guard, which ends with close(); the plugs stay open."""
    group = PlugGroup(fleet.plugs)
    with group.hold():
        holders = {plug.holder().guard for plug in fleet.plugs}
        assert len(holders) == 1
        assert {plug.holder().pid for plug in fleet.plugs} == {os.getpid()}
    group.close()
    group.close()
    expect_ended(holders.pop())
    assert not any(plug.closed for plug in fleet.plugs)
    with pytest.raises(ClosedError, match="this group is closed"):
        group.buffer()
    with pytest.raises(ClosedError), group.hold():
        pytest.fail("it holds")


def test_closing_in_the_block_releases(fleet: Fleet) -> None:
    """close() ends a hold that is on, released."""
    group = PlugGroup(fleet.plugs)
    with group.hold():
        fleet.send(1)
        group.close()
        eventually(lambda: fleet.waiting() == [0] * 5, "all queues are empty")


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("on_death", ["release", "drop"])
def test_all_end_with_the_holder(fleet: Fleet, on_death: str, times: int) -> None:
    """A holder that is killed, in its first hold or a later one: the guard releases, or drops, every device."""

    def hold(this: Child) -> None:
        group = PlugGroup([PlugQdisc.open(device, netns=fleet.netns) for device in fleet.devices])
        for _ in range(times - 1):
            with group.hold():
                pass
        with group.hold(on_death=on_death):
            fleet.send(1)
            this.say(group._guard.pid)
            signal.pause()

    with child(hold) as holder:
        guard = holder.hear()
        assert fleet.waiting() == [1] * 5
        holder.kill()
        expect_ended(guard)
    if on_death == "drop":
        assert [fleet.netns.qdiscs(device)[0]["kind"] for device in fleet.devices] == ["noqueue"] * 5
    else:
        expect_released(fleet)


def test_all_expire(fleet: Fleet) -> None:
    """When the time is up the guard releases every device, and leaving says so."""
    group = PlugGroup(fleet.plugs)
    for _ in range(2):
        with pytest.raises(HoldExpired, match="and 4 more overstayed"), group.hold(timeout=0.05):
            fleet.send(1)
            eventually(lambda: fleet.waiting() == [0] * 5, "all queues are empty")
            wait_until(time.monotonic() + 0.05)
        assert {plug.last_action for plug in fleet.plugs} == {"release_indefinite"}
    group.close()


def test_a_plug_that_is_held_alone_keeps_the_group_from_holding(fleet: Fleet) -> None:
    """PlugBusy names the device and the pid, and none of the others is held; and the other way round."""
    group = PlugGroup(fleet.plugs)
    with PlugQdisc.open(fleet.devices[3], netns=fleet.netns) as other:
        with other.hold():
            with pytest.raises(PlugBusy, match=fleet.devices[3]) as refused, group.hold():
                pytest.fail("it holds")
            assert refused.value.pid == os.getpid()
            fleet.send(1)
            assert fleet.waiting() == [0, 0, 0, 1, 0]
        with group.hold():
            with pytest.raises(PlugBusy), other.hold():
                pytest.fail("two hold")
        with other.hold():
            pass
        with group.hold():
            fleet.send(1)
            assert min(fleet.waiting()) == 1
    expect_released(fleet)
    group.close()


def test_a_group_that_cannot_hold_all_holds_none(fleet: Fleet) -> None:
    """A device that is gone: entering raises GroupError, which names it, and the others are released."""
    group = PlugGroup(fleet.plugs)
    lost = fleet.plugs[2]
    fleet.remove(2)
    with pytest.raises(GroupError, match="buffer on") as caught, group.hold():
        pytest.fail("it holds")
    assert list(caught.value.failures) == [lost]
    eventually(lambda: fleet.waiting() == [0] * 4, "the others are released")
    assert all(plug.holder() is None for plug in fleet.plugs)
    group.close()


@pytest.mark.parametrize("times", [1, 3])
def test_a_device_that_goes_in_the_block_is_named(fleet: Fleet, times: int) -> None:
    """Leaving releases the others and says which device could not be."""
    group = PlugGroup(fleet.plugs)
    for _ in range(times - 1):
        with group.hold():
            pass
    lost = fleet.plugs[1]
    with pytest.raises(GroupError) as caught, group.hold() as held:
        fleet.send(1)
        fleet.remove(1)
    assert {plug: type(error) for plug, error in caught.value.failures.items()} == {lost: DeviceNotFound}
    assert held.expired is False
    eventually(lambda: fleet.waiting() == [0] * 4, "the others are released")
    assert all(plug.holder() is None for plug in fleet.plugs)
    group.close()


def test_drops_are_summed_and_no_limit_is_guessed(fleet: Fleet) -> None:
    """What found a plug full is counted and warned of; which limit would have done cannot be told from sums."""
    for plug in fleet.plugs[:2]:
        shrink(fleet.netns, plug.device)
        plug.set_limit(100)
    group = PlugGroup(fleet.plugs)
    with pytest.warns(PacketsDropped, match="larger limit"), group.hold() as held:
        fleet.send(3)
    assert (held.packets, held.dropped, held.limit_needed) == (2 + 9, 4, None)
    group.close()


def test_more_plugs_than_a_process_usually_has_descriptors(netns: Netns) -> None:
    """A hold of 300 plugs by a process that may have 256 descriptors by then: its guard has as many marks."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual[1] < 512:
        unable("this process may not have 512 descriptors")
    netns.ip(*(f"link add t{number} type dummy" for number in range(300)))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, usual[1]))
        plugs = netns.run(lambda: [libnlplug.attach(f"t{number}") for number in range(300)])
        group = PlugGroup(plugs)
        for plug in plugs[1:]:
            plug.close()  # which does not matter to the group
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, usual[1]))
        for _ in range(2):
            with group.hold(timeout=30) as held:
                assert plugs[0].holder().guard == group._guard.pid
            assert (held.packets, held.expired) == (0, False)
        group.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
