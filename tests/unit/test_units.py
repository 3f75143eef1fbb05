# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and times: what tc accepts as a size means the same here, and what it refuses is refused here."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libnlplug.command.units import format_size, parse_size, parse_time
from tests.support.netlab import Netns, unable

UNITS = {"": 1, "b": 1, "k": 1024, "kb": 1024, "m": 1024**2, "mb": 1024**2, "g": 1024**3, "gb": 1024**3}
BITS = {"kbit": 1024, "mbit": 1024**2, "gbit": 1024**3}
SECONDS = {
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "msecs": 1e-3,
    "us": 1e-6,
    "usecs": 1e-6,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
WRONG_SIZES = [
    "",
    " ",
    "b",
    "k",
    "-1",
    "+1",
    "1 k",
    " 1",
    "1kib",
    "1e3",
    "0x10",
    "1,5",
    "1.2.3",
    ".",
    "inf",
    "nan",
    "1t",
]
WRONG_SIZES += ["٣", "1k\n", "5packets", "8bit", "1kk"]


@given(st.integers(0, 2**31 - 1), st.sampled_from(sorted(UNITS)), st.booleans())
def test_a_whole_number_and_a_unit_are_exact(number: int, unit: str, shout: bool) -> None:
    """A whole number with a unit, in either case, is that many units; k, m and g are powers of 1024."""
    assert parse_size(f"{number}{unit.upper() if shout else unit}") == number * UNITS[unit]


@given(st.integers(0, 2**30), st.sampled_from(sorted(BITS)))
def test_bits_are_eighths_of_bytes(number: int, unit: str) -> None:
    """kbit, mbit and gbit are an eighth of the bytes, rounded down."""
    assert parse_size(f"{number}{unit}") == number * BITS[unit] // 8


@given(st.decimals(0, 4096, places=3), st.sampled_from(sorted(UNITS)))
def test_a_fraction_is_rounded_down_to_bytes(number: object, unit: str) -> None:
    """1.5k is 1536 bytes; what is left of a byte is cut off."""
    assert parse_size(f"{number}{unit}") == int(float(str(number)) * UNITS[unit])


@pytest.mark.parametrize("text", [*WRONG_SIZES, "9" * 25, "9" * 400, "9999999999gb"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    """Everything else is a ValueError that shows the text as it was given."""
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=12))
@example("1.")
@example(".5k")
def test_a_size_is_understood_or_refused(text: str) -> None:
    """Any text is a number of bytes that is not negative, or a ValueError: nothing else comes out."""
    try:
        size = parse_size(text)
    except ValueError as error:
        size, sentence = 0, str(error)
    else:
        sentence = repr(text)
    assert size >= 0
    assert repr(text) in sentence


@given(st.integers(0, 2**50))
@example(1023 * 1024 + 1000)
def test_a_printed_size_can_be_read_again(size: int) -> None:
    """format_size() writes a size that parse_size() reads, right to four digits, and exactly below one Kb."""
    read = parse_size(format_size(size))
    assert abs(read - size) <= size * 0.0005 + 1
    if size < 1024:
        assert read == size


@given(st.decimals(0, 10**4, places=3), st.sampled_from(sorted(SECONDS)))
def test_a_bare_time_is_seconds(number: object, unit: str) -> None:
    """A time without a unit is seconds, as for timeout(1); so are its m, h and d, and tc's s, ms and us."""
    assert parse_time(f"{number}{unit}") == pytest.approx(float(str(number)) * SECONDS[unit])


@given(st.text(max_size=12))
def test_a_time_is_understood_or_refused(text: str) -> None:
    """Any text is a time from 0 to 1e9 seconds, or a ValueError: nothing else comes out."""
    try:
        time = parse_time(text)
    except ValueError as error:
        time, sentence = 0.0, str(error)
    else:
        sentence = repr(text)
    assert 0 <= time <= 1e9
    assert repr(text) in sentence


@pytest.mark.parametrize(
    "text", ["", "-1", "5 s", "5min", "5M5", "1w", "1y", "5sms", "inf", "nan", "1e3", "1e10", "2000000000"]
)
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    """Other units, signs, exponents and more than 31 years are refused."""
    with pytest.raises(ValueError) as caught:
        parse_time(text)
    assert repr(text) in str(caught.value)


@pytest.fixture
def tc(netns: Netns):
    """A limit as tc understands it, read back from a qdisc that shows its limit; None where tc refuses it."""
    if not shutil.which("tc", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        unable("no tc here: install iproute2")

    def limit(text: str) -> int | None:
        try:
            netns.command("tc", "qdisc", "replace", "dev", "lo", "root", "bfifo", "limit", text)
        except RuntimeError:
            return None
        (shown,) = json.loads(netns.command("tc", "-j", "qdisc", "show", "dev", "lo"))
        return shown["options"]["limit"]

    return limit


@pytest.mark.parametrize(
    "text", ["1", "65536", "64k", "64Kb", "32mb", "1.5M", ".5k", "1.", "3kbit", "9MBIT", "1gb", "0.3k", "100b", "7.9"]
)
def test_tc_means_the_same_size(tc, text: str) -> None:
    """tc and this package read the same number of bytes from the same text."""
    assert tc(text) == parse_size(text)


@pytest.mark.parametrize("text", ["b", "1kib", "1,5", "1.2.3", "1t", "8bit", "1kk", "5packets"])
def test_tc_refuses_it_too(tc, text: str) -> None:
    """What tc refuses as a size is refused here."""
    assert tc(text) is None
    with pytest.raises(ValueError):
        parse_size(text)
