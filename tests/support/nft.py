# SPDX-License-Identifier: GPL-2.0-or-later
"""One nftables chain at a device's hook, made through netlink itself: no program or library for that is needed."""

from __future__ import annotations

import socket
import struct

from libnlplug.netlink.messages import attribute

NETDEV, INET = 5, 1
_NETFILTER, _BATCH_BEGIN, _BATCH_END = 12, 16, 17
_NEWTABLE, _DELTABLE, _NEWCHAIN = 10 << 8, 10 << 8 | 2, 10 << 8 | 3
_INGRESS = {NETDEV: 0, INET: 5}
_TABLE = attribute(1, b"t\0")


def _message(kind: int, family: int, body: bytes, resource: int = 0, flags: int = 0x405) -> bytes:
    """One message, by default one that makes something and asks for an answer."""
    payload = struct.pack("=BB", family, 0) + struct.pack("!H", resource) + body
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


def _send(*messages: bytes) -> int:
    """Send them in one batch, in the calling thread's namespace: the first errno, 0 for done."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as sock:
        sock.settimeout(5)
        begin, end = (_message(kind, 0, b"", 10, 1) for kind in (_BATCH_BEGIN, _BATCH_END))
        sock.send(begin + b"".join(messages) + end)
        for _ in messages:
            code = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
            if code:
                return code
        return 0


def add_chain(family: int, hook: int, device: str, priority: int = 0) -> int:
    """'nft add chain netdev t c { type filter hook ingress device lo priority 0; }': the errno, 0 for done."""
    where = attribute(1, struct.pack("!I", hook)) + attribute(2, struct.pack("!i", priority))
    if hook == _INGRESS[family]:
        where += attribute(3, device.encode() + b"\0")  # an older kernel refuses a device elsewhere
    chain = attribute(1, b"t\0") + attribute(3, b"c\0") + attribute(0x8004, where) + attribute(7, b"filter\0")
    return _send(_message(_NEWTABLE, family, _TABLE), _message(_NEWCHAIN, family, chain))


def delete_table(family: int) -> int:
    """'nft delete table netdev t', with the chain in it."""
    return _send(_message(_DELTABLE, family, _TABLE, flags=5))
