# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose lane it is: kept, alive or an orphan; adopted and not doubled; cleaned up when nobody's, and only then."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import libnlplug.lane.create
import libnlplug.lane.filters
import libnlplug.lane.lock
from libnlplug import Match, PlugBusy, PlugLane, QdiscNotFound
from tests.support.hold import Child, child
from tests.support.lane import TCP, UDP, Sight, delete, having, listed, marks, states, tc
from tests.support.netlab import Wire


def test_kept_alive_and_orphan_are_told_apart(wire: Wire) -> None:
    """A kept lane, one of a living process, here or elsewhere, and one whose process was killed."""
    PlugLane.keep(wire.device, TCP, netns=wire.near).close()
    with child(having, wire) as other:
        assert other.hear() is True
        mine = PlugLane(wire.device, Match(ip_proto="icmp"), netns=wire.near)
        assert states(wire) == [
            ("ip_proto=tcp", "kept", None),
            (str(UDP), "alive", other.pid),
            ("ip_proto=icmp", "alive", os.getpid()),
        ]
        other.kill()
        other.status()
        assert states(wire)[1] == (str(UDP), "orphan", None)
        mine.close()
    assert delete(wire) == ["ip_proto=tcp", str(UDP)]
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_an_orphan_lets_packets_flow_and_is_cleaned_by_the_next_lane(wire: Wire) -> None:
    """A killed process's lane, which it was holding: the guard releases; the next lane, for other packets, cleans."""
    before = Sight(wire.near, wire.device)
    with child(having, wire, True) as holder:
        assert holder.hear() is True
        numbers = wire.send(5)
        assert wire.arrived() == []
        holder.kill()
        holder.status()
    wire.expect(numbers + wire.send(3))
    assert [state for _, state, _ in states(wire)] == ["orphan"]
    with PlugLane(wire.device, TCP, netns=wire.near):
        assert [state for _, state, _ in states(wire)] == ["alive"]
        wire.expect(wire.send(3))
    before.expect(Sight(wire.near, wire.device))


def test_every_orphan_is_cleaned(wire: Wire) -> None:
    """One new lane cleans up all orphans of its device, on both hooks, and takes the first slot."""
    before = Sight(wire.near, wire.device)

    def make(this: Child) -> None:
        for number in range(4):
            match = Match(ip_proto=100 + number)
            PlugLane(wire.device, match, ingress=number % 2 == 0, netns=wire.near)
        this.say("made")
        signal.pause()

    with child(make) as maker:
        maker.hear()
    assert [state for _, state, _ in states(wire)] == ["orphan"] * 4
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        assert [found.slot for found in listed(wire.near, wire.device)] == [0]
        assert lane.ifb.endswith("-0")
    before.expect(Sight(wire.near, wire.device))


def test_orphans_of_a_device_that_is_gone(wire: Wire) -> None:
    """What is left of the lanes of a device that was deleted, kept ones too, goes with the next lane of any device."""
    wire.near.ip("link add gone type dummy")
    PlugLane.keep("gone", TCP, netns=wire.near).close()
    alive = PlugLane("gone", Match(ip_proto="icmp"), netns=wire.near)
    with child(lambda this: (PlugLane("gone", UDP, netns=wire.near), this.say(1), signal.pause())) as maker:
        maker.hear()
    wire.near.ip("link del gone")
    assert len([link for link in wire.near.links() if link["ifname"].startswith("plug")]) == 3
    PlugLane(wire.device, UDP, netns=wire.near).close()
    assert [link["ifname"] for link in wire.near.links() if link["ifname"].startswith("plug")] == [alive.ifb]
    alive.close()


def test_a_lane_that_is_alive_elsewhere_is_adopted(wire: Wire) -> None:
    """The same device, hook and match: the same ifb, held by whoever comes first; it stays when the adopter closes."""
    wire.shrink()
    with child(having, wire) as owner:
        owner.hear()
        with PlugLane(wire.device, UDP, netns=wire.near) as lane:
            assert not lane.created
            assert lane.plug.limit is None
            assert states(wire) == [(str(UDP), "alive", owner.pid)]
            with lane.hold(), PlugLane(wire.device, UDP, limit=300, netns=wire.near) as third:
                numbers = wire.send(3)
                assert lane.plug.stats().qlen == 3
                with pytest.raises(PlugBusy) as caught, third.hold():
                    pass
                assert caught.value.pid == os.getpid()
            wire.expect(numbers)
        assert [state for _, state, _ in states(wire)] == ["alive"]
    assert delete(wire) == [str(UDP)]


def test_a_given_limit_is_set_on_an_adopted_lane(wire: Wire) -> None:
    """An adopter's limit replaces the maker's; without one nothing is sent to the plug."""
    wire.shrink()
    with PlugLane(wire.device, UDP, limit=300, netns=wire.near) as lane:
        lane.plug.buffer()
        with PlugLane(wire.device, UDP, netns=wire.near):
            wire.send(5)
            assert lane.plug.stats().qlen == 3  # still held, still limited
        with PlugLane(wire.device, UDP, limit=500, netns=wire.near):
            wire.send(5)
            assert lane.plug.stats().qlen == 5
        lane.plug.release_indefinite()
        wire.expect([0, 1, 2, 5, 6])


