# SPDX-License-Identifier: GPL-2.0-or-later
"""On which devices a lane holds which packets: the table of docs/how-it-works.md, line by line."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from libnlplug import Match, NetlinkError, PlugLane
from tests.support.lane import UDP
from tests.support.netlab import Netns, eventually, random_name, unable, up
from tests.support.packets import LOOKS_INTO_TUNNELS
from tests.support.road import FAR, FAR6, NEAR, NEAR6, Flow, carry, need, use_ipv6, veth

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-it-works.md"
HELD, REFUSED, NOT_SEEN, NOTHING = "held", "refused", "not held", "no packet arrives"
MACS = "02:00:00:00:00:07", "02:00:00:00:00:08"
OUTER = "198.51.100.1", "198.51.100.2"
TUNNEL = "local {mine} remote {theirs}"
FALLBACK = "/proc/sys/net/core/fb_tunnels_only_for_init_net"


class Kind(NamedTuple):
    """A kind of device. ``lines`` of ip(8) make {d} in the near namespace, upon {u}, a veth device whose peer in the
    far namespace has the same name; ``far`` of them make what stands at the other end. The lane is on ``device``, the
    address on ``addressed``; ``then`` come lines that need the addresses. ``bound`` sockets are bound to {d}."""

    lines: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    device: str = "{d}"
    addressed: str = "{d}"
    modules: tuple[str, ...] = ()
    leaving: str = HELD
    arriving: str = HELD
    ipv6: bool = False
    then: tuple[str, ...] = ()
    far_then: tuple[str, ...] = ()
    bound: bool = False


def both(line: str, module: str, **others) -> Kind:
    """The same device at both ends."""
    return Kind((line,), (line,), modules=(module,), **others)


def port(line: str, module: str, **others) -> Kind:
    """A device whose port is {u}."""
    lines = (line, "link set {u} down", "link set {u} master {d}", "link set {u} up")
    return Kind(lines, modules=(module,), **others)


BRIDGE, BOND, VRF = (
    "link add {d} type bridge",
    "link add {d} type bond mode active-backup",
    "link add {d} type vrf table 77",
)
VLAN, VXLAN = "link add {d} link {u} type vlan id 7", f"link add {{d}} type vxlan id 7 dstport 4789 dev {{u}} {TUNNEL}"
MACVLAN, IPVLAN = "link add {d} link {u} type macvlan mode bridge", "link add {d} link {u} type ipvlan mode "
GRE = f"link add {{d}} type gre {TUNNEL}"
KINDS = {
    "lo": Kind(device="lo", addressed="lo"),
    "veth": Kind(device="{u}", addressed="{u}"),
    "bridge": port(BRIDGE, "bridge"),
    "port of a bridge": port(BRIDGE, "bridge", device="{u}"),
    "VLAN": both(VLAN, "8021q"),
    "device below a VLAN": both(VLAN, "8021q", device="{u}", leaving=NOT_SEEN, arriving=NOT_SEEN),
    "bond": port(BOND, "bonding"),
    "port of a bond": port(BOND, "bonding", device="{u}"),
    "macvlan": Kind((MACVLAN,), modules=("macvlan",)),
    "device below a macvlan": Kind((MACVLAN,), device="{u}", modules=("macvlan",)),
    "ipvlan, l2": Kind((IPVLAN + "l2",), modules=("ipvlan",)),
    "ipvlan, l3": Kind(
        (IPVLAN + "l3",),
        modules=("ipvlan",),
        # It sends by the routes of the device below, and there is no ARP.
        then=(f"route add {FAR}/32 dev {{u}}", f"neigh replace {FAR} lladdr {MACS[1]} dev {{u}}"),
        far_then=(f"neigh replace {NEAR} lladdr {MACS[0]} dev {{u}}",),
        bound=True,
    ),
    "ipvlan, l3s": Kind((IPVLAN + "l3s",), modules=("ipvlan",), leaving=REFUSED, arriving=REFUSED),
    "device below an ipvlan": Kind((IPVLAN + "l3s",), device="{u}", modules=("ipvlan",)),
    "VXLAN": both(VXLAN, "vxlan"),
    "GRE": both(GRE, "ip_gre"),
    "IPIP": both(f"link add {{d}} type ipip {TUNNEL}", "ipip"),
    "SIT": both(f"link add {{d}} type sit {TUNNEL}", "sit", ipv6=True),
    "device below a tunnel": both(GRE, "ip_gre", device="{u}", leaving=NOT_SEEN, arriving=NOT_SEEN),
    "tun": Kind(modules=("tun",)),
    "tap": Kind(modules=("tun",)),
    "VRF": port(VRF, "vrf", addressed="{u}", leaving=REFUSED, arriving=REFUSED, bound=True),
    "port of a VRF": port(VRF, "vrf", device="{u}", addressed="{u}", bound=True),
    "dummy": Kind(("link add {d} type dummy",), modules=("dummy",), arriving=NOTHING),
}


class Ends:
    """A near and a far namespace with a device of the kind, and the flows that leave and arrive."""

    def __init__(self, kind: str, undo: ExitStack) -> None:
        made = KINDS[kind]
        self.near, self.far = Netns.take(), Netns.take()
        undo.callback(self.near.give_back)
        undo.callback(self.far.give_back)
        names = {"u": random_name(), "d": random_name()}
        self.names, self._undo = names, undo
        self.device = made.device.format(**names)
        if kind in ("tun", "tap"):
            self._carried(kind == "tap")
        else:
            self._wired(made)
        addressed = made.addressed.format(**names)
        address = (NEAR6, FAR6) if made.ipv6 else ("127.0.0.1", "127.0.0.1") if kind == "lo" else (NEAR, FAR)
        self._address(kind, addressed, made.ipv6)
        far = self.near if kind == "lo" else self.far
        bound = names["d"] if made.bound else ""
        self.leaving = Flow(self.near, far, address[1], by=bound)
        undo.callback(self.leaving.close)
        self.arriving = self.leaving if kind == "lo" else Flow(far, self.near, address[0], at=bound)
        undo.callback(self.arriving.close)
        if kind == "dummy":
            self.near.ip(f"neigh add {FAR} lladdr 02:00:00:00:00:02 dev {self.device} nud permanent")
            return
        for flow in (self.leaving, self.arriving):
            eventually(lambda flow=flow: flow.send(1) and flow.arrived(), f"packets of {kind} arrive at all")
        eventually(lambda: not self.leaving.arrived() and not self.arriving.arrived(), "all of them have")

    def _wired(self, made: Kind) -> None:
        pair = "link add {u} address {} type veth peer name {u} address {} netns {}"
        self.near.ip(pair.format(*MACS, self.far.path, **self.names))
        ends = ((self.near, made.lines, OUTER), (self.far, made.far, OUTER[::-1]))
        for netns, lines, (mine, theirs) in ends:
            netns.ip("link set {u} addrgenmode none".format(**self.names))
            netns.ip("link set {u} up".format(**self.names))
            if any(TUNNEL.split()[0] in line for line in lines):
                netns.ip(f"addr add {mine}/24 dev {self.names['u']}")
            netns.ip(*(line.format(mine=mine, theirs=theirs, **self.names) for line in lines))

    def _address(self, kind: str, addressed: str, ipv6: bool) -> None:
        far = self.names["d"] if KINDS[kind].far or kind in ("tun", "tap") else self.names["u"]
        if kind == "lo":
            self.near.ip("link set lo up")
            return
        for netns, device, address in ((self.near, addressed, NEAR), (self.far, far, FAR)):
            netns.ip(*up(device, address))
        if ipv6:
            use_ipv6(self.near, addressed, NEAR6)
            use_ipv6(self.far, far, FAR6)
        if "VRF" in kind:
            self.near.ip(f"link set {self.names['d']} up")
        self.near.ip(*(line.format(**self.names) for line in KINDS[kind].then))
        self.far.ip(*(line.format(**self.names) for line in KINDS[kind].far_then))

    def _carried(self, tap: bool) -> None:
        """Two tun or tap devices, and threads that carry packets from one to the other."""
        carry([netns.run(_opened, self.names["d"], tap) for netns in (self.near, self.far)])


def _opened(name: str, tap: bool) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", name.encode(), 0x1002 if tap else 0x1001))  # TUNSETIFF
    return fd


def outcome(ends: Ends, ingress: bool) -> str:
    """What becomes of packets that match a lane of the device while it holds."""
    flow = ends.arriving if ingress else ends.leaving
    last = flow.send(1)
    eventually(lambda: flow.arrived()[-1:] == last, "what was sent before has arrived")
    try:
        lane = PlugLane(ends.device, UDP, ingress=ingress, netns=ends.near)
    except NetlinkError:
        return REFUSED
    with lane:
        with lane.hold() as held:
            numbers, arrived = flow.send(5), []
            eventually(
                lambda: arrived.extend(flow.arrived()) or lane.plug.stats().qlen + len(arrived) >= 5, "they come"
            )
        if arrived:
            assert (sorted(arrived), held.packets) == (numbers, 0)
            return NOT_SEEN
        assert (held.packets, held.dropped) == (5, 0)
        flow.expect(numbers)
        return HELD


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dummy"])
def test_each_kind_of_device(kind: str) -> None:
    """Packets that match are held and then arrive, in order; or the lane is refused; or they flow on, as documented."""
    if LOOKS_INTO_TUNNELS and kind == "device below a tunnel":
        unable("this kernel's flower looks into tunnels")
    _load(*KINDS[kind].modules)
    with ExitStack() as undo:
        ends = Ends(kind, undo)
        assert (outcome(ends, False), outcome(ends, True)) == (KINDS[kind].leaving, KINDS[kind].arriving)


def test_a_dummy() -> None:
    """A dummy swallows what leaves it; a lane holds that, too."""
    _load("dummy")
    with ExitStack() as undo:
        ends = Ends("dummy", undo)
        with PlugLane(ends.device, UDP, netns=ends.near) as lane, lane.hold() as held:
            ends.leaving.send(5)
        assert held.packets == 5
        PlugLane(ends.device, UDP, ingress=True, netns=ends.near).close()


def test_the_table_of_the_docs() -> None:
    """The documented table says of each kind what these tests see, and of no other."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    table = {kind: (leaving, arriving) for kind, leaving, arriving in rows if kind in KINDS}
    assert table == {kind: (made.leaving, made.arriving) for kind, made in KINDS.items()}
    heading = PAGE.read_text().partition("| leaving packets | arriving packets |")[2]
    assert len(re.findall(r"^\| ", heading.partition("\n\n")[0], re.MULTILINE)) == len(KINDS)


