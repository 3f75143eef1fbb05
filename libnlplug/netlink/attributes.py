# SPDX-License-Identifier: GPL-2.0-or-later
"""Read netlink attributes from bytes, where libnl has no function for it.

An attribute is a length, a type and a payload, padded to four bytes (include/uapi/linux/netlink.h).
"""

from __future__ import annotations

import sys

from .libnl import lib

__all__ = ["attributes", "integer", "text"]


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and payload of each attribute in ``data``, in order. Stop at the first invalid length."""
    found = []
    halves = memoryview(data[: len(data) & ~1]).cast("H")
    at, end = 0, len(data)
    while at + 4 <= end:
        length = halves[at >> 1]
        if length < 4 or at + length > end:
            break
        found.append((halves[(at >> 1) + 1] & lib.NLA_TYPE_MASK, data[at + 4 : at + length]))
        at += (length + 3) & ~3
    return found


def integer(data: bytes, *, signed: bool = False) -> int:
    """Read an integer in the machine's byte order."""
    return int.from_bytes(data, sys.byteorder, signed=signed)


def text(data: bytes) -> str:
    """Read a string, up to its NUL."""
    return data.split(b"\0")[0].decode("utf-8", "replace")