def test_an_adopter_releases_what_it_holds(wire: Wire) -> None:
    """Closing an adopted lane whose last word from this object was buffer releases it, and leaves it there."""
    with PlugLane(wire.device, UDP, netns=wire.near):
        adopter = PlugLane(wire.device, UDP, netns=wire.near)
        adopter.plug.buffer()
        numbers = wire.send(3)
        adopter.close()
        wire.expect(numbers + wire.send(3))
        assert len(states(wire)) == 1


def test_an_adopter_whose_lane_was_closed_is_told(wire: Wire) -> None:
    """The owner closes the lane: the adopter's next hold is refused in a sentence that says so, and nothing is held."""
    owner = PlugLane(wire.device, UDP, netns=wire.near)
    adopter = PlugLane(wire.device, UDP, netns=wire.near)
    with adopter.hold():
        with pytest.raises(PlugBusy) as caught:
            owner.close()
        assert caught.value.pid == os.getpid()
        assert not owner.closed
        numbers = wire.send(3)
    wire.expect(numbers)
    owner.close()
    sentence = f"cannot hold the lane of {wire.device}: it is gone: whoever made it has closed it, or .*; make it again"
    with pytest.raises(QdiscNotFound, match=sentence), adopter.hold():
        pytest.fail("it held")
    wire.expect(wire.send(3))
    adopter.close()
    with PlugLane(wire.device, UDP, netns=wire.near) as again:
        assert again.created


def test_an_adopter_inherits_from_a_process_that_died(wire: Wire) -> None:
    """The owner is killed: the adopter's next hold makes the lane its own, which no other lane cleans up then."""
    before = Sight(wire.near, wire.device)
    with child(having, wire) as owner:
        owner.hear()
        adopter = PlugLane(wire.device, UDP, netns=wire.near)
    assert states(wire) == [(str(UDP), "orphan", None)]
    with adopter.hold():
        assert states(wire) == [(str(UDP), "alive", os.getpid())]
        numbers = wire.send(3)
        PlugLane(wire.device, TCP, netns=wire.near).close()
        assert wire.arrived() == []
    wire.expect(numbers)
    adopter.close()
    before.expect(Sight(wire.near, wire.device))


def test_an_orphan_that_somebody_holds_is_left_to_them(wire: Wire) -> None:
    """The owner is killed while an adopter holds: a lane for other packets is made, and the hold goes on as before."""
    with child(having, wire) as owner:
        owner.hear()
        adopter = PlugLane(wire.device, UDP, netns=wire.near)
        hold = adopter.hold()
        hold.__enter__()
    numbers = wire.send(3)
    with PlugLane(wire.device, TCP, netns=wire.near) as other:
        assert other.created
        assert wire.arrived() == []
    hold.__exit__(None, None, None)
    wire.expect(numbers)
    adopter.close()
    assert delete(wire) == [str(UDP)]


def test_a_kept_lane_is_adopted_and_stays(wire: Wire) -> None:
    """keep() makes a lane that outlives objects and processes; it is adopted, also by keep(), until it is deleted."""
    lane = PlugLane.keep(wire.device, UDP, netns=wire.near)
    assert lane.created
    lane.close()
    assert marks(wire.near) == []
    for make in (PlugLane, PlugLane.keep, PlugLane):
        with make(wire.device, UDP, netns=wire.near) as adopted, adopted.hold():
            assert not adopted.created
            numbers = wire.send(3)
            assert adopted.plug.stats().qlen == 3
        wire.expect(numbers)
        assert states(wire) == [(str(UDP), "kept", None)]
    assert delete(wire, UDP) == [str(UDP)]
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_keep_makes_a_living_lane_stay(wire: Wire) -> None:
    """keep() for packets that another process has a lane for: that lane stays then when its process closes it."""
    owner = PlugLane(wire.device, UDP, netns=wire.near)
    PlugLane.keep(wire.device, UDP, netns=wire.near).close()
    owner.plug.buffer()
    numbers = wire.send(3)
    owner.close()
    assert states(wire) == [(str(UDP), "kept", None)]
    wire.expect(numbers + wire.send(3))
    assert delete(wire) == [str(UDP)]


def test_deleting_is_refused_while_a_process_has_or_holds_the_lane(wire: Wire) -> None:
    """A lane of a living process, or a kept one that is being held, is not deleted, and neither is any other then."""
    PlugLane.keep(wire.device, TCP, netns=wire.near).close()
    with child(having, wire) as owner:
        owner.hear()
        with pytest.raises(PlugBusy, match=f"process {owner.pid} uses the one on") as caught:
            delete(wire)
        assert caught.value.pid == owner.pid
        assert len(states(wire)) == 2
    with PlugLane(wire.device, TCP, netns=wire.near) as kept, kept.hold():
        with pytest.raises(PlugBusy, match=f"process {os.getpid()} holds it"):
            delete(wire)
        assert [state for _, state, _ in states(wire)] == ["kept"]
    assert delete(wire, UDP) == []
    assert delete(wire, TCP, ingress=True) == []
    assert delete(wire, TCP, ingress=False) == ["ip_proto=tcp"]