def _load(*modules: str) -> None:
    with suppress(OSError), open(FALLBACK, "w") as file:
        file.write("2")  # no tunl0, gre0 and so on in every new namespace
    if modules:
        need(*modules)


class Stream:
    """A TCP connection from near to far that carries bytes, and checks them."""

    def __init__(self, near: Netns, far: Netns, to: str, at: str) -> None:
        listener = far.run(socket.socket)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier test may have used the namespace
        listener.bind((at, 8080))
        listener.listen()
        self.near = near.run(socket.socket)
        self.near.settimeout(20)
        self.near.connect((to, 8080))
        self.far, self.peer = listener.accept()
        self.far.settimeout(20)
        listener.close()

    def carry(self, size: int):
        """Send so many bytes; the returned function waits until they have come, unchanged."""
        data = os.urandom(size)
        sender = threading.Thread(target=self.near.sendall, args=(data,))
        sender.start()

        def expect() -> None:
            got = bytearray()
            while len(got) < size:
                got += self.far.recv(1 << 16)
            sender.join()
            assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

        return expect

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.mark.parametrize("mtu", [1500, 9000])
@pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])
def test_packets_that_are_not_split_yet(ingress: bool, mtu: int) -> None:
    """A lane holds what TCP hands over in pieces of up to 64 KiB, also with jumbo frames, and the bytes arrive."""
    with veth() as road:
        for netns, device in ((road.near, road.device), (road.far, road.peer)):
            netns.ip(f"link set {device} mtu {mtu}")
        source, sink, to = (road.far, road.near, NEAR) if ingress else (road.near, road.far, FAR)
        stream = Stream(source, sink, to, to)
        match = Match(ip_proto="tcp", dst_port=8080)
        with PlugLane(road.device, match, ingress=ingress, netns=road.near) as lane:
            with lane.hold() as held:
                arrived = stream.carry(200_000)
                eventually(lambda: lane.plug.stats().backlog > mtu + 14, "some wait")
                eventually(lambda: lane.plug.stats().backlog > lane.plug.stats().qlen * (mtu + 14), "large ones wait")
            arrived()
        assert held.bytes > held.packets * (mtu + 14)
        stream.close()


