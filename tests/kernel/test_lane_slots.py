# SPDX-License-Identifier: GPL-2.0-or-later
"""The places that a device has for lanes: how many, and what is done about others' names in them."""

from __future__ import annotations

import socket
import time

import pytest

import libnlplug.lane.create
import libnlplug.lane.filters
import libnlplug.lane.lock
from libnlplug import Match, NetlinkError, PlugBusy, PlugLane
from libnlplug.lane.ifb import ADDRESS, alias_of
from libnlplug.lane.inventory import ifb_name
from tests.support.hold import child
from tests.support.lane import TCP, UDP, Sight, delete, having, listed, states
from tests.support.netlab import Wire


def test_a_device_has_so_many_slots(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lane more than there are slots is refused in a sentence; when one goes there is a place again."""
    assert libnlplug.lane.filters.SLOTS == 100
    monkeypatch.setattr(libnlplug.lane.create, "SLOTS", 5)
    lanes = [PlugLane(wire.device, Match(ip_proto=200 + number), netns=wire.near) for number in range(5)]
    before = Sight(wire.near, wire.device)
    with pytest.raises(NetlinkError, match="cannot make a lane on .*: it already has the maximum of 5 lanes"):
        PlugLane(wire.device, UDP, netns=wire.near)
    before.expect(Sight(wire.near, wire.device))
    lanes[3].close()
    with PlugLane(wire.device, UDP, netns=wire.near) as lane, lane.hold():
        assert lane.ifb.endswith("-3")
        numbers = wire.send(3)
        assert lane.plug.stats().qlen == 3
    wire.expect(numbers)
    for lane in lanes:
        lane.close()
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_a_hundred_lanes_are_deleted_soon(wire: Wire) -> None:
    """All lanes that a device can have are deleted within 2 s, or on a slow machine a quarter of the time that making
    them took."""
    began = time.monotonic()
    for number in range(100):
        PlugLane.keep(wire.device, Match(ip_proto="tcp", dst_port=1 + number), netns=wire.near).close()
    made = time.monotonic()
    assert len(delete(wire)) == 100
    assert time.monotonic() - made < max(2, (made - began) / 4)
    assert states(wire) == []
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]
    assert not any(link["ifname"].startswith("plug") for link in wire.near.links())


@pytest.mark.parametrize("link", ["type dummy", "type ifb", f"address {ADDRESS.hex(':')} type dummy"])
def test_somebody_elses_device_with_a_lanes_name(wire: Wire, link: str) -> None:
    """A device that is no lane's and has the name of one is left alone, up or down; the lane takes the next slot."""
    index = wire.near.link(wire.device)["ifindex"]
    names = [ifb_name(index, slot) for slot in (0, 1)]
    for name in names:
        wire.near.ip(f"link add {name} {link}")
    before = Sight(wire.near, wire.device)
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        assert lane.ifb == ifb_name(index, 2)
        assert len(states(wire)) == 1
    before.expect(Sight(wire.near, wire.device))
    assert delete(wire) == []


def test_an_ifb_that_was_not_described_yet(wire: Wire) -> None:
    """A process that was killed right after it had made the ifb leaves one without an alias: it is cleaned up."""
    index = wire.near.link(wire.device)["ifindex"]
    before = Sight(wire.near, wire.device)
    wire.near.ip(f"link add {ifb_name(index, 3)} address {ADDRESS.hex(':')} type ifb")
    assert states(wire) == [("?", "orphan", None)]
    PlugLane(wire.device, UDP, netns=wire.near).close()
    before.expect(Sight(wire.near, wire.device))


def test_somebody_on_the_mark_of_a_slot(wire: Wire) -> None:
    """A socket with a slot's name, anybody's, makes lanes take other slots."""
    index = wire.near.link(wire.device)["ifindex"]
    squatter = wire.near.run(socket.socket, socket.AF_UNIX, socket.SOCK_DGRAM)
    squatter.bind(f"\0libnlplug-lane/{ifb_name(index, 0)}")
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        assert lane.ifb == ifb_name(index, 1)
    squatter.close()


def test_somebody_on_the_lock(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket with the name of the device's lock: a lane is not made, in a sentence that names the socket."""
    monkeypatch.setattr(libnlplug.lane.lock, "PATIENCE", 0.1)
    index = wire.near.link(wire.device)["ifindex"]
    squatter = wire.near.run(socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET)
    squatter.bind(f"\0libnlplug-lanes/{index:x}")
    before = Sight(wire.near, wire.device)
    with pytest.raises(PlugBusy, match=f"cannot make a lane on {wire.device}: .* @libnlplug-lanes/{index:x} "):
        PlugLane(wire.device, UDP, netns=wire.near)
    before.expect(Sight(wire.near, wire.device))
    squatter.close()
    PlugLane(wire.device, UDP, netns=wire.near).close()


def test_a_kept_lane_whose_ifb_was_renamed(wire: Wire) -> None:
    """A lane whose ifb has another name is shown with that name, is held, keeps its slot, and is deleted."""
    lane = PlugLane.keep(wire.device, UDP, netns=wire.near)
    lane.close()
    wire.near.ip(f"link set {lane.ifb} down", f"link set {lane.ifb} name mine0", "link set mine0 up")
    assert [(one.ifb, one.state, one.trouble) for one in listed(wire.near, wire.device)] == [("mine0", "kept", None)]
    with PlugLane(wire.device, UDP, netns=wire.near) as adopted, adopted.hold():
        assert not adopted.created
        numbers = wire.send(3)
        assert adopted.plug.stats().qlen == 3
    wire.expect(numbers)
    with PlugLane(wire.device, TCP, netns=wire.near) as other:
        assert other.ifb.endswith("-1")
    assert delete(wire) == [str(UDP)]
    assert [link["ifname"] for link in wire.near.links()] == ["lo", wire.device]


def test_an_orphan_whose_ifb_was_renamed(wire: Wire) -> None:
    """A renamed ifb does not keep the lane of a dead process from being found and cleaned up, and one of a living
    process is still its own."""
    before = Sight(wire.near, wire.device)
    with child(having, wire) as owner:
        owner.hear()
        (found,) = listed(wire.near, wire.device)
        wire.near.ip(f"link set {found.ifb} down", f"link set {found.ifb} name mine0", "link set mine0 up")
        assert states(wire) == [(str(UDP), "alive", owner.pid)]
    assert states(wire) == [(str(UDP), "orphan", None)]
    PlugLane(wire.device, TCP, netns=wire.near).close()
    before.expect(Sight(wire.near, wire.device))


def test_a_kept_lane_whose_alias_was_changed(wire: Wire) -> None:
    """An administrator who writes an alias over a lane's makes an orphan of it, which is cleaned up."""
    lane = PlugLane.keep(wire.device, UDP, netns=wire.near)
    lane.close()
    for alias in ("mine", alias_of({"hook": "egress", "kept": "1", "filters": "many"})):
        wire.near.command("ip", "link", "set", lane.ifb, "alias", alias)
        assert [state for _, state, _ in states(wire)] == ["orphan"]
        (found,) = listed(wire.near, wire.device)
        assert found.trouble is not None
    PlugLane(wire.device, TCP, netns=wire.near).close()
    assert [link["ifname"] for link in wire.near.links() if link["ifname"].startswith("plug")] == []
