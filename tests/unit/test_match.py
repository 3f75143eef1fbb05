# SPDX-License-Identifier: GPL-2.0-or-later
"""Match: what it refuses, how it is written, and that its keys choose what a matcher of another make chooses."""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libnlplug import Match
from libnlplug.lane.filters import SLOTS
from libnlplug.lane.ifb import alias_of
from libnlplug.lane.inventory import place_of
from libnlplug.lane.match import MAX_FILTERS, MAX_TEXT, match_of
from tests.support.packets import Packet, expected, matches, packets

LONGEST_IP = "1111:2222:3333:4444:5555:6666:7777:8888"


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"ip_proto": "tpc"}, r"ip_proto is 'tpc': it must be one of icmp, tcp, udp, icmpv6, sctp, or a number"),
        ({"ip_proto": 256}, "ip_proto is 256: .* from 0 to 255"),
        ({"ip_proto": -1}, "ip_proto is -1"),
        ({"ip_proto": "9" * 5000}, "ip_proto is '9999"),
        ({"ip_proto": 6.0}, "ip_proto is 6.0"),
        ({"ip_proto": True}, "ip_proto is True"),
        ({"ip_proto": ""}, "ip_proto is ''"),
        ({"ip_proto": "²"}, "ip_proto is '²'"),
        (
            {"src_ip": "10.0.0.1/8"},
            r"src_ip is '10.0.0.1/8': .* as 10.0.0.0/8 \(10.0.0.1/8 has host bits set: give 10.0.0.0/8 or 10.0.0.1\)",
        ),
        ({"dst_ip": "10.0.0"}, "dst_ip is '10.0.0': it must be an address or a prefix"),
        ({"dst_ip": "localhost"}, "dst_ip is 'localhost'"),
        ({"dst_ip": ""}, "dst_ip is ''"),
        ({"dst_ip": 1}, r"dst_ip is 1: .* \(it must be text\)"),
        ({"src_ip": b"\x7f\0\0\1"}, "src_ip is b'.*it must be text"),
        ({"src_ip": "fe80::1%eth0"}, r"src_ip is 'fe80::1%eth0': .* \(a packet carries no zone\)"),
        ({"src_ip": "10.0.0.1", "dst_ip": "::1"}, "src_ip 10.0.0.1 and dst_ip ::1 are of different IP versions"),
        ({"src_ip": "::1", "ip_proto": "icmp"}, "src_ip is an IPv6 address, and icmp belongs to IPv4"),
        ({"dst_ip": "10.0.0.1", "ip_proto": 58}, "dst_ip is an IPv4 address, and icmpv6 belongs to IPv6"),
        ({"dst_port": 80}, "dst_port needs ip_proto tcp, udp or sctp, and ip_proto is None"),
        ({"src_port": 80, "ip_proto": "icmp"}, "src_port needs ip_proto tcp, udp or sctp, and ip_proto is 'icmp'"),
        ({"src_port": 0, "ip_proto": "tcp"}, "src_port is 0: it must be 1 to 65535"),
        ({"dst_port": 65536, "ip_proto": "tcp"}, "dst_port is 65536: it must be 1 to 65535"),
        ({"dst_port": True, "ip_proto": "tcp"}, "dst_port is True"),
        ({"dst_port": (), "ip_proto": "tcp"}, r"dst_port is \(\): give at least one value"),
        ({"dst_port": (80, 0), "ip_proto": "tcp"}, "dst_port is 0: it must be 1 to 65535, or a range, as 8000-8010"),
        ({"dst_port": "80,", "ip_proto": "tcp"}, "dst_port is '80,': a value is missing before or after a comma"),
        ({"dst_port": "90-80", "ip_proto": "tcp"}, "dst_port is '90-80'"),
        ({"dst_port": "80-90-100", "ip_proto": "tcp"}, "dst_port is '80-90-100'"),
        ({"dst_port": "http", "ip_proto": "tcp"}, "dst_port is 'http'"),
        ({"dst_port": "+80", "ip_proto": "tcp"}, r"dst_port is '\+80'"),
        ({"dst_port": 80.0, "ip_proto": "tcp"}, "dst_port is 80.0"),
        ({"dst_port": tuple(range(1, 65535, 2)), "ip_proto": "tcp"}, "the match has [0-9]+ characters, and a lane has"),
        (
            {"src_port": tuple(range(1, 40, 2)), "dst_port": tuple(range(1, 40, 2)), "ip_proto": "tcp"},
            "the match takes 1",
        ),
        ({"dst_ip": "::ffff:10.9.0.2"}, "dst_ip is '::ffff:10.9.0.2', an IPv4-mapped address: .*; give 10.9.0.2$"),
        ({"src_ip": ("::1", "::ffff:10.0.0.0/104")}, "src_ip is '::ffff:10.0.0.0/104', .*; give 10.0.0.0/8$"),
        ({"tcp_syn": 1}, "tcp_syn is 1: it must be True or False"),
        ({"tcp_syn": True, "ip_proto": "udp"}, "tcp_syn needs ip_proto tcp, and ip_proto is 'udp': leave one out"),
    ],
)
def test_what_cannot_be_expressed_is_refused(parts: dict, sentence: str) -> None:
    """A part that means nothing, or goes with no other, is ValueError in a sentence that begins with its name."""
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Match(**parts)


