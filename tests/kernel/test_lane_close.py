# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a lane: what it holds is released and gone before it goes, whatever has become of device and ifb."""

from __future__ import annotations

import errno
import socket

import pytest

from libnlplug import DeviceNotFound, Match, NotDrained, NotPermitted, PlugBusy, PlugLane, PlugQdisc, QdiscNotFound
from libnlplug.hold import end_detached
from tests.support.hold import child, expect_ended
from tests.support.lane import UDP, Sight, having, listed, marks, tc, tc_filters
from tests.support.netlab import Wire, eventually, random_name, unprivileged
from tests.support.road import Flow, Road, veth

HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])


@pytest.fixture
def road():
    """A veth pair."""
    with veth() as made:
        yield made


def ifbs(netns) -> list[str]:
    return [link["ifname"] for link in netns.links() if link["ifname"].startswith("plug")]


@HOOKS
@pytest.mark.parametrize("clsact", [False, True])
def test_what_is_held_arrives_before_the_lane_goes(road: Road, ingress: bool, clsact: bool) -> None:
    """close() of a lane that holds 300 packets: all arrive, in order, none twice, and nothing of the lane is left."""
    if clsact:
        road.near.tc(f"qdisc add dev {road.device} clsact")
    before, flow = Sight(road.near, road.device), road.flow(ingress)
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    lane.plug.buffer()
    numbers = flow.expect_held(lane, 300)
    lane.close()
    flow.expect(numbers)
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


