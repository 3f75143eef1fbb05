# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a plug, and to what it holds, when its device is renamed, set down, removed or moved."""

from __future__ import annotations

import pytest

import libnlplug
from libnlplug import DeviceNotFound, PlugQdisc, QdiscNotFound
from tests.support.netlab import Netns, Wire, eventually, random_name, up

VERBS = ["buffer", "release_one", "release_indefinite", "stats", "detach"]


def test_a_renamed_device_is_the_same_device(wire: Wire, plug: PlugQdisc) -> None:
    """The plug stays with a renamed device, holding, and the object goes on; others open it by the new name."""
    plug.buffer()
    name = random_name()
    wire.near.ip(
        f"link set {wire.device} down", f"link set {wire.device} name {name}"
    )  # kernels before 6.2 want it down
    wire.near.ip(*up(name, Wire.NEAR), f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {name} nud permanent")
    numbers = wire.send(5)
    assert plug.stats().qlen == wire.near.qdisc(name)["qlen"] == 5
    opened = PlugQdisc.open(name, netns=wire.near)
    assert opened.stats().qlen == 5
    with pytest.raises(DeviceNotFound):
        PlugQdisc.open(wire.device, netns=wire.near)
    plug.release_indefinite()
    wire.expect(numbers)
    plug.detach()
    assert wire.near.kinds(name) == ["noqueue"]
    opened.close()


def test_down_empties_the_queue_and_keeps_the_state(wire: Wire, plug: PlugQdisc) -> None:
    """A link that goes down throws away what is held and counts no drop; up again, it holds as before."""
    plug.buffer()
    wire.send(5)
    wire.near.ip(f"link set {wire.device} down")
    stats = plug.stats()
    assert (stats.qlen, stats.backlog, stats.drops, stats.packets) == (0, 0, 0, 0)
    wire.near.ip(
        f"link set {wire.device} up",
        f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {wire.device} nud permanent",
    )
    numbers = wire.send(4)
    assert (plug.stats().qlen, wire.arrived()) == (4, [])
    plug.release_indefinite()
    wire.expect(numbers)


def test_toggles_reach_a_plug_whose_device_is_down(wire: Wire, plug: PlugQdisc) -> None:
    """A device that is down takes buffer and release; what was said last is true when it comes up."""
    wire.near.ip(f"link set {wire.device} down")
    plug.buffer()
    wire.near.ip(
        f"link set {wire.device} up",
        f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {wire.device} nud permanent",
    )
    numbers = wire.send(4)
    assert plug.stats().qlen == 4
    plug.release_indefinite()
    wire.expect(numbers)


def test_a_removed_device_is_gone(wire: Wire, plug: PlugQdisc) -> None:
    """Every call on the plug of a removed device raises DeviceNotFound, which names the device and what to do."""
    wire.near.ip(f"link del {wire.device}")
    for verb in VERBS:
        with pytest.raises(DeviceNotFound, match=f"{wire.device}: .*No such device.*; .*'ip link' lists") as caught:
            getattr(plug, verb)()
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.device == wire.device


def test_what_a_removed_device_held_is_gone(wire: Wire, plug: PlugQdisc) -> None:
    """Packets held on a device that is removed never arrive; leaving `with` after that is an error, not silence."""
    plug.buffer()
    wire.send(5)
    wire.near.ip(f"link del {wire.device}")
    with pytest.raises(DeviceNotFound), plug:
        pass
    assert (plug.closed, wire.arrived()) == (True, [])


def test_an_idle_plug_may_go_with_its_device(wire: Wire) -> None:
    """Leaving `with` is quiet where the device went and nothing was held."""
    with libnlplug.attach(wire.device, netns=wire.near) as plug:
        plug.buffer()
        plug.release_indefinite()
        wire.near.ip(f"link del {wire.device}")
    assert plug.closed


def test_a_new_device_of_the_same_name_is_another_one(wire: Wire, plug: PlugQdisc) -> None:
    """A plug belongs to the device it was attached to, not to whatever bears its name later."""
    wire.near.ip(f"link del {wire.device}", f"link add {wire.device} type dummy")
    with pytest.raises(DeviceNotFound):
        plug.buffer()
    again = libnlplug.attach(wire.device, netns=wire.near)
    assert again.created
    again.close()


def test_a_moved_device_has_left_its_plug_behind(wire: Wire, plug: PlugQdisc, netns: Netns) -> None:
    """Moving a device to another namespace deletes its plug with what that holds; here the device is not found."""
    plug.buffer()
    wire.send(5)
    wire.near.ip(f"link set {wire.device} netns {netns.path}")
    for verb in VERBS:
        with pytest.raises(DeviceNotFound):
            getattr(plug, verb)()
    assert "plug" not in netns.kinds(wire.device)
    assert wire.arrived() == []


def test_a_device_that_comes_back_needs_a_new_plug(wire: Wire, plug: PlugQdisc, netns: Netns) -> None:
    """Moved away and back, the device is there again, without its plug: QdiscNotFound, and attach() helps."""
    wire.near.ip(f"link set {wire.device} netns {netns.path}")
    netns.ip(f"link set {wire.device} netns {wire.near.path}")
    with pytest.raises((QdiscNotFound, DeviceNotFound)):  # the device may have got a new number
        plug.buffer()
    with libnlplug.attach(wire.device, netns=wire.near) as again:
        assert again.created


def test_the_far_end_does_not_matter(wire: Wire, plug: PlugQdisc) -> None:
    """The peer of a veth going down takes the carrier, not the plug: its state stays."""
    plug.buffer()
    wire.far.ip(f"link set {wire.peer} down")
    wire.far.ip(f"link set {wire.peer} up", f"neigh replace {Wire.NEAR} lladdr {Wire.NEAR_MAC} dev {wire.peer}")
    # Until the kernel's link watch has run, the device drops what it is to send.
    eventually(lambda: wire.near.link(wire.device)["operstate"] == "UP", "the carrier is back")
    numbers = wire.send(3)
    assert plug.stats().qlen == 3
    plug.release_indefinite()
    wire.expect(numbers)


def test_a_deleted_namespace_lives_on_in_the_plug(netns: Netns) -> None:
    """The plug's socket keeps its namespace alive: after its name is gone the plug still answers."""
    name = random_name()
    netns.command("ip", "netns", "add", name)
    netns.command("ip", "-n", name, "link", "add", "d0", "type", "dummy")
    plug = libnlplug.attach("d0", netns=name)
    netns.command("ip", "netns", "del", name)
    plug.buffer()
    plug.release_indefinite()
    plug.detach()
    plug.close()
    with pytest.raises(libnlplug.NetnsNotFound):
        libnlplug.attach("d0", netns=name)
