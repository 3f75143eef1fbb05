# SPDX-License-Identifier: GPL-2.0-or-later
"""A lane on every kind of device: it holds what it matches, loses nothing, touches no root qdisc, and goes again."""

from __future__ import annotations

import os
import re
import subprocess
import time

import pytest

import libnlplug
from libnlplug import ClosedError, Match, PlugLane
from libnlplug.lane.ifb import ifbs
from libnlplug.lane.remove import delete_lanes
from libnlplug.netlink.route_socket import Reply, RouteSocket
from tests.support.hold import wait_until
from tests.support.lane import UDP, Sight, listed, marks, roots
from tests.support.netlab import Netns, Wire, random_name
from tests.support.road import FAR, FAR6, KINDS, NEAR6, Flow, Road, set_sysctl, use_ipv6, veth

HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])


@pytest.fixture
def road(request: pytest.FixtureRequest):
    """A device of the kind that the test asks for, a veth where it asks for none."""
    if not hasattr(request, "param"):
        with veth() as made:
            yield made
        return
    made = Road(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("road", KINDS, indirect=True)
def test_every_kind_of_device(road: Road) -> None:
    """At either hook what matches is held and released, in order, and the root qdisc untouched; afterwards tc and ip
    show what they showed before: not even a counter differs where there was no traffic."""
    for ingress in (False, True):
        before, root, flow = Sight(road.near, road.device), roots(road.near, road.device), road.flow(ingress)
        with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane, lane.hold():
            assert roots(road.near, road.device) == root
        before.expect(Sight(road.near, road.device))

        lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
        flow.expect(flow.send())
        with lane.hold() as held:
            numbers = flow.expect_held(lane, 20)
        assert (held.packets, held.dropped) == (20, 0)
        flow.expect(numbers)
        assert [shown["kind"] for shown in roots(road.near, road.device)] == [shown["kind"] for shown in root]
        lane.close()
        flow.expect(flow.send())
        before.uncounted().expect(Sight(road.near, road.device).uncounted())


@HOOKS
@pytest.mark.parametrize("road", ["lo", "veth", "multi-queue"], indirect=True)
def test_nothing_is_lost_under_traffic(road: Road, ingress: bool) -> None:
    """Packets that match, sent without a pause while lanes are set up, held and closed: each arrives, in its order.

    The device has a clsact qdisc: adding one would lose what is sent in that moment, whoever does it.
    """
    road.near.tc(f"qdisc add dev {road.device} clsact")
    flow = road.flow(ingress)
    with flow.running():
        for _ in range(10):
            PlugLane(road.device, UDP, ingress=ingress, netns=road.near).close()
        for _ in range(3):
            with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane:
                with lane.hold() as held:
                    wait_until(time.monotonic() + 0.02)
                assert held.packets
                assert held.dropped == 0


@HOOKS
def test_holds_of_a_kept_lane_lose_nothing(road: Road, ingress: bool) -> None:
    """Where a lane is kept, twenty holds beside the traffic that they hold: every packet arrives, in its order."""
    before, flow = Sight(road.near, road.device), road.flow(ingress)
    PlugLane.keep(road.device, UDP, ingress=ingress, netns=road.near).close()
    with flow.running():
        for _ in range(20):
            with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane:
                assert not lane.created
                with lane.hold() as held:
                    wait_until(time.monotonic() + 0.005)
                assert held.dropped == 0
    sk = RouteSocket(road.near)
    delete_lanes(sk, road.device, UDP, ingress)
    sk.close()
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


@pytest.fixture
def slow(road: Road) -> Road:
    """A device whose root qdisc lets some forty packets through in a second."""
    road.near.tc(f"qdisc add dev {road.device} root handle 1: tbf rate 32kbit burst 200 limit 100000")
    return road


def waiting(road: Road) -> int:
    return roots(road.near, road.device)[0]["qlen"]


def test_the_kernel_empties_a_device_for_clsact(slow: Road) -> None:
    """Why a lane is careful with the qdisc: adding it, or deleting it, throws away all that waits on the device, or, on
    a kernel that has mended that, nothing."""
    left = []
    for verb in ("add", "del"):
        slow.leaving.send(40)
        assert waiting(slow) > 10
        slow.near.tc(f"qdisc {verb} dev {slow.device} clsact")
        left.append(waiting(slow))
    mended = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (7, 0)
    assert left == [0, 0] or (mended and min(left) > 10)


@HOOKS
def test_what_waits_on_the_device_is_not_thrown_away(slow: Road, ingress: bool) -> None:
    """Where packets wait on the device, a lane that needs a clsact qdisc is refused, and all of them arrive."""
    before = marks(slow.near), slow.near.kinds(slow.device), len(slow.near.links())
    numbers = slow.leaving.send(40)
    with pytest.raises(
        libnlplug.NetlinkError, match=r"throw away \d+ packets that wait in its root qdisc; 'tc qdisc add"
    ):
        PlugLane(slow.device, UDP, ingress=ingress, netns=slow.near)
    assert (marks(slow.near), slow.near.kinds(slow.device), len(slow.near.links())) == before
    slow.leaving.expect(numbers)


@HOOKS
def test_both_hooks_and_several_matches_at_once(road: Road, ingress: bool) -> None:
    """Lanes for other packets, or for the other hook, of the same device hold each their own."""
    other = Flow(*((road.far, road.near, "192.0.2.1") if ingress else (road.near, road.far, FAR)), port=7010)
    matches = [UDP, Match(ip_proto="udp", dst_port=7010), Match(ip_proto="tcp")]
    lanes = [PlugLane(road.device, match, ingress=ingress, netns=road.near) for match in matches]
    lanes += [PlugLane(road.device, UDP, ingress=not ingress, netns=road.near)]
    assert [lane.created for lane in lanes] == [True] * 4
    with lanes[0].hold():
        numbers = road.flow(ingress).expect_held(lanes[0])
        other.expect(other.send())
        road.flow(not ingress).expect(road.flow(not ingress).send())
        with lanes[3].hold(), lanes[1].hold():
            crossing = road.flow(not ingress).expect_held(lanes[3])
            others = other.expect_held(lanes[1])
        road.flow(not ingress).expect(crossing)
        other.expect(others)
    road.flow(ingress).expect(numbers)
    for lane in lanes:
        lane.close()
    other.close()


@HOOKS
@pytest.mark.parametrize("road", ["veth", "tun"], indirect=True)
def test_ipv6(road: Road, ingress: bool) -> None:
    """IPv6 packets are held as IPv4's are, by the same lane."""
    use_ipv6(road.near, road.device, NEAR6)
    use_ipv6(road.far, road.peer, FAR6)
    flow = Flow(road.far, road.near, NEAR6) if ingress else Flow(road.near, road.far, FAR6)
    with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane, lane.hold() as held:
        numbers = flow.expect_held(lane)
        numbers4 = road.flow(ingress).expect_held(lane)
    assert held.packets == 10
    flow.expect(numbers)
    road.flow(ingress).expect(numbers4)
    flow.close()


def test_the_ifb_sends_nothing_of_its_own(netns: Netns) -> None:
    """With IPv6 on, an idle lane's ifb sees no packet in 3 s, where an ordinary one does."""
    for scope in ("all", "default"):
        set_sysctl(netns, f"ipv6/conf/{scope}/disable_ipv6", "0")
    try:
        netns.ip("link set lo up", "link add ordinary type ifb", "link set ordinary up")
        lane = PlugLane("lo", Match(ip_proto="tcp", dst_port=9), netns=netns)
        wait_until(time.monotonic() + 3)
        packets = {name: netns.link(name)["stats64"]["rx"]["packets"] for name in ("ordinary", lane.ifb)}
        assert packets["ordinary"] > 0
        assert packets[lane.ifb] == 0
        assert "inet6" not in netns.command("ip", "addr", "show", lane.ifb)
        lane.close()
    finally:
        for scope in ("all", "default"):
            set_sysctl(netns, f"ipv6/conf/{scope}/disable_ipv6", "1")


def test_the_limit(wire: Wire) -> None:
    """Without one it is 4 MiB, far more than an ifb's own; with one, what is beyond it is dropped and reported."""
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        assert lane.plug.limit == 4 << 20
        with lane.hold() as held:
            numbers = wire.send(2000)
        assert (held.packets, held.dropped) == (2000, 0)
        wire.expect(numbers)
    wire.shrink()
    with PlugLane(wire.device, UDP, limit=1000, netns=wire.near) as lane:
        assert lane.plug.limit == 1000
        with pytest.warns(libnlplug.PacketsDropped), lane.hold() as held:
            numbers = wire.send(12)
        assert (held.packets, held.dropped) == (10, 2)
        wire.expect(numbers[:10])


def test_epochs(wire: Wire) -> None:
    """The lane's plug is a PlugQdisc: buffer, release_one and release_indefinite do with it what they do."""
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        lane.plug.buffer()
        first = wire.send(3)
        lane.plug.buffer()
        second = wire.send(2)
        assert wire.arrived() == []
        lane.plug.release_one()
        wire.expect(first)
        assert lane.plug.stats().qlen == 2
    wire.expect(second)


@pytest.mark.parametrize("names", ["name", "path", "pid", "file"])
def test_other_namespaces(wire: Wire, names: str) -> None:
    """A lane in a namespace given by name, path, pid or file; the caller's own namespace is the same afterwards."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    name = random_name()
    sleeper = wire.near.run(subprocess.Popen, ["sleep", "60"])
    where = {"name": name, "path": wire.near.path, "pid": sleeper.pid, "file": wire.near}[names]
    os.makedirs("/run/netns", exist_ok=True)
    os.symlink(wire.near.path, f"/run/netns/{name}")
    try:
        with PlugLane(wire.device, UDP, netns=where) as lane:
            assert lane.ifb in [link["ifname"] for link in wire.near.links()]
            with lane.hold():
                numbers = wire.send(3)
                assert lane.plug.stats().qlen == 3
            wire.expect(numbers)
    finally:
        os.unlink(f"/run/netns/{name}")
        sleeper.kill()
        sleeper.wait()
    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    assert marks(wire.near) == []


def test_many_links_do_not_matter(netns: Netns) -> None:
    """Among 500 links of other kinds, listing the lanes has the kernel show the ifbs and nothing else."""
    netns.ip(*(f"link add d{number} type dummy" for number in range(500)))
    with PlugLane("d7", UDP, netns=netns) as lane:
        assert [found.ifb for found in listed(netns, "d7")] == [lane.ifb]
        sk = RouteSocket(netns)
        shown: list[Reply] = []
        ask = sk.ask
        sk.ask = lambda *words: shown.extend(ask(*words)) or shown  # type: ignore[method-assign]
        assert [ifb.name for ifb in ifbs(sk)] == [lane.ifb]
        assert len(shown) == 1
        sk.close()


def test_what_the_object_says(wire: Wire) -> None:
    """Its properties and its repr say what it is; a closed lane says so, and can be closed again but not used."""
    lane = PlugLane(wire.device, UDP, ingress=True, netns=wire.near)
    assert (lane.device, lane.match, lane.ingress, lane.created, lane.closed) == (wire.device, UDP, True, True, False)
    assert repr(lane) == f"<PlugLane {wire.device} ingress ip_proto=udp,dst_port=7009 on {lane.ifb}>"
    assert (lane.shadowed, lane.plug.device) == ([], lane.ifb)
    lane.close()
    lane.close()
    assert lane.closed
    assert repr(lane) == f"<PlugLane {wire.device} ingress ip_proto=udp,dst_port=7009 closed>"
    with pytest.raises(ClosedError), lane:
        pass
    with pytest.raises(ClosedError), lane.hold():
        pass
    with pytest.raises(ClosedError):
        lane.plug.buffer()


def test_what_is_refused_before_anything_is_made(wire: Wire) -> None:
    """No match, a limit that cannot be, a device that is not there: an error, and nothing in the kernel."""
    before = Sight(wire.near, wire.device)
    with pytest.raises(TypeError, match="match is 'tcp': it must be a Match"):
        PlugLane(wire.device, "tcp", netns=wire.near)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit is 0"):
        PlugLane(wire.device, UDP, limit=0, netns=wire.near)
    with pytest.raises(libnlplug.DeviceNotFound, match="cannot find nosuch0"):
        PlugLane("nosuch0", UDP, netns=wire.near)
    with pytest.raises(libnlplug.NetnsNotFound):
        PlugLane(wire.device, UDP, netns="nosuch")
    before.expect(Sight(wire.near, wire.device))
