# SPDX-License-Identifier: GPL-2.0-or-later
"""What an ifb's message and alias say."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libnlplug.lane.ifb import ADDRESS, alias_of, words_of
from libnlplug.lane.inventory import Lane, _lane, ifb_name
from libnlplug.netlink.devices import Device, _read
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.messages import attribute


def ifb(name: str = "plug1-0", alias: str = "", address: bytes = ADDRESS) -> Device:
    return Device(9, name, alias, address, True, "ifb", 0, 0, 1514, 65536, 0, 0)


names = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1)
values = st.text("abcdefghijklmnopqrstuvwxyz0123456789=,:./", min_size=1)


@given(st.dictionaries(names, values))
def test_an_alias_says_what_was_put_into_it(words: dict[str, str]) -> None:
    """The words of an alias come back, whatever is in their values but blanks."""
    assert words_of(ifb(alias=alias_of(words))) == words


@pytest.mark.parametrize("alias", ["", "uplink", "libnlplug-lanes a=b", " libnlplug-lane a=b"])
def test_other_aliases_say_nothing(alias: str) -> None:
    """What somebody else has written is not read as a lane's words."""
    assert words_of(ifb(alias=alias)) == {}


def message(*parts: bytes, kind: str = "ifb") -> bytes:
    linkinfo = attribute(lib.IFLA_LINKINFO, attribute(lib.IFLA_INFO_KIND, kind.encode() + b"\0"))
    return struct.pack("=BxHiII", 0, 1, 42, lib.IFF_UP, 0) + linkinfo + b"".join(parts)


def test_a_message_is_read() -> None:
    """Index, name, alias, address, whether it is up, and what is inside and lost, from the counters."""
    counters = struct.pack("=10Q", 10, 4, 0, 0, 0, 0, 1, 2, 0, 0)  # rx, tx, bytes, errors, rx and tx dropped
    parts = [
        attribute(lib.IFLA_IFNAME, b"plug1-0\0"),
        attribute(lib.IFLA_IFALIAS, b"text\0"),
        attribute(lib.IFLA_ADDRESS, ADDRESS),
        attribute(lib.IFLA_STATS64, counters),
    ]
    assert _read(message(*parts)) == Device(42, "plug1-0", "text", ADDRESS, True, "ifb", 0, 0, 14, 0, 5, 2)


def test_messages_that_are_cut_short() -> None:
    """Nothing is read beyond the end of a message."""
    assert _read(message(kind="dummy")).kind == "dummy"
    for data in (message()[:8], message()[:3], b""):
        read = _read(data)
        assert (read.name, read.kind, read.address, read.up) == ("", "", b"", False)


@given(st.integers(1, 2**31 - 1), st.integers(0, 99))
def test_names_of_ifbs(ifindex: int, slot: int) -> None:
    """A lane's ifb says by its name, which any interface index leaves short enough, whose it is."""
    name = ifb_name(ifindex, slot)
    assert len(name) <= 15
    assert _lane(ifb(name)) == Lane(ifb(name), ifindex, slot, {})


@pytest.mark.parametrize("name", ["plug", "plug1", "plug1-", "plug-1", "plug1-0x", "plug1-100", "plug01-0", "ifb0"])
def test_other_names_are_no_lanes(name: str) -> None:
    """An ifb with a name that no lane would give is not one, and neither is one with another address. Its alias can
    say that it is one."""
    assert _lane(ifb(name)) is None
    assert _lane(ifb(name, alias_of({"at": name[4:]}))) is None
    words = {"at": "1f-99"}
    renamed = ifb(name, alias_of(words), b"\2other")
    assert _lane(renamed) == Lane(renamed, 31, 99, words)
    assert _lane(ifb(address=b"\x02plug\1")) is None


def test_an_alias_with_other_values_does_no_harm() -> None:
    """Words that an administrator has changed to nonsense read as nothing."""
    lane = Lane(ifb(), 1, 0, {"pid": "x", "kept": "yes", "filters": "0"})
    assert (lane.pid, lane.kept, lane.filters, lane.ingress) == (None, False, 0, False)
