# SPDX-License-Identifier: GPL-2.0-or-later
"""Which packets a lane holds: those that its match means, and no others, which flow on meanwhile."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libnlplug import Match, PlugLane
from tests.support.lane import UDP
from tests.support.netlab import PORT, eventually, unable, up
from tests.support.packets import LOOKS_INTO_TUNNELS, Packet, expected, matches, packets
from tests.support.road import FAR, FAR6, NEAR, NEAR6, Flow, Road, use_ipv6

HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])
NEW = Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)
NOBODY = b"\x02\0\0\0\0\x63"  # no device has this address, so nobody answers
NUMBER = struct.Struct("!I")
OPTIONS = {
    "none": b"",
    "four NOPs": b"\1" * 4,
    "record route": b"\7\x0b\4" + bytes(8) + b"\0",
    "timestamp": b"\x44\x0c\5\0" + bytes(8),
    "all that fit": b"\1" * 40,
}


@pytest.fixture(scope="module")
def road():
    """A veth pair with IPv4 and IPv6."""
    made = Road("veth")
    use_ipv6(made.near, made.device, NEAR6)
    use_ipv6(made.far, made.peer, FAR6)
    yield made
    made.close()


class Wiretap:
    """Frames of the test's own making, sent into a device as they are and seen as they arrive at the other end."""

    def __init__(self, road: Road, *, leaving: bool) -> None:
        ends = (road.near, road.device), (road.far, road.peer)
        (self._from, device), (to, peer) = ends if leaving else ends[::-1]
        self._out, self._in = (netns.run(self._socket, name) for netns, name in ((self._from, device), (to, peer)))

    @staticmethod
    def _socket(device: str) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind((device, 3))
        sock.setblocking(False)
        return sock

    def send(self, packet: Packet, number: int, tag: int | None = None) -> None:
        """Send the packet with a number behind it, in a frame with a VLAN tag or without."""
        kind = b"\x08\0" if packet.version == 4 else b"\x86\xdd"
        if tag is not None:
            kind = b"\x81\0" + struct.pack("!H", tag) + kind
        self._out.send(NOBODY + b"\x02\0\0\0\0\x62" + kind + packet.bytes + NUMBER.pack(number))

    def seen(self) -> list[int]:
        """The numbers of what has arrived."""
        numbers = []
        with suppress(BlockingIOError):
            while True:
                frame = self._in.recv(2048)
                if frame[:6] == NOBODY:
                    numbers += NUMBER.unpack(frame[-4:])
        return numbers

    def expect(self, numbers: set[int]) -> None:
        """These packets have come, or come within a moment, and no others."""
        seen: set[int] = set()

        def all_there() -> bool:
            seen.update(self.seen())
            return seen >= numbers

        eventually(all_there, "the packets that pass")
        assert seen == numbers

    def close(self) -> None:
        self._out.close()
        self._in.close()


@pytest.mark.parametrize("leaving", [True, False], ids=["egress", "ingress"])
def test_the_kernel_chooses_what_the_match_means(road: Road, leaving: bool) -> None:
    """For any match, the crafted packets that a lane holds are those that a matcher of another make chooses."""
    tap = Wiretap(road, leaving=leaving)
    answers: Counter[bool] = Counter()

    @settings(max_examples=25)
    @given(matches(), st.lists(packets(), min_size=20, max_size=40))
    def compare(match: Match, crafted: list[Packet]) -> None:
        wanted = [expected(match, packet) for packet in crafted]
        answers.update(wanted)
        with PlugLane(road.device, match, ingress=not leaving, netns=road.near) as lane:
            with lane.hold() as held:
                for number, packet in enumerate(crafted):
                    tap.send(packet, number)
                    if not leaving:  # a tap sees what arrives before it is held
                        count = sum(wanted[: number + 1])
                        eventually(lambda count=count: lane.plug.stats().qlen >= count, "the packets that are held")
                        assert lane.plug.stats().qlen == count
                if leaving:
                    passed = {number for number, is_held in enumerate(wanted) if not is_held}
                    tap.expect(passed)
            assert held.packets == sum(wanted)
        if leaving:
            tap.expect(set(range(len(crafted))) - passed)
        tap.seen()

    for _ in range(5):  # some 40 to 250 packets of 750 are chosen, as chance has it
        compare()
        if min(answers[True], answers[False]) > 30:
            break
    tap.close()
    assert min(answers[True], answers[False]) > 30