def test_leaving_with_closes(wire: Wire) -> None:
    """Leaving the block closes the lane, also after an exception, which comes out as it is."""

    def fail() -> None:
        with PlugLane(wire.device, UDP, netns=wire.near) as lane:
            lane.plug.buffer()
            wire.send(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    wire.expect([0, 1, 2])
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_a_plug_that_is_buffered_again_and_again_is_not_thrown_away(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody buffers the plug right after close() released it: NotDrained with the count; the lane stays whole."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    somebody = PlugQdisc.open(lane.ifb, netns=wire.near)
    release = PlugQdisc.release_indefinite

    def interfere(self: PlugQdisc) -> None:
        release(self)
        somebody.buffer()
        wire.send(3)

    with monkeypatch.context() as patch:
        patch.setattr(PlugQdisc, "release_indefinite", interfere)
        with pytest.raises(NotDrained, match="3 released packets have not left plug.* the lane stays, rel") as caught:
            lane.close(timeout=0.05)
    assert caught.value.errno == errno.ETIMEDOUT
    assert not lane.closed
    assert [found.state for found in listed(wire.near, wire.device)] == ["alive"]
    wire.send(2)
    assert lane.plug.stats().qlen == 5
    lane.close()
    wire.expect([0, 1, 2, 3, 4])
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]
    assert marks(wire.near) == []


def test_packets_that_never_end_do_not_keep_a_lane(wire: Wire) -> None:
    """What comes in after the release is not waited for: a lane closes in the midst of its traffic."""
    road = Road("veth")
    road.near.tc(f"qdisc add dev {road.device} clsact")
    with road.leaving.running():
        for _ in range(5):
            lane = PlugLane(road.device, UDP, netns=road.near)
            lane.plug.buffer()
            eventually(lambda lane=lane: lane.plug.stats().qlen > 5, "packets wait")
            lane.close(timeout=2)
    road.close()


def test_a_lane_that_somebody_holds_is_not_closed(wire: Wire) -> None:
    """While an adopter in another process holds, close() raises PlugBusy with its pid; the hold goes on."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    with child(having, wire, True) as holder:
        assert holder.hear() is False
        numbers = wire.send(3)
        with pytest.raises(PlugBusy, match=f"close the lane on {lane.ifb}: process {holder.pid} holds it") as caught:
            lane.close()
        assert caught.value.pid == holder.pid
        assert lane.plug.stats().qlen == 3
    wire.expect(numbers)
    eventually(lambda: lane.plug.holder() is None, "the guard has ended")
    lane.close()
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_a_lane_with_a_hold_until_a_deadline_is_not_closed(wire: Wire) -> None:
    """A hold that goes on without its process (hold_detached) keeps a lane as any other does, until it is ended."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    lane.plug.hold_detached(60)
    holder = lane.plug.holder()
    numbers = wire.send(3)
    with pytest.raises(PlugBusy, match=f"process {holder.guard}, a guard, holds it until its deadline"):
        lane.close()
    assert wire.arrived() == []
    assert end_detached(lane.plug)
    expect_ended(holder.guard)
    lane.close()
    wire.expect(numbers)


def test_nobody_can_hold_a_lane_that_is_being_closed(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the release on an adopter's hold is refused: it would hold what close() waits for."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    adopter = PlugLane(wire.device, UDP, netns=wire.near)
    refused = []
    release = PlugQdisc.release_indefinite

    def interfere(self: PlugQdisc) -> None:
        monkeypatch.undo()
        release(self)
        with pytest.raises(PlugBusy) as caught, adopter.hold():
            pytest.fail("it held")
        refused.append(caught.value)

    monkeypatch.setattr(PlugQdisc, "release_indefinite", interfere)
    lane.close()
    assert len(refused) == 1
    with pytest.raises(QdiscNotFound), adopter.hold():
        pytest.fail("it held")
    adopter.close()


@HOOKS
def test_a_device_that_was_deleted(road: Road, ingress: bool) -> None:
    """An idle lane of a device that was deleted closes quietly; nothing is left."""
    links = len(road.near.links())
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    road.near.ip(f"link del {road.device}")
    with pytest.raises(QdiscNotFound, match="it is gone"), lane.hold():
        pytest.fail("it held")
    lane.close()
    assert len(road.near.links()) == links - 1
    assert marks(road.near) == []


@HOOKS
def test_held_packets_of_a_device_that_was_deleted(road: Road, ingress: bool) -> None:
    """What a lane holds for a device that goes cannot be given back: close() undoes the rest and says how many."""
    links = len(road.near.links())
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    lane.plug.buffer()
    road.flow(ingress).expect_held(lane, 7)
    road.near.ip(f"link del {road.device}")
    with pytest.raises(DeviceNotFound, match=f"lane of {road.device}: 7 packets could not be given back to it"):
        lane.close()
    assert lane.closed
    assert len(road.near.links()) == links - 1


def test_a_device_that_was_renamed(wire: Wire) -> None:
    """A lane goes by the device's index: under another name it holds on, closes, and is found by that name."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    name = random_name()
    wire.near.ip(f"link set {wire.device} down", f"link set {wire.device} name {name}", f"link set {name} up")
    wire.near.ip(f"neigh replace {wire.FAR} lladdr {wire.FAR_MAC} dev {name} nud permanent")
    assert [found.ifb for found in listed(wire.near, name)] == [lane.ifb]
    with lane.hold():
        numbers = wire.send(3)
        assert lane.plug.stats().qlen == 3
    wire.expect(numbers)
    lane.close()
    assert tc_filters(wire.near, name) == {"egress": [], "ingress": []}
    assert ifbs(wire.near) == []


def test_a_device_that_was_moved_away(wire: Wire) -> None:
    """The kernel deletes qdiscs and filters of a device that changes its namespace: the lane is told so, and goes."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    wire.near.ip(f"link set {wire.device} netns {wire.far.path}")
    with pytest.raises(QdiscNotFound, match="it is gone"), lane.hold():
        pytest.fail("it held")
    lane.close()
    assert ifbs(wire.near) == []
    assert "clsact" not in wire.far.kinds(wire.device)


def test_a_device_that_goes_down_and_up(wire: Wire) -> None:
    """Down and up again, the lane is whole and holds."""
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        wire.near.ip(f"link set {wire.device} down", f"link set {wire.device} up")
        wire.near.ip(f"neigh replace {wire.FAR} lladdr {wire.FAR_MAC} dev {wire.device} nud permanent")
        with lane.hold():
            numbers = wire.send(3)
            assert lane.plug.stats().qlen == 3
        wire.expect(numbers)


@HOOKS
def test_an_ifb_that_was_deleted(road: Road, ingress: bool) -> None:
    """Filters that lead to a deleted ifb throw packets away: close() deletes them, and says what has happened."""
    before, flow = Sight(road.near, road.device), road.flow(ingress)
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    lane.plug.buffer()
    flow.expect_held(lane)
    road.near.ip(f"link del {lane.ifb}")
    flow.send()
    road.flow(not ingress).expect(road.flow(not ingress).send())
    assert flow.arrived() == []
    with pytest.raises(QdiscNotFound, match="it is gone"), lane.hold():
        pytest.fail("it held")
    with pytest.raises(DeviceNotFound, match=f"somebody has deleted its ifb {lane.ifb}: the packets in it are lost"):
        lane.close()
    assert lane.closed
    flow.expect(flow.send())
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


@HOOKS
def test_filters_without_an_ifb_are_cleaned_by_the_next_lane(road: Road, ingress: bool) -> None:
    """The next lane of the device, at whichever hook, deletes filters that lead nowhere, though their process lives."""
    lanes = [PlugLane(road.device, match, ingress=ingress, netns=road.near) for match in (UDP, Match(ip_proto=254))]
    for lane in lanes:
        road.near.ip(f"link del {lane.ifb}")
    assert [found.state for found in listed(road.near, road.device)] == ["drops", "drops"]
    flow = road.flow(ingress)
    flow.send()
    with PlugLane(road.device, UDP, ingress=not ingress, netns=road.near):
        flow.expect(flow.send())
    for lane in lanes:
        with pytest.raises(DeviceNotFound):
            lane.close()
    assert tc_filters(road.near, road.device) == {"egress": [], "ingress": []}


@pytest.mark.parametrize("harm", ["qdisc del dev {ifb} root", "qdisc replace dev {ifb} root pfifo"])
def test_a_plug_that_was_deleted(wire: Wire, harm: str) -> None:
    """Without its plug a lane cannot hold, and says so; packets flow through the ifb, and close() is quiet."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    tc(wire.near, harm.format(ifb=lane.ifb))
    with pytest.raises(QdiscNotFound, match="it is gone"), lane.hold():
        pytest.fail("it held")
    wire.expect(wire.send(3))
    lane.close()
    wire.expect(wire.send(3))
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_an_ifb_that_is_down_or_has_another_name(wire: Wire) -> None:
    """An ifb that is down drops what comes, so the lane is not whole; renamed it is. Both are closed."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    wire.near.ip(f"link set {lane.ifb} down")
    with pytest.raises(QdiscNotFound, match="it is gone"), lane.hold():
        pytest.fail("it held")
    name = random_name()
    wire.near.ip(f"link set {lane.ifb} name {name}", f"link set {name} up")
    with lane.hold():
        numbers = wire.send(3)
        assert lane.plug.stats().qlen == 3
    wire.expect(numbers)
    lane.close()
    assert [link["ifname"] for link in wire.near.links()] == ["lo", wire.device]


def test_packets_that_come_from_no_redirect_are_not_waited_for(wire: Wire) -> None:
    """What somebody sends into the ifb itself is thrown away by it, counted, and no reason to stay."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)
    stray = wire.near.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
    stray.bind((lane.ifb, 0x0800))
    for _ in range(3):
        stray.send(bytes(60))
    stray.close()
    lane.close(timeout=0.5)
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_a_process_without_the_right_cannot_close(wire: Wire) -> None:
    """Without CAP_NET_ADMIN no lane is made, and none closed: the refusal names the capability, and the lane stays."""
    lane = PlugLane(wire.device, UDP, netns=wire.near)

    def try_it() -> None:
        with unprivileged():
            with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
                lane.close()
            with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
                PlugLane(wire.device, Match(ip_proto=1))

    wire.near.run(try_it)
    assert not lane.closed
    wire.expect(wire.send(3))
    lane.close()
    flow = Flow(wire.near, wire.far, wire.FAR, 7999)
    flow.expect(flow.send())
    flow.close()
