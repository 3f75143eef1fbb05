# SPDX-License-Identifier: GPL-2.0-or-later
"""Replies of the kernel, made byte by byte."""

from __future__ import annotations

import struct

# linux/netlink.h, written down here once more: a second opinion
NLMSG_ERROR, CAPPED, ACK_TLVS = 2, 0x100, 0x200
ATTR_MSG, ATTR_OFFS = 1, 2


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def message(
    error: int, attributes: bytes = b"", *, request: bytes = b"", capped: bool = True, flags: int = -1
) -> bytes:
    """An NLMSG_ERROR message: header, errno, the request's header (and, if not capped, the request), attributes."""
    if flags < 0:
        flags = (CAPPED if capped else 0) | (ACK_TLVS if attributes else 0)
    echoed = struct.pack("=IHHII", 16 + len(request), 36, 5, 1, 0)
    if not capped:
        echoed += request + b"\0" * (-len(request) % 4)
    body = struct.pack("=i", -error) + echoed + attributes
    return struct.pack("=IHHII", 16 + len(body), NLMSG_ERROR, flags, 1, 4711) + body