class Server:
    """A TCP server in the far namespace, or the near one, that sends back what it gets, on every connection."""

    def __init__(self, road: Road, address: str, *, far: bool = True) -> None:
        self._road, self.address = road, address
        netns = road.far if far else road.near
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = netns.run(socket.socket, family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((address, PORT))
        self._listener.listen(64)
        self._clients = road.near if far else road.far
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                threading.Thread(target=self._echo, args=(self._listener.accept()[0],), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def client(self, options: bytes = b"") -> socket.socket:
        """A socket of the other namespace, connecting; select it to learn when it is connected."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        sock = self._clients.run(socket.socket, family)
        sock.setblocking(False)
        if options:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        with suppress(BlockingIOError):
            sock.connect((self.address, PORT))
        return sock

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def connected(sock: socket.socket) -> bool:
    """Whether the connection is made."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


@contextmanager
def serving(road: Road, address: str, **options):
    server = Server(road, address, **options)
    try:
        yield server
    finally:
        server.close()


def echo(sock: socket.socket, count: int) -> None:
    """Send and get back ``count`` lines, within two seconds."""
    sock.settimeout(2)
    for number in range(count):
        line = b"%6d" % number
        sock.sendall(line)
        assert sock.recv(6) == line
    sock.setblocking(False)


@HOOKS
@pytest.mark.parametrize("address", [FAR, FAR6], ids=["IPv4", "IPv6"])
def test_new_connections_wait_and_established_ones_do_not(road: Road, address: str, ingress: bool) -> None:
    """A connection that was made before the hold echoes on during it; new ones are made after it, and none fails."""
    far = not ingress
    if ingress:
        address = {FAR: NEAR, FAR6: NEAR6}[address]
    with serving(road, address, far=far) as server:
        old = server.client()
        eventually(lambda: connected(old), "connected")
        with PlugLane(road.device, NEW, ingress=ingress, netns=road.near) as lane:
            with lane.hold() as held:
                new = [server.client() for _ in range(5)]
                eventually(lambda: lane.plug.stats().qlen == 5, "5 SYNs wait")
                echo(old, 100)
                assert not any(map(connected, new))
            eventually(lambda: all(map(connected, new)), "all are connected", within=2)
            assert held.packets == 5
            for sock in new:
                echo(sock, 2)
        for sock in (old, *new):
            sock.close()


@pytest.mark.parametrize("address", [FAR, FAR6], ids=["IPv4", "IPv6"])
def test_answers_to_a_syn_do_not_wait(road: Road, address: str) -> None:
    """SYN with ACK is no new connection: with the lane on its way, connections are made during the hold."""
    back = Match(ip_proto="tcp", src_port=PORT, tcp_syn=True)
    with serving(road, address) as server:
        with PlugLane(road.device, back, ingress=True, netns=road.near) as lane, lane.hold() as held:
            sock = server.client()
            eventually(lambda: connected(sock), "connected", within=2)
        assert held.packets == 0
        everything = Match(ip_proto="tcp", src_port=PORT)  # the same without tcp_syn does hold them
        with PlugLane(road.device, everything, ingress=True, netns=road.near) as lane, lane.hold():
            late = server.client()
            eventually(lambda: lane.plug.stats().qlen, "the answer waits")
            assert not connected(late)
        eventually(lambda: connected(late), "connected", within=2)
        sock.close()
        late.close()


@HOOKS
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_ip_options(road: Road, options: bytes, ingress: bool) -> None:
    """A SYN with IP options before its TCP header, sent by a socket with IP_OPTIONS, is held as one without."""
    with serving(road, NEAR if ingress else FAR, far=not ingress) as server:
        with PlugLane(road.device, NEW, ingress=ingress, netns=road.near) as lane:
            with lane.hold():
                sock = server.client(options)
                eventually(lambda: lane.plug.stats().qlen == 1, "the SYN waits")
                backlog = lane.plug.stats().backlog
            eventually(lambda: connected(sock), "connected", within=2)
        plain = 14 + 20 + 40
        assert backlog == plain + len(options)
        echo(sock, 3)
        sock.close()


@HOOKS
def test_fragments_have_no_ports(road: Road, ingress: bool) -> None:
    """A datagram in three fragments passes a lane for its port; a lane for its address holds all three."""
    flow = road.flow(ingress)
    big = NUMBER.pack(flow.sent).ljust(4000, b".")
    flow.sent += 1
    with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane:
        with lane.hold() as held:
            flow._source.sendto(big, flow._to)
            eventually(lambda: flow.arrived() == [flow.sent - 1], "the datagram arrives")
        assert held.packets == 0
    only = Match(ip_proto="udp", dst_ip=NEAR if ingress else FAR)
    with PlugLane(road.device, only, ingress=ingress, netns=road.near) as lane, lane.hold():
        flow._source.sendto(big, flow._to)
        eventually(lambda: lane.plug.stats().qlen == 3, "three fragments wait")
        assert flow.arrived() == []
    eventually(lambda: flow.arrived() == [flow.sent - 1], "the datagram arrives")


def test_an_extension_header_before_the_ports(road: Road) -> None:
    """An IPv6 packet with a hop-by-hop header before its TCP header is held as one without."""
    tap = Wiretap(road, leaving=True)
    packet = Packet(6, 0, NEAR6, FAR6, b"", 0, 1234, PORT, 0x02)
    hop_by_hop = b"\6\0\1\4\0\0\0\0"
    packet.bytes = packet.bytes[:4] + b"\0\x1c" + packet.bytes[6:40] + hop_by_hop + packet.bytes[40:]
    with PlugLane(road.device, NEW, netns=road.near) as lane:
        with lane.hold() as held:
            tap.send(packet, 1)
            assert tap.seen() == []
        assert held.packets == 1
    assert tap.seen() == [1]
    tap.close()


def test_the_packets_in_a_tunnel_are_not_the_devices(road: Road) -> None:
    """A SYN inside of a tunnel's packet is not one on the device that the tunnel's packets leave through."""
    if LOOKS_INTO_TUNNELS:
        unable("this kernel's flower looks into tunnels")
    tap = Wiretap(road, leaving=True)
    inner = Packet(4, 6, NEAR, FAR, b"", 0, 1234, PORT, 0x02)
    outer = Packet(4, 4, NEAR, FAR, b"", 0, 1, 2, 0)
    outer.bytes = outer.bytes[:2] + struct.pack("!H", 20 + len(inner.bytes)) + outer.bytes[4:20] + inner.bytes
    with PlugLane(road.device, NEW, netns=road.near) as lane, lane.hold() as held:
        tap.send(outer, 1)
        assert tap.seen() == [1]
    assert held.packets == 0
    tap.close()


def test_arriving_frames_with_a_priority_but_no_vlan(road: Road) -> None:
    """A frame whose tag has VLAN 0 belongs to the device and is held, over IPv4 and IPv6; one of VLAN 7 is not."""
    tap = Wiretap(road, leaving=False)
    for version, ends in ((4, (NEAR, FAR)), (6, (NEAR6, FAR6))):
        packet = Packet(version, 6, *ends, b"", 0, 1234, PORT, 0x02)
        with PlugLane(road.device, NEW, ingress=True, netns=road.near) as lane:
            with lane.hold() as held:
                for number, tag in enumerate((0, 7, 0xA000)):
                    tap.send(packet, number, tag)
                eventually(lambda lane=lane: lane.plug.stats().qlen == 2, "two wait")
            assert held.packets == 2
    tap.close()


def test_leaving_frames_with_a_priority_but_no_vlan(road: Road) -> None:
    """What leaves through a device for VLAN 0 is held on the device below."""
    mac = road.far.link(road.peer)["address"]
    road.near.ip(
        f"link add link {road.device} name priority type vlan id 0",
        *up("priority", "198.51.100.1"),
        f"neigh add 198.51.100.2 lladdr {mac} dev priority nud permanent",
    )
    road.far.ip(f"addr add 198.51.100.2/24 dev {road.peer}")
    flow = Flow(road.near, road.far, "198.51.100.2")
    eventually(lambda: flow.send(1) and flow.arrived(), "packets arrive at all")
    flow.arrived()
    with PlugLane(road.device, UDP, netns=road.near) as lane, lane.hold():
        numbers = flow.expect_held(lane)
    flow.expect(numbers)
    flow.close()
    road.near.ip("link del priority")
    road.far.ip(f"addr del 198.51.100.2/24 dev {road.peer}")


def ping(road: Road, address: str, count: int) -> None:
    """That many pings with their answers, within two seconds."""
    road.near.command("ping", "-q", "-i", "0.002", "-c", str(count), "-W", "2", address)


@HOOKS
def test_pings_of_one_ip_version_wait(road: Road, ingress: bool) -> None:
    """icmp is IPv4's and icmpv6 is IPv6's: while one is held, pings of the other, and UDP, go on."""
    for proto, address, other in (("icmp", FAR, FAR6), ("icmpv6", FAR6, FAR)):
        ping(road, address, 2)  # neighbours are found out by ICMPv6
        with PlugLane(road.device, Match(ip_proto=proto), ingress=ingress, netns=road.near) as lane:
            with lane.hold() as held:
                ping(road, other, 20)
                with pytest.raises(RuntimeError):
                    road.near.command("ping", "-q", "-c", "1", "-W", "0.2", address)
                road.flow(ingress).expect(road.flow(ingress).send())
            assert held.packets
            ping(road, address, 2)


@HOOKS
def test_what_is_not_matched_flows_on(road: Road, ingress: bool) -> None:
    """While one port is held for half a second, other ports, a TCP connection and pings lose and delay nothing."""
    others = [Flow(road.near, road.far, FAR, PORT + 1), Flow(road.far, road.near, NEAR, PORT - 1)]
    with serving(road, FAR) as server:
        sock = server.client()
        eventually(lambda: connected(sock), "connected")
        with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane:
            with lane.hold() as held:
                numbers = road.flow(ingress).expect_held(lane, 10)
                until = time.monotonic() + 0.5
                while time.monotonic() < until:
                    for flow in others:
                        flow.expect(flow.send(3))
                    road.flow(not ingress).expect(road.flow(not ingress).send(3))
                    echo(sock, 10)
                ping(road, FAR, 20)
            road.flow(ingress).expect(numbers)
        assert held.packets == 10
        sock.close()
    for flow in others:
        flow.close()


@pytest.mark.parametrize(
    ("parts", "held"),
    [
        ({}, True),
        ({"src_ip": NEAR, "dst_ip": FAR}, True),
        ({"src_ip": "192.0.2.0/24"}, True),
        ({"src_ip": "192.0.2.0/32"}, False),
        ({"dst_ip": "192.0.2.2/31"}, True),
        ({"dst_ip": "192.0.2.0/31"}, False),
        ({"dst_ip": "0.0.0.0/0"}, True),
        ({"dst_ip": "::/0"}, False),
        ({"ip_proto": 17, "src_ip": NEAR, "dst_ip": FAR, "dst_port": PORT}, True),
        ({"ip_proto": "udp", "src_port": PORT}, False),
        ({"ip_proto": "tcp"}, False),
        ({"dst_ip": ("10.0.0.0/8", FAR, "::1")}, True),
        ({"dst_ip": ("10.0.0.0/8", "::1")}, False),
        ({"ip_proto": "udp", "dst_port": (1, PORT)}, True),
        ({"ip_proto": "udp", "dst_port": (1, PORT + 1)}, False),
        ({"ip_proto": "udp", "dst_port": f"{PORT - 3}-{PORT}"}, True),
        ({"ip_proto": "udp", "dst_port": f"{PORT}-{PORT + 3}"}, True),
        ({"ip_proto": "udp", "dst_port": f"1-{PORT - 1},{PORT + 1}-65535"}, False),
    ],
)
def test_addresses_and_numbers(road: Road, parts: dict, held: bool) -> None:
    """Prefixes and protocol numbers mean what they say, on packets of a real socket."""
    with PlugLane(road.device, Match(**parts), netns=road.near) as lane, lane.hold():
        numbers = road.leaving.send(3)
        assert lane.plug.stats().qlen == (3 if held else 0)
        if not held:
            road.leaving.expect(numbers)
    if held:
        road.leaving.expect(numbers)


def test_a_tagged_packet_is_the_vlans() -> None:
    """What leaves through a VLAN does not match on the device below it, only on the VLAN's own."""
    vlan = Road("vlan")
    under = next(link["link"] for link in vlan.near.links() if link["ifname"] == vlan.device)
    with PlugLane(under, UDP, netns=vlan.near) as lane, lane.hold():
        vlan.leaving.expect(vlan.leaving.send())
    with PlugLane(vlan.device, UDP, netns=vlan.near) as lane, lane.hold():
        numbers = vlan.leaving.expect_held(lane)
    vlan.leaving.expect(numbers)
    vlan.close()