def test_parts_have_names_only() -> None:
    """Positional arguments, and names that there are not, are TypeError: nothing is guessed."""
    with pytest.raises(TypeError):
        Match("tcp")  # type: ignore[misc]
    with pytest.raises(TypeError):
        Match(dport=80)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ip_proto": 6}, {"ip_proto": "tcp"}),
        ({"ip_proto": "TCP"}, {"ip_proto": "tcp"}),
        ({"ip_proto": "06"}, {"ip_proto": "tcp"}),
        ({"tcp_syn": True}, {"tcp_syn": True, "ip_proto": 6}),
        ({"src_ip": "10.0.0.1"}, {"src_ip": "10.0.0.1/32"}),
        ({"dst_ip": "10.0.0.0/255.0.0.0"}, {"dst_ip": "10.0.0.0/8"}),
        ({"dst_ip": "2001:DB8:0::1"}, {"dst_ip": "2001:db8::1/128"}),
        ({"dst_ip": "10.0.0.1,10.0.0.0/8,::1"}, {"dst_ip": ["::1", "10.0.0.0/8"]}),
        ({"ip_proto": 6, "dst_port": "80"}, {"ip_proto": "tcp", "dst_port": 80}),
        ({"ip_proto": 6, "dst_port": "443,80"}, {"ip_proto": "tcp", "dst_port": (80, 443, 80)}),
        ({"ip_proto": 6, "dst_port": ("1-10", 5, "8-12", "7-7")}, {"ip_proto": "tcp", "dst_port": "1-12"}),
    ],
)
def test_what_means_the_same_is_the_same(one: dict, other: dict) -> None:
    """Different spellings of the same packets are equal, and written alike: a lane for either is adopted."""
    assert Match(**one) == Match(**other)
    assert str(Match(**one)) == str(Match(**other))
    assert hash(Match(**one)) == hash(Match(**other))


@pytest.mark.parametrize(
    ("parts", "families"),
    [
        ({}, (4, 6)),
        ({"ip_proto": "tcp", "dst_port": 1, "tcp_syn": True}, (4, 6)),
        ({"src_ip": "0.0.0.0/0"}, (4,)),
        ({"dst_ip": "::/0"}, (6,)),
        ({"ip_proto": "icmp"}, (4,)),
        ({"ip_proto": 58}, (6,)),
    ],
)
def test_families(parts: dict, families: tuple[int, ...]) -> None:
    """Both IP versions match, but for an address or a protocol that only one of them has."""
    assert Match(**parts).families == families


def test_a_match_does_not_change() -> None:
    """Its parts cannot be set; a copy and a pickle are equal to it."""
    match = Match(ip_proto="tcp", dst_port=80, src_ip="10.0.0.0/8", tcp_syn=True)
    with pytest.raises(AttributeError, match="dst_port is read-only"):
        match.dst_port = 81
    assert copy.deepcopy(match) == match
    assert pickle.loads(pickle.dumps(match)) == match


def chosen(match: Match, packet: Packet) -> bool:
    """Whether one of the combinations of values chooses the packet, read as cls_flower reads the fields."""
    fields = packet.sport, packet.dport, packet.flags
    sport, dport, flags = (0, 0, 0) if packet.fragment else fields
    return packet.version in match.families and any(
        (match.protocol in (None, packet.proto))
        and (source is None or packet.src in source)
        and (destination is None or packet.dst in destination)
        and (source_port is None or source_port[0] <= sport <= source_port[1])
        and (destination_port is None or destination_port[0] <= dport <= destination_port[1])
        and (not match.tcp_syn or flags & 0x17 == 0x02)
        for source, destination, source_port, destination_port in match.choices(packet.version)
    )


