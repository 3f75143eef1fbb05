# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit: bytes, link headers included; what does not fit is dropped and counted, exactly."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libnlplug
from libnlplug import Match, PlugLane, PlugQdisc
from tests.support.command import Cli
from tests.support.netlab import FRAME, Wire, random_name

LIMIT_MAX = 2**31 - 1


@pytest.mark.parametrize(("limit", "fits"), [(10 * FRAME, 10), (10 * FRAME - 1, 9), (FRAME, 1)])
def test_overflow_is_dropped_and_counted_exactly(wire: Wire, limit: int, fits: int) -> None:
    """Exactly as many frames are held as the limit has room for; every other one is a drop, and the first ones go."""
    wire.shrink()
    plug = libnlplug.attach(wire.device, limit=limit, netns=wire.near)
    assert plug.limit == limit
    plug.buffer()
    numbers = wire.send(25)
    stats, shown = plug.stats(), wire.near.qdisc(wire.device)
    assert (stats.qlen, stats.backlog, stats.drops) == (fits, fits * FRAME, 25 - fits)
    assert (shown["qlen"], shown["backlog"], shown["drops"]) == (fits, fits * FRAME, 25 - fits)
    plug.release_indefinite()
    wire.expect(numbers[:fits])
    assert plug.stats().packets == fits
    plug.close()


