# SPDX-License-Identifier: GPL-2.0-or-later
"""Units: what a word of the command line means, a size, a time, a device and so on, and how sizes are printed.

Sizes are as tc writes them, and times as timeout(1) does, with tc's smaller units too (iproute2, lib/utils.c). Without
regular expressions: to load those takes longer than most verbs do.
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
    """The number at the beginning of the text and what follows it, in small letters; None without a number."""
    end = 0
    while end < len(text) and (text[end] in _DIGITS or text[end] == "."):
        end += 1
    number = text[:end]
    if not text.isascii() or number.count(".") > 1 or not number.strip("."):
        return None
    return float(number), text[end:].lower()


def parse_size(text: str) -> int:
    """Bytes: '65536', '64k', '32mb', '1.5m', '8mbit'; k, m and g are powers of 1024. ValueError for anything else."""
    number, unit = _split(text) or (0.0, "?")
    if unit not in _SIZES and unit not in _BITS:
        raise ValueError(f"size is {text!r}: it must be bytes with an optional unit, as 65536, 64k or 32mb")
    size = number * _BITS[unit] / 8 if unit in _BITS else number * _SIZES[unit]
    if size >= 1 << 62:
        raise ValueError(f"size is {text!r}: that is more than any device can hold")
    return int(size)


def parse_time(text: str) -> float:
    """Seconds: '5', '0.5s', '250ms', '5m', '1h'; a bare number is seconds, as for timeout(1). ValueError otherwise."""
    number, unit = _split(text) or (0.0, "?")
    if unit not in _TIMES:
        raise ValueError(f"time is {text!r}: it must be seconds, or have a unit, as 5, 0.5s, 250ms, 5m or 1h")
    seconds = number * _TIMES[unit]
    if seconds > TIMEOUT_MAX:
        raise ValueError(f"time is {text!r}: the longest is 1e9 seconds, 31 years")
    return seconds


def format_size(size: int) -> str:
    """For people, to four digits, in tc's units: '512b', '64Kb', '1.5Mb'. parse_size() reads it."""
    for unit, name in ((1 << 30, "Gb"), (1 << 20, "Mb"), (1 << 10, "Kb")):
        if size >= unit:
            number = size / unit
            return f"{number:.4g}{name}" if number < 1000 else f"{number:.0f}{name}"
    return f"{size}b"


def limit(text: str) -> int:
    """A limit in bytes."""
    size = parse_size(text)
    if not 1 <= size <= LIMIT_MAX:
        why = ", with 0 the plug would drop every packet for ever" if size == 0 else ""
        raise ValueError(f"size is {text!r}: it must be 1 to {LIMIT_MAX} bytes{why}")
    return size


def device(text: str) -> str:
    """The name of a device, or an alternative name of it."""
    if not 0 < len(os.fsencode(text)) <= NAME_MAX:
        raise ValueError(f"device is {text!r}: a device's name has 1 to {NAME_MAX} bytes")
    return text


def netns(text: str) -> str | int:
    """A network namespace: a name or a path; a number is a pid unless a namespace has that name."""
    if not text:
        raise ValueError("netns is '': it must be a name, a path or a pid")
    if text.isascii() and text.isdecimal() and not os.path.exists(f"/run/netns/{text}"):
        return int(text)
    return text


def ports(text: str) -> int | str:
    """A port, or several: numbers, ranges and services by their names, with commas between them."""
    numbers = ",".join(map(_port, text.split(",")))
    return int(numbers) if numbers.isdecimal() else numbers


def _port(text: str) -> str:
    """A number or a range as it is, a service as its number."""
    if text.isascii() and all(end.isdecimal() for end in text.split("-", 1)):
        return text
    from _socket import getservbyname

    try:
        return str(getservbyname(text))
    except (OSError, ValueError):
        example = "as 443, 80,443 or 8000-8010"
        raise ValueError(f"port is {text!r}: it must be a number, a range or a service, {example}") from None
