# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink attributes as bytes: written and read again, and never read beyond their end."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from libnlplug.netlink.attributes import attributes, integer, text
from libnlplug.netlink.messages import attribute

pairs = st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))


@given(st.lists(pairs))
def test_what_was_written_is_read(written: list[tuple[int, bytes]]) -> None:
    """Attributes come back in their order, their payloads without the padding."""
    data = b"".join(attribute(kind, payload) for kind, payload in written)
    assert len(data) % 4 == 0
    assert attributes(data) == written


@given(pairs, st.sampled_from([0x8000, 0x4000, 0xC000]))
def test_flags_are_not_part_of_the_type(pair: tuple[int, bytes], flags: int) -> None:
    """An attribute that is marked as nested, or as in network byte order, has its plain type."""
    kind, payload = pair
    assert attributes(attribute(kind | flags, payload)) == [pair]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    """Whatever the bytes say, reading ends, and no payload is longer than what there was."""
    found = attributes(data)
    assert sum(4 + len(payload) for _, payload in found) <= len(data)


@given(st.lists(pairs, min_size=1), st.data())
def test_a_length_that_lies_ends_the_reading(written: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """What comes before an attribute with a length below its head's or beyond the end is still read."""
    at = data.draw(st.integers(0, len(written) - 1))
    whole = [attribute(kind, payload) for kind, payload in written]
    lie = data.draw(st.sampled_from([0, 3, 0xFFFF]))
    whole[at] = lie.to_bytes(2, sys.byteorder) + whole[at][2:]
    assert attributes(b"".join(whole)) == written[:at]


def test_numbers_and_texts() -> None:
    """A number is in the machine's byte order, of whatever width; a text ends at its NUL, and may be no UTF-8."""
    assert integer((0x0102).to_bytes(2, sys.byteorder)) == 0x0102
    assert integer((0x01020304).to_bytes(4, sys.byteorder)) == 0x01020304
    assert integer(b"") == 0
    assert text(b"plug\0rest") == "plug"
    assert text(b"") == ""
    assert text(b"a\xff") == "a\ufffd"
