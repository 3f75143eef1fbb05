# SPDX-License-Identifier: GPL-2.0-or-later
"""Match: which packets a lane holds, in the words of tc-flower, as the 32-bit keys that the u32 classifier compares.

    Match(ip_proto="tcp", dst_port=8080, tcp_syn=True)      new connections to port 8080, over IPv4 and IPv6

All parts that are given must hold. Without an address, IPv4 and IPv6 both match. Where the ports are looked at, IPv4
packets match with IP options too, and only whole packets and first fragments, which alone carry ports; IPv6 packets
match where the transport header comes right after the IPv6 header. A packet with a VLAN tag on the device does not
match: make the lane on the VLAN's own device.
"""

from __future__ import annotations

import ipaddress

from ..record import Record

__all__ = ["Keys", "Match", "match_of"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Keys = list[tuple[int, int, int]]  # offset in bytes, value, mask: 32-bit words as they are read from the wire
    Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
else:
    Keys = list

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_WITH_PORTS = ("tcp", "udp", "sctp")
_ONLY_IN = {"icmp": 4, "icmpv6": 6}

_SYN, _SYN_RST_ACK_FIN = 0x02, 0x17


class Match(Record):
    """The packets that fit every given part; ValueError, naming the part, for what cannot be expressed.

    ``ip_proto``: 'tcp', 'udp', 'sctp', 'icmp', 'icmpv6' or a number. ``src_ip``, ``dst_ip``: an address or a prefix, as
    '10.0.0.0/8' or '2001:db8::1'. ``src_port``, ``dst_port``: 1 to 65535, of tcp, udp or sctp. ``tcp_syn``: only the
    packet that opens a TCP connection (SYN set; ACK, RST and FIN clear).
    """

    __slots__ = ("ip_proto", "src_ip", "dst_ip", "src_port", "dst_port", "tcp_syn")
    ip_proto: str | None
    src_ip: str | None
    dst_ip: str | None
    src_port: int | None
    dst_port: int | None
    tcp_syn: bool

    def __init__(
        self,
        *,
        ip_proto: str | int | None = None,
        src_ip: str | None = None,
        dst_ip: str | None = None,
        src_port: int | None = None,
        dst_port: int | None = None,
        tcp_syn: bool = False,
    ) -> None:
        if not isinstance(tcp_syn, bool):
            raise ValueError(f"tcp_syn is {tcp_syn!r}: it must be True or False")
        protocol = _protocol(ip_proto)
        if tcp_syn:
            if protocol not in (None, "tcp"):
                raise ValueError(f"tcp_syn is of tcp, and ip_proto is {ip_proto!r}: leave one of them out")
            protocol = "tcp"
        for part, port in (("src_port", src_port), ("dst_port", dst_port)):
            if port is None:
                continue
            if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
                raise ValueError(f"{part} is {port!r}: it must be 1 to 65535")
            if protocol not in _WITH_PORTS:
                raise ValueError(f"{part} needs ip_proto tcp, udp or sctp, and ip_proto is {protocol!r}")
        source, destination = _network("src_ip", src_ip), _network("dst_ip", dst_ip)
        if source and destination and source.version != destination.version:
            raise ValueError(f"src_ip {src_ip} and dst_ip {dst_ip} are of different IP versions: no packet has both")
        for part, network in (("src_ip", source), ("dst_ip", destination)):
            only = _ONLY_IN.get(protocol or "")
            if network and only and network.version != only:
                raise ValueError(f"{part} is of IPv{network.version}, where there is no {protocol}")
        super().__init__(protocol, _text(source), _text(destination), src_port, dst_port, tcp_syn)

    def __str__(self) -> str:
        given = {name: value for name, value in self.as_dict().items() if value is not None and name != "tcp_syn"}
        parts = [f"{name}={value}" for name, value in given.items()]
        return ",".join(parts + ["tcp_syn"] * self.tcp_syn) or "ip"

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:  # the constructor takes names only
        return _rebuilt, (self.as_dict(),)  # type: ignore[return-value]

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions that can match: (4, 6), (4,) or (6,)."""
        network = self.src_ip or self.dst_ip
        if network:
            return (ipaddress.ip_network(network).version,)
        only = _ONLY_IN.get(self.ip_proto or "")
        return (only,) if only else (4, 6)

    def overlaps(self, other: Match) -> bool:
        """Whether a packet may fit both."""
        for name in ("ip_proto", "src_port", "dst_port"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and None not in (mine, theirs):
                return False
        for mine, theirs in ((self.src_ip, other.src_ip), (self.dst_ip, other.dst_ip)):
            if mine and theirs and not ipaddress.ip_network(mine).overlaps(ipaddress.ip_network(theirs)):
                return False
        return not set(self.families).isdisjoint(other.families)

    def network_keys(self, family: int) -> Keys:
        """The keys in the IP header; offsets from its start."""
        words: dict[int, tuple[int, int]] = {}
        if family == 4:
            if self.ip_proto is not None:
                _add(words, 8, _number(self.ip_proto) << 16, 0xFF << 16)
            if self.transport_keys():
                _add(words, 4, 0, 0x1FFF)  # a later fragment has no ports
            addresses = ((12, self.src_ip), (16, self.dst_ip))
        else:
            if self.ip_proto is not None:
                _add(words, 4, _number(self.ip_proto) << 8, 0xFF << 8)
            addresses = ((8, self.src_ip), (24, self.dst_ip))
        for offset, text in addresses:
            if text is None:
                continue
            network = ipaddress.ip_network(text)
            value, mask = network.network_address.packed, network.netmask.packed
            for at in range(0, len(value), 4):
                word, bits = (int.from_bytes(part[at : at + 4], "big") for part in (value, mask))
                if bits:
                    _add(words, offset + at, word, bits)
        return [(offset, value, mask) for offset, (value, mask) in sorted(words.items())]

    def transport_keys(self) -> Keys:
        """The keys in the transport header; offsets from its start."""
        words: dict[int, tuple[int, int]] = {}
        if self.src_port is not None:
            _add(words, 0, self.src_port << 16, 0xFFFF << 16)
        if self.dst_port is not None:
            _add(words, 0, self.dst_port, 0xFFFF)
        if self.tcp_syn:
            _add(words, 12, _SYN << 16, _SYN_RST_ACK_FIN << 16)
        return [(offset, value, mask) for offset, (value, mask) in sorted(words.items())]


def match_of(text: str) -> Match | None:
    """The match that is written so by str(); None for what is none."""
    parts: dict[str, object] = {}
    try:
        for part in text.split(",") if text != "ip" else []:
            name, _, value = part.partition("=")
            parts[name] = True if name == "tcp_syn" else int(value) if name.endswith("_port") else value
        return _rebuilt(parts)
    except (TypeError, ValueError):
        return None


def _rebuilt(parts: dict[str, object]) -> Match:
    return Match(**parts)  # type: ignore[arg-type]


def _add(words: dict[int, tuple[int, int]], offset: int, value: int, mask: int) -> None:
    before_value, before_mask = words.get(offset, (0, 0))
    words[offset] = (before_value | value, before_mask | mask)


def _protocol(ip_proto: str | int | None) -> str | None:
    """The protocol's name where it has one here, else its number as text."""
    if ip_proto is None:
        return None
    text = str(ip_proto).lower()
    if not isinstance(ip_proto, bool):
        if text in PROTOCOLS:
            return text
        if text.isdecimal() and text.isascii() and len(text) < 10 and int(text) <= 255:
            return {number: name for name, number in PROTOCOLS.items()}.get(int(text), str(int(text)))
    raise ValueError(f"ip_proto is {ip_proto!r}: it must be one of {', '.join(PROTOCOLS)}, or a number from 0 to 255")


def _number(protocol: str) -> int:
    return PROTOCOLS[protocol] if protocol in PROTOCOLS else int(protocol)


def _network(part: str, text: str | None) -> Network | None:
    if text is None:
        return None
    try:
        if not isinstance(text, str):
            raise ValueError("it must be text")
        if "%" in text:
            raise ValueError("a packet carries no zone")
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{part} is {text!r}: it must be an address or a prefix, as 10.0.0.0/8 ({error})") from None


def _text(network: Network | None) -> str | None:
    return None if network is None else str(network)