@settings(max_examples=40)
@given(limit=st.integers(1514, 20_000), frame=st.integers(60, 1514), count=st.integers(0, 60))
def test_the_limit_is_bytes_for_any_size(wire: Wire, plug: PlugQdisc, limit: int, frame: int, count: int) -> None:
    """For any limit and frame size, limit // frame frames are held and the others are drops."""
    wire.shrink(1514)
    plug.set_limit(limit)
    before = plug.stats().drops
    plug.buffer()
    numbers = wire.send(count, frame=frame)
    fits = min(count, limit // frame)
    stats = plug.stats()
    assert (stats.qlen, stats.backlog, stats.drops - before) == (fits, fits * frame, count - fits)
    plug.release_indefinite()
    wire.expect(numbers[:fits])


def test_a_dropped_packet_is_a_drop_once(wire: Wire) -> None:
    """After the release there is room again: nothing more is dropped, and the counter stays."""
    wire.shrink()
    plug = libnlplug.attach(wire.device, limit=5 * FRAME, netns=wire.near)
    plug.buffer()
    held = wire.send(8)[:5]
    plug.release_indefinite()
    wire.expect(held)
    wire.expect(wire.send(20))
    assert plug.stats().drops == 3
    plug.close()


def test_a_larger_limit_while_held_makes_room(wire: Wire) -> None:
    """set_limit during a hold: what did not fit before fits now, what was held stays held."""
    wire.shrink()
    plug = libnlplug.attach(wire.device, limit=10 * FRAME, netns=wire.near)
    plug.buffer()
    numbers = wire.send(15)[:10]
    plug.set_limit(30 * FRAME)
    assert plug.limit == 30 * FRAME
    numbers += wire.send(25)[:20]
    assert (plug.stats().qlen, plug.stats().drops, wire.arrived()) == (30, 10, [])
    plug.release_indefinite()
    wire.expect(numbers)
    plug.close()


def test_a_smaller_limit_while_held_loses_nothing(wire: Wire, plug: PlugQdisc) -> None:
    """set_limit below what is held: that stays and is delivered, only new packets are refused."""
    wire.shrink()
    plug.buffer()
    numbers = wire.send(20)
    plug.set_limit(5 * FRAME)
    wire.send(3)
    assert (plug.stats().qlen, plug.stats().drops) == (20, 3)
    plug.release_indefinite()
    wire.expect(numbers)


def test_no_limit_is_the_kernels_default(wire: Wire) -> None:
    """limit=None leaves the limit to the kernel: txqueuelen times the MTU with link header, shown by what fits."""
    wire.near.ip(f"link set {wire.device} txqueuelen 3")
    limit = 3 * (wire.near.link(wire.device)["mtu"] + 14)
    plug = libnlplug.attach(wire.device, netns=wire.near)
    assert plug.limit is None
    plug.buffer()
    numbers = wire.send(limit // FRAME + 10)
    assert (plug.stats().qlen, plug.stats().drops) == (limit // FRAME, 10)
    plug.release_indefinite()
    wire.expect(numbers[: limit // FRAME])
    plug.close()


def test_no_limit_is_never_0(wire: Wire) -> None:
    """With a txqueuelen of 0 the kernel's default would be 0, which drops all packets for ever: another is taken."""
    device = random_name()
    wire.near.ip(f"link add {device} type ifb")
    wire.near.ip(f"link set {device} txqueuelen 0 up")
    plug = libnlplug.attach(device, netns=wire.near)
    assert plug.limit == 1000 * (wire.near.link(device)["mtu"] + 14)
    plug.buffer()
    with wire.near.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        for _ in range(5):
            raw.send(bytes(FRAME))
    assert (plug.stats().qlen, plug.stats().drops) == (5, 0)
    plug.close()


def test_the_largest_limit_holds(wire: Wire) -> None:
    """2^31-1 is a limit like any other: nothing wraps around to a small one."""
    plug = libnlplug.attach(wire.device, limit=LIMIT_MAX, netns=wire.near)
    plug.buffer()
    numbers = wire.send(200)
    assert (plug.stats().qlen, plug.stats().drops) == (200, 0)
    plug.release_indefinite()
    wire.expect(numbers)
    plug.close()


@pytest.mark.parametrize("limit", [0, -1, 2**31, True, "32mb", 1.5])
def test_a_refused_limit_changes_nothing(wire: Wire, plug: PlugQdisc, limit: object) -> None:
    """set_limit refuses what is no limit, 0 above all, and the plug goes on with the one it has."""
    wire.shrink()
    plug.set_limit(10 * FRAME)
    with pytest.raises(ValueError, match="limit is"):
        plug.set_limit(limit)  # type: ignore[arg-type]
    assert plug.limit == 10 * FRAME
    plug.buffer()
    wire.send(12)
    assert (plug.stats().qlen, plug.stats().drops) == (10, 2)


def limiters(wire: Wire, plug: PlugQdisc) -> dict[str, Callable[[int], object]]:
    """Every call that takes a limit, of a plug or a lane that is there or is made."""
    tcp, udp = Match(ip_proto="tcp"), Match(ip_proto="udp")
    kept = PlugLane.keep(wire.device, tcp, netns=wire.near)
    return {
        "adopt": lambda limit: libnlplug.attach(wire.device, limit=limit, netns=wire.near),
        "set_limit": plug.set_limit,
        "lane": lambda limit: PlugLane(wire.device, udp, limit=limit, netns=wire.near).close(),
        "keep": lambda limit: PlugLane.keep(wire.device, tcp, limit=limit, netns=wire.near),
        "set_limit of a lane": kept.plug.set_limit,
    }


@pytest.mark.parametrize("mtu", [1500, 9000, 68])
def test_a_limit_below_a_packet_of_the_device_is_refused(wire: Wire, plug: PlugQdisc, mtu: int) -> None:
    """The plug would drop the device's larger packets for ever, as with 0: ValueError, and nothing changes."""
    wire.near.ip(f"link set {wire.device} mtu {mtu} gso_max_segs 1")
    kinds = wire.near.kinds(wire.device)
    for name, limit in limiters(wire, plug).items():
        with pytest.raises(ValueError, match=rf"limit is {mtu + 13}: packets of \w.* have up to {mtu + 14} bytes"):
            limit(mtu + 13)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if name == "set_limit of a lane" else "error")  # the ifb's gso is its own
            limit(mtu + 14)
        assert plug.limit == (None if name == "adopt" else mtu + 14)
    assert wire.near.kinds(wire.device) == [*kinds, "clsact"]


def test_a_limit_below_what_comes_at_once_warns(wire: Wire, plug: PlugQdisc) -> None:
    """The kernel may hand a device gso_max_size bytes before it splits them into packets: a warning, once a call, which
    names the caller's line."""
    wire.near.ip(f"link set {wire.device} gso_max_size 50000")
    for name, limit in limiters(wire, plug).items():
        if name == "set_limit of a lane":
            continue
        with pytest.warns(
            RuntimeWarning, match="limit is 49999: .* up to 50000 bytes at once .*; give at least 50000"
        ) as w:
            limit(49999)
        assert [(one.category, one.filename) for one in w] == [(RuntimeWarning, __file__)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            limit(50000)


def test_a_device_without_a_link_header_has_smaller_packets(wire: Wire) -> None:
    """On a tunnel the largest packet is the MTU."""
    wire.near.ip("tuntap add tunnel mode tun", "link set tunnel mtu 1400 gso_max_segs 1")
    with pytest.raises(ValueError, match="packets of tunnel have up to 1400 bytes"):
        libnlplug.attach("tunnel", limit=1399, netns=wire.near)
    libnlplug.attach("tunnel", limit=1400, netns=wire.near).close()
    with PlugLane("tunnel", Match(ip_proto="tcp"), limit=1400, netns=wire.near) as lane:
        with pytest.raises(ValueError, match="have up to 1400 bytes"):
            lane.plug.set_limit(1399)


def test_the_command_refuses_and_warns_too(wire: Wire) -> None:
    """Each verb with a limit: status 2 and one line, or the warning as a line."""
    cli = Cli(wire.near)
    packets = ("--ip-proto", "tcp")
    for words in (("attach", wire.device), ("lane", "add", wire.device, *packets), ("limit", wire.device)):
        option = () if words[0] == "limit" else ("--limit",)
        assert "have up to 1514 bytes" in cli.complaint_of_usage(*words, *option, "1513")
        assert "libnlplug: warning: limit is 1514: " in cli(*words, *option, "1514").err
        assert cli(*words, *option, "64k") == ("", "")
    for words in ((), packets):
        assert "have up to 1514" in cli.complaint_of_usage("hold", wire.device, *words, "--limit", "1000", "--", "true")


def test_plug_made_by_tc_without_a_limit_drops_everything_and_set_limit_cures_it(wire: Wire) -> None:
    """tc's 'plug block' makes a plug with limit 0, which drops every packet for ever; an adopter's limit ends that."""
    wire.shrink()
    wire.near.tc(f"qdisc add dev {wire.device} root handle 9: plug block")
    wire.near.tc(f"qdisc change dev {wire.device} root handle 9: plug release_indefinite")
    wire.send(5)
    plug = libnlplug.attach(wire.device, netns=wire.near)
    assert (plug.stats().drops, wire.arrived()) == (5, [])
    plug.set_limit(10 * FRAME)
    wire.expect(wire.send(5))
    plug.close()