@pytest.mark.parametrize("where", ["before", "behind"])
def test_nat_on_the_way(where: str) -> None:
    """A router that translates addresses: a lane at its ingress sees the published address, before conntrack; one at
    its egress sees the server's; either holds the SYN and the connection is then made."""
    need("iptable_nat", "xt_nat", "xt_tcpudp", "nf_conntrack")
    if not shutil.which("iptables-legacy"):
        unable("no iptables-legacy here")
    with ExitStack() as undo:
        client, router, server = (Netns.take() for _ in range(3))
        for netns in (client, router, server):
            undo.callback(netns.give_back)
        one, two = random_name(), random_name()
        for netns, name, mine, theirs in ((client, one, FAR, NEAR), (server, two, OUTER[1], OUTER[0])):
            router.ip(f"link add {name} type veth peer name {name} netns {netns.path}", *up(name, theirs))
            netns.ip(*up(name, mine), f"route add default via {theirs}")
        router.run(_forward)
        rule = f"-t nat -A PREROUTING -d {NEAR} -p tcp --dport 8080 -j DNAT --to-destination {OUTER[1]}"
        done = router.run(subprocess.run, ["iptables-legacy", *rule.split()], capture_output=True, text=True)
        if done.returncode:
            unable(f"this kernel cannot translate addresses: {done.stderr}")
        device, address = (one, NEAR) if where == "before" else (two, OUTER[1])
        match = Match(ip_proto="tcp", dst_ip=address, dst_port=8080, tcp_syn=True)
        with PlugLane(device, match, ingress=where == "before", netns=router) as lane:
            with lane.hold() as held:
                made: list[Stream] = []
                thread = threading.Thread(target=lambda: made.append(Stream(client, server, NEAR, OUTER[1])))
                thread.start()
                eventually(lambda: lane.plug.stats().qlen, "the SYN waits")
                assert not made
            thread.join()
        assert held.packets
        made[0].carry(50_000)()
        made[0].close()
        router.run(subprocess.run, ["iptables-legacy", "-t", "nat", "-F"], check=True)


def _forward() -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
        file.write("1")
