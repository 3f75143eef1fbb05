# SPDX-License-Identifier: GPL-2.0-or-later
"""Match: which packets a lane holds, in the words of tc-flower.

    Match(ip_proto="tcp", dst_port=8080, tcp_syn=True)          new connections to port 8080, over IPv4 and IPv6
    Match(ip_proto="tcp", dst_port=(80, 443, "8000-8010"))      to any of these ports

A packet matches if every given part matches. A part with several values matches if one of them does. Without an
address, IPv4 and IPv6 both match. A fragment of a packet has no ports and no TCP flags, so it matches only if neither
is given. A packet with a VLAN tag belongs to the VLAN's own device and does not match, unless the tag has VLAN 0, which
only sets a priority.
"""

from __future__ import annotations

import ipaddress

from ..record import Record

__all__ = ["MAX_FILTERS", "MAX_TEXT", "Match", "match_of"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar, Union

    Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
    Range = tuple[int, int]
    Ports = Union[int, str, Iterable[Union[int, str]]]
    Addresses = Union[str, Iterable[str]]
    T = TypeVar("T")

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
MAX_FILTERS = 256  # for one lane; each combination of addresses and ports takes two
MAX_TEXT = 160  # characters of a match: the alias of the lane's ifb has room for that
_WITH_PORTS = ("tcp", "udp", "sctp")
_ONLY_IN = {"icmp": 4, "icmpv6": 6}


class Match(Record):
    """The packets that fit every given part. An invalid part raises ValueError, with the part's name.

    ``ip_proto``: 'tcp', 'udp', 'sctp', 'icmp', 'icmpv6' or a number. ``src_ip``, ``dst_ip``: an address or a prefix, as
    '10.0.0.0/8' or '2001:db8::1', or several in a tuple. ``src_port``, ``dst_port``: of tcp, udp or sctp, 1 to 65535 or
    a range, as '8000-8010', or several in a tuple. ``tcp_syn``: only the packet that opens a TCP connection (SYN set;
    ACK, RST and FIN clear).
    """

    __slots__ = ("ip_proto", "src_ip", "dst_ip", "src_port", "dst_port", "tcp_syn")
    ip_proto: str | None
    src_ip: str | tuple[str, ...] | None
    dst_ip: str | tuple[str, ...] | None
    src_port: int | str | tuple[int | str, ...] | None
    dst_port: int | str | tuple[int | str, ...] | None
    tcp_syn: bool

    def __init__(
        self,
        *,
        ip_proto: str | int | None = None,
        src_ip: Addresses | None = None,
        dst_ip: Addresses | None = None,
        src_port: Ports | None = None,
        dst_port: Ports | None = None,
        tcp_syn: bool = False,
    ) -> None:
        if not isinstance(tcp_syn, bool):
            raise ValueError(f"tcp_syn is {tcp_syn!r}: it must be True or False")
        protocol = _protocol(ip_proto)
        if tcp_syn:
            if protocol not in (None, "tcp"):
                raise ValueError(f"tcp_syn needs ip_proto tcp, and ip_proto is {ip_proto!r}: leave one out")
            protocol = "tcp"
        ports = {}
        for part, given in (("src_port", src_port), ("dst_port", dst_port)):
            ports[part] = _ports(part, given)
            if given is not None and protocol not in _WITH_PORTS:
                raise ValueError(f"{part} needs ip_proto tcp, udp or sctp, and ip_proto is {protocol!r}")
        source, destination = _networks("src_ip", src_ip), _networks("dst_ip", dst_ip)
        for part, networks in (("src_ip", source), ("dst_ip", destination)):
            only = _ONLY_IN.get(protocol or "")
            for network in networks:
                if only and network.version != only:
                    raise ValueError(f"{part} is an IPv{network.version} address, and {protocol} belongs to IPv{only}")
        if source and destination and {one.version for one in source} != {one.version for one in destination}:
            why = "are of different IP versions: give addresses of the same versions in both"
            raise ValueError(f"src_ip {src_ip} and dst_ip {dst_ip} {why}")
        super().__init__(
            protocol,
            _shown([str(network) for network in source]),
            _shown([str(network) for network in destination]),
            _shown([_port_text(span) for span in ports["src_port"]]),
            _shown([_port_text(span) for span in ports["dst_port"]]),
            tcp_syn,
        )
        self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        if len(str(self)) > MAX_TEXT:
            why = f"the match has {len(str(self))} characters, and a lane has room for {MAX_TEXT}"
            raise ValueError(f"{why}: use ranges and prefixes, or several lanes")
        count = 2 * sum(len(self.choices(family)) for family in self.families)
        if count > MAX_FILTERS:
            raise ValueError(f"the match takes {count} filters, and a lane has at most {MAX_FILTERS}: use ranges")

    def __str__(self) -> str:
        given = {name: value for name, value in self.as_dict().items() if value is not None and name != "tcp_syn"}
        parts = [f"{name}={','.join(map(str, _several(value)))}" for name, value in given.items()]
        return ",".join(parts + ["tcp_syn"] * self.tcp_syn) or "ip"

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:  # the constructor takes names only
        return _rebuilt, (self.as_dict(),)  # type: ignore[return-value]

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions that can match: (4, 6), (4,) or (6,)."""
        networks = self.networks("src_ip") or self.networks("dst_ip")
        if networks:
            return tuple(sorted({network.version for network in networks}))
        only = _ONLY_IN.get(self.ip_proto or "")
        return (only,) if only else (4, 6)

    @property
    def protocol(self) -> int | None:
        """The number of ip_proto."""
        if self.ip_proto is None:
            return None
        return PROTOCOLS[self.ip_proto] if self.ip_proto in PROTOCOLS else int(self.ip_proto)

    def networks(self, part: str) -> list[Network]:
        """Return the addresses of ``src_ip`` or ``dst_ip`` as networks, or none if the part is not given."""
        return [ipaddress.ip_network(text) for text in _several(getattr(self, part))]

    def ports(self, part: str) -> list[Range]:
        """Return the first and last port of each range of ``src_port`` or ``dst_port``, or none if it is not given."""
        return [_span(part, value) for value in _several(getattr(self, part))]

    def choices(self, family: int) -> list[tuple[Network | None, Network | None, Range | None, Range | None]]:
        """Return every combination of one value of src_ip, dst_ip, src_port and dst_port for an IP version."""
        sides: list[list[Network | None]] = []
        for part in ("src_ip", "dst_ip"):
            sides.append([one for one in self.networks(part) if one.version == family] or [None])
        ports: list[list[Range | None]] = [[*self.ports(part)] or [None] for part in ("src_port", "dst_port")]
        return [
            (source, destination, source_port, destination_port)
            for source in sides[0]
            for destination in sides[1]
            for source_port in ports[0]
            for destination_port in ports[1]
        ]

    def overlaps(self, other: Match) -> bool:
        """Return whether a packet can fit both matches."""
        if self.ip_proto != other.ip_proto and None not in (self.ip_proto, other.ip_proto):
            return False
        for part in ("src_port", "dst_port"):
            mine, theirs = self.ports(part), other.ports(part)
            if mine and theirs and not any(a[0] <= b[1] and b[0] <= a[1] for a in mine for b in theirs):
                return False
        for part in ("src_ip", "dst_ip"):
            ours, others = self.networks(part), other.networks(part)
            if ours and others and not any(a.overlaps(b) for a in ours for b in others):
                return False
        return not set(self.families).isdisjoint(other.families)


def match_of(text: str) -> Match | None:
    """Return the match whose str() is ``text``, or None."""
    parts: dict[str, object] = {}
    name = ""
    try:
        for word in text.split(",") if text != "ip" else []:
            if word == "tcp_syn":
                parts[word] = True
            elif "=" in word:
                name, _, parts[name] = word.partition("=")
            else:  # one more value of the same part
                parts[name] = f"{parts[name]},{word}"
        return _rebuilt(parts)
    except (KeyError, TypeError, ValueError):
        return None


def _rebuilt(parts: dict[str, object]) -> Match:
    return Match(**parts)  # type: ignore[arg-type]


def _several(value: T | tuple[T, ...] | None) -> tuple[T, ...]:
    """Return one value, several values in a tuple, or None, as a tuple."""
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _shown(values: list[T]) -> T | tuple[T, ...] | None:
    """Return the values as the attribute of a match: None, one value, or a tuple."""
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def _protocol(ip_proto: str | int | None) -> str | None:
    """Return the protocol's name if it is in PROTOCOLS, else its number as text."""
    if ip_proto is None:
        return None
    text = str(ip_proto).lower()
    if not isinstance(ip_proto, bool):
        if text in PROTOCOLS:
            return text
        if text.isdecimal() and text.isascii() and len(text) < 10 and int(text) <= 255:
            return {number: name for name, number in PROTOCOLS.items()}.get(int(text), str(int(text)))
    raise ValueError(f"ip_proto is {ip_proto!r}: it must be one of {', '.join(PROTOCOLS)}, or a number from 0 to 255")


def _values(part: str, given: object) -> list[object]:
    """Return the values that are given for a part: one, a text with commas, a tuple or a list."""
    values = given.split(",") if isinstance(given, str) else given if isinstance(given, (tuple, list)) else [given]
    if not values:
        raise ValueError(f"{part} is {given!r}: give at least one value, or leave it out")
    if isinstance(given, str) and len(values) > 1 and "" in values:
        raise ValueError(f"{part} is {given!r}: a value is missing before or after a comma")
    return list(values)


def _ports(part: str, given: object) -> list[Range]:
    """Return the ranges of ports in order, without those that another one contains."""
    spans = sorted(_span(part, value) for value in _values(part, given)) if given is not None else []
    merged: list[Range] = []
    for first, last in spans:
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _span(part: str, value: object) -> Range:
    first, between, last = value.partition("-") if isinstance(value, str) else (value, "", "")
    try:
        ends = [_port(end) for end in ((first, last) if between else (first,))]
    except ValueError:
        ends = []
    if not ends or ends[0] > ends[-1]:
        shown = value if isinstance(value, str) and value.isdecimal() else repr(value)
        raise ValueError(f"{part} is {shown}: it must be 1 to 65535, or a range, as 8000-8010")
    return ends[0], ends[-1]


def _port(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise ValueError
    return value


def _port_text(span: Range) -> int | str:
    first, last = span
    return first if first == last else f"{first}-{last}"


def _networks(part: str, given: object) -> list[Network]:
    """Return the networks in order, without those that another one contains."""
    networks = [_network(part, value) for value in _values(part, given)] if given is not None else []
    networks.sort(key=lambda one: (one.version, one.network_address, one.prefixlen))
    kept: list[Network] = []
    for network in networks:
        if not kept or not kept[-1].overlaps(network):  # the wider one comes first
            kept.append(network)
    return kept


def _network(part: str, text: object) -> Network:
    try:
        if not isinstance(text, str):
            raise ValueError("it must be text")
        if "%" in text:
            raise ValueError("a packet carries no zone")
        network = ipaddress.ip_network(text)
    except ValueError as error:
        why = str(error)
        if why.endswith("has host bits set"):
            given = ipaddress.ip_interface(str(text))
            why += f": give {given.network} or {given.ip}"
        raise ValueError(f"{part} is {text!r}: it must be an address or a prefix, as 10.0.0.0/8 ({why})") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        meant = ipaddress.ip_network((mapped, network.prefixlen - 96))
        why = "such packets are IPv4 on the wire"
        shown = meant.network_address if meant.prefixlen == 32 else meant
        raise ValueError(f"{part} is {text!r}, an IPv4-mapped address: {why}; give {shown}")
    return network
