# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and times as tc writes them, read and written (iproute2, lib/utils.c and tc/tc_util.c)."""

from __future__ import annotations

import re

__all__ = ["format_size", "parse_size", "parse_time"]

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_SIZE = _NUMBER + r"(b|k|kb|kbit|m|mb|mbit|g|gb|gbit|)"  # compiled when one is read
_TIME = _NUMBER + r"(s|secs?|ms|msecs?|us|usecs?|)"
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes: '65536', '64k', '32mb', '1.5m', '8mbit'; k, m and g are powers of 1024. ValueError for anything else."""
    match = re.fullmatch(_SIZE, text, re.ASCII | re.IGNORECASE)
    if not match:
        raise ValueError(f"size is {text!r}: it must be bytes with an optional unit, as 65536, 64k or 32mb")
    number, unit = float(match[1]), match[2].lower()
    bits = unit.endswith("bit")
    size = number * _UNITS[unit[:1]] / (8 if bits else 1)
    if size >= 1 << 62:
        raise ValueError(f"size is {text!r}: that is more than any device can hold")
    return int(size)


def parse_time(text: str) -> float:
    """Seconds: '5', '0.5s', '250ms', '800us'. (A bare number is seconds, as for timeout(1).) ValueError otherwise."""
    match = re.fullmatch(_TIME, text, re.ASCII | re.IGNORECASE)
    if not match:
        raise ValueError(f"time is {text!r}: it must be seconds, or have a unit, as 5, 0.5s or 250ms")
    seconds = float(match[1]) * {"m": 1e-3, "u": 1e-6}.get(match[2].lower()[:1], 1.0)
    if seconds > 1e9:
        raise ValueError(f"time is {text!r}: the longest is 1e9 seconds, 31 years")
    return seconds


def format_size(size: int) -> str:
    """For people, to four digits, in tc's units: '512b', '64Kb', '1.5Mb'. parse_size() reads it."""
    for unit, name in ((1 << 30, "Gb"), (1 << 20, "Mb"), (1 << 10, "Kb")):
        if size >= unit:
            number = size / unit
            return f"{number:.4g}{name}" if number < 1000 else f"{number:.0f}{name}"
    return f"{size}b"
