# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts are true or None: what the kernel may have thrown away of what is held, without counting it, is not zero."""

from __future__ import annotations

import array
import fcntl
import select
import socket
import struct
import warnings
from contextlib import closing

import pytest

import libnlplug
from libnlplug import PlugQdisc
from libnlplug.guard.start import listening
from libnlplug.hold import PacketsUncounted
from tests.support.hold import expect_flow
from tests.support.netlab import Wire, eventually, random_name, unable, up

SIOCETHTOOL, SIOCSIFTXQLEN = 0x8946, 0x8943
ETHTOOL_GCHANNELS, ETHTOOL_SCHANNELS = 0x3C, 0x3D


def _clsact(wire: Wire) -> None:
    wire.near.tc(f"qdisc add dev {wire.device} clsact")


def _down_and_up(wire: Wire) -> None:
    wire.near.ip(f"link set {wire.device} down", f"link set {wire.device} up")


def _carrier(wire: Wire) -> None:
    wire.far.ip(f"link set {wire.peer} down")
    eventually(lambda: wire.near.link(wire.device)["operstate"] != "UP", "the kernel acts on it")
    wire.far.ip(f"link set {wire.peer} up")
    eventually(lambda: wire.near.link(wire.device)["operstate"] == "UP", "the kernel acts on that")


def _queue_length(wire: Wire) -> None:
    wire.near.ip(f"link set {wire.device} txqueuelen 77")


def _replaced(wire: Wire) -> None:
    wire.near.tc(f"qdisc del dev {wire.device} root")
    wire.near.tc(f"qdisc add dev {wire.device} root handle 504c: plug limit 1000000")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_clsact, "a clsact or ingress qdisc was added or deleted"),
        (_down_and_up, "its link went down"),
        (_carrier, "its link lost its carrier"),
        (_queue_length, "its txqueuelen was changed"),
        (_replaced, "was deleted or replaced"),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_what_the_kernel_threw_away_uncounted_is_not_zero(
    wire: Wire, plug: PlugQdisc, spoil, words: str, times: int
) -> None:
    """The counts are None, and a warning says what happened; the next hold knows its own again."""
    for _ in range(times - 1):
        with plug.hold():
            pass
    with pytest.warns(PacketsUncounted, match=words), plug.hold(timeout=30) as held:
        wire.send(3)
        spoil(wire)
    assert (held.packets, held.bytes, held.dropped, held.expired) == (None, None, None, False)
    with warnings.catch_warnings(), plug.hold() as again:
        warnings.simplefilter("error")
    assert again.dropped == 0


def test_what_loses_nothing_is_counted(wire: Wire, plug: PlugQdisc) -> None:
    """Another MTU, another device's changes, and what happened between two holds leave the counts as they are."""
    other = random_name()
    with plug.hold():
        pass
    _queue_length(wire)
    with warnings.catch_warnings(), plug.hold() as held:
        warnings.simplefilter("error")
        wire.near.ip(f"link set {wire.device} mtu 1400", f"link add {other} type dummy", f"link set {other} up")
        wire.near.tc(f"qdisc add dev {other} clsact")
        numbers = wire.send(3)
        plug.set_limit(1 << 20)
    assert (held.packets, held.dropped) == (3, 0)
    expect_flow(wire, numbers)


def _ioctl(number: int, request: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, number, request)


def _set_queues(device: str, count: int) -> None:
    """As 'ethtool -L DEVICE tx COUNT rx COUNT' does."""
    channels = array.array("I", [ETHTOOL_GCHANNELS, *[0] * 8])
    address, _ = channels.buffer_info()
    request = struct.pack("16sP16x", device.encode(), address)
    try:
        _ioctl(SIOCETHTOOL, request)
        channels[0], channels[5], channels[6] = ETHTOOL_SCHANNELS, count, count
        _ioctl(SIOCETHTOOL, request)
    except OSError as error:
        unable(f"the number of queues of a veth device cannot be changed: {error}")


def test_a_device_that_gets_fewer_queues(wire: Wire) -> None:
    """The kernel empties the qdiscs of the queues that go, and the plug is that of all queues."""
    device, peer = random_name(), random_name()
    queues = "numtxqueues 4 numrxqueues 4"
    wire.near.ip(f"link add {device} {queues} type veth peer name {peer} {queues}", *up(device, "198.51.100.1"))
    wire.near.ip(f"link set {peer} up")
    raw = wire.near.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((device, 0))
    with raw, closing(wire.near.run(listening)) as changes, libnlplug.attach(device, netns=wire.near) as plug:
        with pytest.warns(PacketsUncounted, match="lost its carrier"), plug.hold() as held:
            raw.send(bytes(100))
            assert plug.stats().qlen > 0
            wire.near.run(_set_queues, device, 1)
            assert plug.stats().qlen == 0
            assert select.select([changes], [], [], 5)[0]  # the kernel tells a moment later
        assert (held.packets, held.dropped) == (None, None)


def test_a_queue_length_that_is_set_in_another_way(wire: Wire, plug: PlugQdisc) -> None:
    """By an ioctl, as ifconfig does."""
    request = struct.pack("16si20x", wire.device.encode(), 77)
    with pytest.warns(PacketsUncounted, match="its txqueuelen was changed"), plug.hold() as held:
        wire.near.run(_ioctl, SIOCSIFTXQLEN, request)
    assert (held.packets, held.dropped) == (None, None)


def _class_made_again(wire: Wire) -> None:
    wire.near.tc(
        f"class del dev {wire.device} classid 1:2",
        f"class add dev {wire.device} parent 1: classid 1:2 htb rate 1gbit quantum 1500",
    )


def _fewer_bands_and_more_again(wire: Wire) -> None:
    wire.near.tc(
        f"qdisc change dev {wire.device} root prio bands 2 priomap {'0 ' * 16}",
        f"qdisc change dev {wire.device} root prio bands 3 priomap {'0 ' * 16}",
    )


@pytest.mark.parametrize(
    ("root", "place", "spoil"),
    [
        ("htb default 2", "1:2", _class_made_again),
        (f"prio bands 3 priomap {'2 ' * 16}", "1:3", _fewer_bands_and_more_again),
    ],
)
def test_a_class_that_goes_and_comes_back(wire: Wire, root: str, place: str, spoil) -> None:
    """The kernel deletes the plug with its class and tells only of the class; somebody makes both again."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: {root}")
    if "htb" in root:
        wire.near.tc(f"class add dev {wire.device} parent 1: classid 1:2 htb rate 1gbit quantum 1500")
    with libnlplug.attach(wire.device, parent=place, netns=wire.near) as plug:
        with pytest.warns(PacketsUncounted, match="was deleted or replaced"), plug.hold() as held:
            wire.send(3)
            assert plug.stats().qlen == 3
            spoil(wire)
            wire.near.tc(f"qdisc add dev {wire.device} parent {place} handle {plug.handle} plug limit 1000000")
        assert (held.packets, held.bytes, held.dropped) == (None, None, None)