@pytest.mark.parametrize(
    "damage",
    ["filter del dev {device} egress", "qdisc del dev {device} clsact", "qdisc del dev {ifb} root", "down", "gone"],
)
def test_a_lane_that_was_damaged_is_not_adopted(wire: Wire, damage: str) -> None:
    """A kept lane that can hold no longer is an orphan, and replaced; one of a living process is a clear refusal."""

    def harm(lane: PlugLane) -> None:
        if damage in ("down", "gone"):
            wire.near.ip(f"link set {lane.ifb} down" if damage == "down" else f"link del {lane.ifb}")
        else:
            tc(wire.near, damage.format(device=wire.device, ifb=lane.ifb))

    kept = PlugLane.keep(wire.device, UDP, netns=wire.near)
    harm(kept)
    wanted = {"down": ["drops"], "gone": ["drops"], "qdisc del dev {device} clsact": ["orphan"]}
    assert [state for _, state, _ in states(wire)] == wanted.get(damage, ["orphan"])
    with PlugLane(wire.device, UDP, netns=wire.near) as lane, lane.hold():
        assert lane.created
        numbers = wire.send(3)
        assert lane.plug.stats().qlen == 3
    wire.expect(numbers)

    with child(having, wire) as owner:
        owner.hear()
        harm(PlugLane(wire.device, UDP, netns=wire.near))
        if damage != "gone":  # what is gone leaves nothing that could be adopted
            with pytest.raises(PlugBusy, match=f"process {owner.pid} has a lane for the same packets that can no long"):
                PlugLane(wire.device, UDP, netns=wire.near)
    with PlugLane(wire.device, UDP, netns=wire.near):
        wire.expect(wire.send(3))


def test_eight_processes_at_the_same_moment(wire: Wire) -> None:
    """Eight processes that make the same lane at once make one: a single one creates it, the others adopt it."""
    for _ in range(2):
        ready, go = os.pipe()

        def race(this: Child, go: int = go, ready: int = ready) -> None:
            os.close(go)
            os.read(ready, 1)  # all of them see its end at once
            lane = PlugLane(wire.device, UDP, netns=wire.near)
            this.say([lane.created, lane.ifb])
            signal.pause()

        racers = [Child(race) for _ in range(8)]
        os.close(go)
        os.close(ready)
        told = [racer.hear() for racer in racers]
        assert sum(created for created, _ in told) == 1
        assert len({ifb for _, ifb in told}) == 1
        assert len(states(wire)) == 1
        for racer in racers:
            racer.close()
    assert delete(wire) == [str(UDP)]
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_processes_that_come_and_go(wire: Wire) -> None:
    """Processes make, hold and close lanes of their own, again and again: none fails, nothing is left."""
    before = Sight(wire.near, wire.device)

    def work(this: Child, number: int) -> None:
        for turn in range(4):
            with PlugLane(wire.device, Match(ip_proto=100 + number), netns=wire.near) as lane, lane.hold():
                pass
            this.say(turn)  # the test waits 10 s for each: on a busy machine all of them may take longer

    workers = [Child(work, number) for number in range(4)]
    for turn in range(4):
        assert [worker.hear() for worker in workers] == [turn] * len(workers)
    for worker in workers:
        assert worker.status() == 0
        worker.close()
    before.expect(Sight(wire.near, wire.device))


def test_threads_of_one_process(wire: Wire) -> None:
    """Threads that make the same lane at once share it as processes do."""
    made: list[PlugLane] = []
    threads = [
        threading.Thread(target=lambda: made.append(PlugLane(wire.device, UDP, netns=wire.near))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lane.created for lane in made) == [False] * 5 + [True]
    assert len(states(wire)) == 1
    for lane in sorted(made, key=lambda lane: lane.created):
        lane.close()
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


@pytest.mark.parametrize("forgets", [True, False])
def test_a_forked_child_keeps_no_lane_alive(wire: Wire, forgets: bool) -> None:
    """A child that outlives the process of a lane does not keep its mark, whether it closes its copy of the object or
    never heard of it; in a child the lane can only be forgotten."""

    def work(this: Child) -> None:
        lane = PlugLane(wire.device, UDP, netns=wire.near)

        def grandchild(other: Child) -> None:
            if forgets:
                with pytest.raises(libnlplug.ForkedError), lane.hold():
                    pass
                lane.close()
            this.say(os.getpid())
            signal.pause()

        Child(grandchild)
        signal.pause()

    with child(work) as parent:
        left = parent.hear()
        try:
            assert states(wire) == [(str(UDP), "alive", parent.pid)]
            parent.kill()
            parent.status()
            assert os.path.exists(f"/proc/{left}")
            assert states(wire) == [(str(UDP), "orphan", None)]
        finally:
            os.kill(left, signal.SIGKILL)
    assert delete(wire) == [str(UDP)]
