# SPDX-License-Identifier: GPL-2.0-or-later
"""IP packets of many shapes, matches for them, and a matcher of another make than the library's."""

from __future__ import annotations

import ipaddress
import os
import re
import struct

from hypothesis import assume
from hypothesis import strategies as st

from libnlplug import Match

# Before, flower filters saw the packets inside of GRE, IPIP and 6in4.
LOOKS_INTO_TUNNELS = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (5, 16)
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}

addresses4 = st.sampled_from(["10.1.2.3", "10.1.2.4", "10.9.9.9", "192.0.2.1", "0.0.0.0", "255.255.255.255"])
addresses6 = st.sampled_from(["2001:db8::1", "2001:db8::2", "2001:db8:1::1", "fe80::1", "::", "ffff:" * 7 + "ffff"])
ports = st.sampled_from([1, 2, 80, 0x1234, 0x3412, 8080, 65535])
wanted_ports = ports | st.sampled_from(["1-2", "80-8080", "2-65534", (1, 80), (2, "80-4660", 8080)])
protocols = st.sampled_from([0, 1, 6, 17, 41, 44, 58, 132, 255])


@st.composite
def prefixes(draw, addresses) -> str:
    address = ipaddress.ip_address(draw(addresses))
    length = draw(st.integers(0, address.max_prefixlen) | st.just(address.max_prefixlen))
    return str(ipaddress.ip_network((address, length), strict=False))


@st.composite
def matches(draw) -> Match:
    parts: dict = {"ip_proto": draw(st.none() | protocols), "tcp_syn": draw(st.booleans())}
    if parts["tcp_syn"]:
        parts["ip_proto"] = draw(st.sampled_from([None, "tcp"]))
    if parts["ip_proto"] in ("tcp", 6, 17, 132) or parts["tcp_syn"]:
        parts |= {name: draw(st.none() | wanted_ports) for name in ("src_port", "dst_port")}
    if parts["tcp_syn"] and (parts["src_port"] or parts["dst_port"]):
        parts["ip_proto"] = "tcp"
    only = {1: 4, 58: 6}.get(parts["ip_proto"])
    addresses = addresses4 if (only or draw(st.sampled_from([4, 6]))) == 4 else addresses6
    networks = prefixes(addresses) | st.lists(prefixes(addresses), min_size=2, max_size=2)
    parts |= {name: draw(st.none() | networks) for name in ("src_ip", "dst_ip")}
    try:
        return Match(**parts)
    except ValueError as error:
        assume("characters" not in str(error))  # too many long addresses for one lane
        raise


class Packet:
    """An IP packet, known by its fields and by its bytes. What has no ports has other bytes in their place."""

    def __init__(self, version, proto, src, dst, options, fragment, sport, dport, flags) -> None:
        self.version, self.proto, self.fragment = version, proto, fragment if version == 4 else 0
        self.src, self.dst = (ipaddress.ip_address(address) for address in (src, dst))
        self.sport, self.dport, self.flags = sport, dport, flags
        transport = struct.pack("!HHIIBBHHH", sport, dport, 1, 2, 0x50, flags, 512, 0, 0)
        if version == 4:
            first = 0x40 | 5 + len(options) // 4
            size = 20 + len(options) + len(transport)
            head = struct.pack("!BBHHHBBH", first, 0x2E, size, 7, 0x4000 | fragment, 64, proto, 0)
            self.bytes = head + self.src.packed + self.dst.packed + options + transport
        else:
            head = struct.pack("!IHBB", 0x6AB12345, len(transport), proto, 64)
            self.bytes = head + self.src.packed + self.dst.packed + transport


@st.composite
def packets(draw) -> Packet:
    version = draw(st.sampled_from([4, 6]))
    addresses = addresses4 if version == 4 else addresses6
    options = draw(st.sampled_from([b"", b"", b"\1" * 4, b"\7\7\4\0\0\0\0\0", b"\1" * 40]))
    fragment = draw(st.sampled_from([0, 0, 0, 0x2000, 1, 0x1FFF, 0x2001]))  # 0x2000: more fragments follow
    proto = draw(protocols | st.just(6))
    if (version == 6 and proto in (0, 44)) or (LOOKS_INTO_TUNNELS and proto in (4, 41, 47)):  # other headers follow
        proto = 6
    flags = draw(st.sampled_from([0x02, 0x02, 0xC2, 0x12, 0x10, 0x18, 0x04, 0x06, 0x03, 0x00]))
    return Packet(version, proto, draw(addresses), draw(addresses), options, fragment, draw(ports), draw(ports), flags)


def expected(match: Match, packet: Packet) -> bool:
    """Whether the match means the packet, told from the packet's fields alone."""
    for part, address in ((match.src_ip, packet.src), (match.dst_ip, packet.dst)):
        if part is not None and not any(address in ipaddress.ip_network(one) for one in several(part)):
            return False
    if packet.version != {"icmp": 4, "icmpv6": 6}.get(match.ip_proto or "", packet.version):
        return False
    if match.ip_proto is not None and packet.proto != NUMBERS.get(match.ip_proto, -1):
        return match.ip_proto.isdecimal() and packet.proto == int(match.ip_proto)
    if match.src_port is None and match.dst_port is None and not match.tcp_syn:
        return True
    if packet.fragment:  # the kernel's flower filters read no ports of fragments, not even of the first
        return False
    if match.tcp_syn and (not packet.flags & 0x02 or packet.flags & 0x15):
        return False
    return all(
        part is None or any(low <= port <= high for low, high in map(span, several(part)))
        for part, port in ((match.src_port, packet.sport), (match.dst_port, packet.dport))
    )


def several(part) -> tuple:
    return part if isinstance(part, tuple) else (part,)


def span(port) -> tuple[int, int]:
    low, _, high = str(port).partition("-")
    return int(low), int(high or low)