def test_the_choices_are_what_the_match_means() -> None:
    """For any match and packet, the combinations and a matcher that looks at the parts agree; both answers are
    frequent."""
    answers: Counter[bool] = Counter()

    @settings(max_examples=200)
    @given(matches(), st.lists(packets(), min_size=8, max_size=12))
    def compare(match: Match, crafted: list[Packet]) -> None:
        wanted = [expected(match, packet) for packet in crafted]
        answers.update(wanted)
        assert [chosen(match, packet) for packet in crafted] == wanted

    for _ in range(5):  # 33 to 329 packets of some 2,000 are chosen, as chance has it
        compare()
        if min(answers[True], answers[False]) > 50:
            break
    assert min(answers[True], answers[False]) > 50


@given(matches(), matches())
def test_another_match_is_written_otherwise(one: Match, other: Match) -> None:
    """Matches are written alike exactly if they are equal: the text in an ifb's alias says which lane it is."""
    assert (str(one) == str(other)) == (one == other)


def test_the_longest_match_fits_into_an_alias() -> None:
    """The kernel keeps 255 bytes of an alias: enough for the longest match with the largest numbers around it."""
    match = Match(
        ip_proto="tcp",
        src_ip=f"{LONGEST_IP}/127".replace("8888", "8886"),
        dst_ip=f"{LONGEST_IP}/128",
        src_port=65535,
        dst_port=65534,
        tcp_syn=True,
    )
    words = {"at": place_of((1 << 31) - 1, SLOTS - 1), "hook": "ingress", "kept": "1", "pid": str(1 << 22)}
    words.update(filters=str(MAX_FILTERS), keys="f" * 8, match="x" * MAX_TEXT)
    assert len(str(match)) <= MAX_TEXT
    assert len(alias_of(words).encode()) < 256


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ({}, {"ip_proto": "tcp", "dst_port": 80, "tcp_syn": True}, True),
        ({"ip_proto": "tcp", "dst_port": 80}, {"ip_proto": "tcp", "src_port": 80}, True),
        ({"ip_proto": "tcp", "dst_port": 80}, {"ip_proto": "tcp", "dst_port": 443}, False),
        ({"ip_proto": "tcp", "dst_port": 80}, {"ip_proto": "udp", "dst_port": 80}, False),
        ({"dst_ip": "10.0.0.0/8"}, {"dst_ip": "10.1.2.3"}, True),
        ({"dst_ip": "10.0.0.0/8"}, {"src_ip": "10.0.0.0/8"}, True),
        ({"dst_ip": "10.0.0.0/8"}, {"dst_ip": "11.0.0.0/8"}, False),
        ({"dst_ip": "10.0.0.0/8"}, {"src_ip": "2001:db8::/32"}, False),
        ({"dst_ip": "10.0.0.0/8"}, {"dst_ip": "::/0"}, False),
        ({"ip_proto": "icmp"}, {"src_ip": "::/0"}, False),
        ({"ip_proto": "tcp", "dst_port": (80, 443)}, {"ip_proto": "tcp", "dst_port": "81-442"}, False),
        ({"ip_proto": "tcp", "dst_port": (80, 443)}, {"ip_proto": "tcp", "dst_port": "81-443"}, True),
        ({"dst_ip": ("10.0.0.1", "::1")}, {"dst_ip": ("10.0.0.2", "::/64")}, True),
        ({"dst_ip": ("10.0.0.1", "::1")}, {"dst_ip": ("10.0.0.2", "::2")}, False),
    ],
)
def test_which_matches_overlap(one: dict, other: dict, both: bool) -> None:
    """Two matches overlap where no part of one rules the other out, whichever is asked."""
    assert Match(**one).overlaps(Match(**other)) is Match(**other).overlaps(Match(**one)) is both


@given(matches())
def test_what_is_written_is_read(match: Match) -> None:
    """A match is read back from how it is written, and so is each value of it; anything else is none."""
    assert match_of(str(match)) == match
    parts = [part.partition("=") for part in re.split(",(?=[a-z_]+=)", str(match).replace(",tcp_syn", ""))]
    typed = {name: value for name, equals, value in parts if equals}
    assert Match(**typed, tcp_syn=match.tcp_syn) == match
    for text in ("", "?", "ip_proto", "dst_port=x", "tcp_syn=1,vlan=7", "80,dst_port=443", "ip_proto=tcp,udp"):
        assert match_of(text) is None
