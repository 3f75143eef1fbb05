# SPDX-License-Identifier: GPL-2.0-or-later
"""Units: read sizes, times, devices, namespaces and ports from the command line, and format sizes.

Sizes are written as in tc, and times as in timeout(1), or with tc's smaller units (iproute2, lib/utils.c). This module
uses no regular expressions: loading them takes longer than most verbs.
"""

from __future__ import annotations

import os

from ..bounds import LIMIT_MAX, NAME_MAX, TIMEOUT_MAX

__all__ = ["device", "format_size", "limit", "netns", "parse_size", "parse_time", "ports"]

_DIGITS = frozenset("0123456789")
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZES.update({f"{unit}b": size for unit, size in _SIZES.items() if unit in "kmg"})
_BITS = {f"{unit}bit": _SIZES[unit] for unit in "kmg"}
_TIMES = {"": 1.0, "s": 1.0, "sec": 1.0, "secs": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIMES.update(dict.fromkeys(("ms", "msec", "msecs"), 1e-3))
_TIMES.update(dict.fromkeys(("us", "usec", "usecs"), 1e-6))


def _split(text: str) -> tuple[float, str] | None:
    """Return the number at the beginning of the text and what follows it, in small letters, or None without one."""
    end = 0
    while end < len(text) and (text[end] in _DIGITS or text[end] == "."):
        end += 1
    number = text[:end]
    if not text.isascii() or number.count(".") > 1 or not number.strip("."):
        return None
    return float(number), text[end:].lower()


def parse_size(text: str) -> int:
    """Return the bytes of '65536', '64k', '32mb', '1.5m' or '8mbit'; k, m and g are powers of 1024. Raise ValueError
    for anything else."""
    number, unit = _split(text) or (0.0, "?")
    if unit not in _SIZES and unit not in _BITS:
        raise ValueError(f"size is {text!r}: it must be bytes with an optional unit, as 65536, 64k or 32mb")
    size = number * _BITS[unit] / 8 if unit in _BITS else number * _SIZES[unit]
    if size >= 1 << 62:
        raise ValueError(f"size is {text!r}: that is more than any device can hold")
    return int(size)


def parse_time(text: str) -> float:
    """Return the seconds of '5', '0.5s', '250ms', '5m' or '1h'; a bare number is seconds, as in timeout(1). Raise
    ValueError for anything else."""
    number, unit = _split(text) or (0.0, "?")
    if unit not in _TIMES:
        raise ValueError(f"time is {text!r}: it must be seconds, or have a unit, as 5, 0.5s, 250ms, 5m or 1h")
    seconds = number * _TIMES[unit]
    if seconds > TIMEOUT_MAX:
        raise ValueError(f"time is {text!r}: it must be at most {TIMEOUT_MAX:.0f} seconds (31 years)")
    return seconds


def format_size(size: int) -> str:
    """Return the size with four digits in tc's units: '512b', '64Kb', '1.5Mb'. parse_size() reads it."""
    for unit, name in ((1 << 30, "Gb"), (1 << 20, "Mb"), (1 << 10, "Kb")):
        if size >= unit:
            number = size / unit
            return f"{number:.4g}{name}" if number < 1000 else f"{number:.0f}{name}"
    return f"{size}b"


def limit(text: str) -> int:
    """Return a limit in bytes, or raise ValueError."""
    size = parse_size(text)
    if not 1 <= size <= LIMIT_MAX:
        why = " (0 would drop every packet for ever)" if size == 0 else ""
        raise ValueError(f"size is {text!r}: it must be 1 to {LIMIT_MAX} bytes{why}")
    return size


def device(text: str) -> str:
    """Return the name or alternative name of a device, or raise ValueError."""
    if not 0 < len(os.fsencode(text)) <= NAME_MAX:
        raise ValueError(f"device is {text!r}: a device's name has 1 to {NAME_MAX} bytes")
    return text


def netns(text: str) -> str | int:
    """Return the name, path or pid of a network namespace. A number is a pid unless a namespace has that name."""
    is_pid = text.isascii() and text.isdecimal() and not os.path.exists(f"/run/netns/{text}")
    if not text or (is_pid and not int(text)):
        raise ValueError(f"netns is {text!r}: it must be a name, a path or a pid")
    return int(text) if is_pid else text


def ports(text: str) -> int | str:
    """Return a port, or several: numbers, ranges and names of services, with commas between them."""
    parts = text.split(",")
    if len(parts) > 1 and "" in parts:
        raise ValueError(f"port is {text!r}: a value is missing before or after a comma")
    numbers = ",".join(map(_port, parts))
    return int(numbers) if numbers.isdecimal() else numbers


def _port(text: str) -> str:
    """Return a number or a range as it is, and for the name of a service its number."""
    if text.isascii() and all(end.isdecimal() for end in text.split("-", 1)):
        return text
    from _socket import getservbyname

    try:
        return str(getservbyname(text))
    except (OSError, ValueError):
        example = "as 443, 80,443 or 8000-8010"
        raise ValueError(f"port is {text!r}: it must be a number, a range or a service, {example}") from None
