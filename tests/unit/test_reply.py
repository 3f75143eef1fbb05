# SPDX-License-Identifier: GPL-2.0-or-later
"""parse_reply: the kernel's errno and sentence, out of a message whose every length may lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libnlplug.netlink.refusals import parse_reply
from tests.support.replies import ATTR_MSG, ATTR_OFFS, CAPPED, attribute, message

SENTENCE = attribute(ATTR_MSG, b"Specified qdisc kind is unknown\0")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (message(1), (1, None)),
        (message(0), (0, None)),
        (message(2, SENTENCE), (2, "Specified qdisc kind is unknown")),
        (message(2, SENTENCE, request=b"r" * 37, capped=False), (2, "Specified qdisc kind is unknown")),
        (message(2, attribute(ATTR_OFFS, b"\1\0\0\0") + SENTENCE), (2, "Specified qdisc kind is unknown")),
        (message(2, SENTENCE + attribute(ATTR_OFFS, b"\1\0\0\0")), (2, "Specified qdisc kind is unknown")),
        (message(2, attribute(ATTR_MSG, b"no NUL at its end")), (2, "no NUL at its end")),
        (message(2, attribute(ATTR_MSG, b"one\0two\0")), (2, "one")),
        (message(2, attribute(ATTR_MSG, b"\0")), (2, None)),
        (message(2, attribute(ATTR_MSG, b"")), (2, None)),
        (message(2, attribute(ATTR_MSG, b"\xff bad\0")), (2, "\ufffd bad")),
        (message(2, attribute(ATTR_OFFS, b"\1\0\0\0")), (2, None)),
        (message(2, SENTENCE, flags=CAPPED), (2, None)),  # attributes are only there where the flag says so
    ],
)
def test_what_the_kernel_sends(reply: bytes, expected: tuple[int, str | None]) -> None:
    """The errno and the sentence, from a capped and an uncapped reply, with and without other attributes."""
    assert parse_reply(reply) == expected


@given(st.binary(max_size=35))
def test_too_short_to_be_an_error(reply: bytes) -> None:
    """Less than two headers and an errno is no error message."""
    assert parse_reply(reply) is None


@given(st.binary(min_size=36, max_size=200))
def test_noise_is_read_without_complaint(reply: bytes) -> None:
    """Whatever the bytes are: an errno and perhaps a sentence come out, never an exception."""
    parsed = parse_reply(reply)
    assert parsed is not None
    number, text = parsed
    assert number == -struct.unpack_from("=i", reply, 16)[0]
    assert text is None or text


@given(error=st.integers(1, 4095), capped=st.booleans(), request=st.binary(max_size=60), text=st.text(min_size=1))
def test_any_reply_is_read_back(error: int, capped: bool, request: bytes, text: str) -> None:
    """A well-formed reply gives back exactly the errno and sentence that are in it."""
    encoded = text.encode("utf-8", "replace")
    reply = message(error, attribute(ATTR_MSG, encoded + b"\0"), request=request, capped=capped)
    assert parse_reply(reply) == (error, encoded.split(b"\0")[0].decode() or None)


def test_cut_off_anywhere() -> None:
    """A reply that was cut off keeps its errno, and has its whole sentence or none."""
    for capped in (True, False):
        reply = message(2, attribute(ATTR_OFFS, b"\1\0\0\0") + SENTENCE, request=b"r" * 8, capped=capped)
        for length in range(36, len(reply) + 1):
            number, text = parse_reply(reply[:length]) or (None, None)
            assert number == 2
            assert text in (None, "Specified qdisc kind is unknown")
        assert text is not None


@given(length=st.integers(0, 65535), at=st.sampled_from([36, 44]))
def test_lying_attribute_lengths(length: int, at: int) -> None:
    """An attribute that claims any other length is not read beyond the message, nor for ever."""
    reply = bytearray(message(2, attribute(ATTR_OFFS, b"\1\0\0\0") + SENTENCE))
    reply[at : at + 2] = struct.pack("=H", length)
    number, text = parse_reply(bytes(reply)) or (None, None)
    assert number == 2
    assert text is None or "Specified qdisc kind is unknown".startswith(text)


@given(length=st.integers(0, 2**32 - 1))
def test_lying_request_lengths(length: int) -> None:
    """An uncapped reply whose echoed request claims any length keeps its errno."""
    reply = bytearray(message(22, SENTENCE, request=b"", capped=False))
    reply[20:24] = struct.pack("=I", length)
    number, text = parse_reply(bytes(reply)) or (None, None)
    assert number == 22
    assert (text == "Specified qdisc kind is unknown") == (length <= 16)
