# SPDX-License-Identifier: GPL-2.0-or-later
"""Source: choices read from bytes, so that one generator of cases serves every engine: hypothesis, atheris, chance.

Where the bytes are used up every choice is the first one, so a generator always comes to an end.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
ERROR, DONE, NEWLINK, NEWQDISC, DELQDISC, NEWTFILTER = 2, 3, 16, 36, 37, 44
NEWCHAIN = 10 << 8 | 3  # linux/netfilter/nfnetlink.h, nf_tables.h
NESTED = 0x8000
KINDS = (
    b"plug prio ifb u32 ingress clsact tbf htb hfsc red sfq netem fq_codel pfifo pfifo_fast bfifo dsmark mqprio"
    b" cbq fq basic matchall flower bpf cgroup mirred gact skbedit vlan veth dummy vxlan macvlan bridge \xff\xfe"
).split() + [b"", b"x" * 40]


class Source:
    """Choices, from the first byte to the last."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def bytes(self, length: int) -> bytes:
        """As many, or those that are left."""
        self._at += length
        return self._data[self._at - length : self._at]

    def below(self, count: int) -> int:
        """A number from 0 to ``count`` - 1."""
        return int.from_bytes(self.bytes(1 if count <= 256 else 4), "little") % count

    def sometimes(self, one_in: int) -> bool:
        return self.below(one_in) == one_in - 1

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def number(self, bits: int) -> int:
        """Any number of so many bits; often one at which things change."""
        edge = self.below(12)
        if edge < 8:
            return (0, 1, 2, 4, 16, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1)[edge]
        return int.from_bytes(self.bytes(bits // 8 if edge > 8 else 1), "little")

    def text(self, tokens: str, most: int = 16) -> str:
        """A text made of tokens (separated by spaces) and of anything else, lone surrogates and NUL among it."""
        words = tokens.split()
        parts = []
        for _ in range(self.below(most)):
            parts.append(self.one_of(words) if self.below(5) else self.bytes(3).decode("utf-8", "surrogateescape"))
        return "".join(parts)

    # -- netlink's messages, nearly right

    def attribute(self, depth: int = 0) -> bytes:
        """One attribute; its length may be a lie."""
        kind = (
            self.one_of((1, 2, 3, 4, 5, 6, 7, 8, 13, 18, 20, 23, 26, 11, 0, 256)) if self.below(8) else self.number(16)
        )
        choice = self.below(6)
        if choice == 0 and depth < 4:
            payload = b"".join(self.attribute(depth + 1) for _ in range(self.below(4)))
            kind |= NESTED if self.sometimes(2) else 0
        elif choice <= 2:
            payload = self.one_of(KINDS) + (b"" if self.sometimes(4) else b"\0")
        else:
            payload = self.bytes(self.below(9) if choice < 5 else self.below(250))
        length = self.number(16) if self.sometimes(10) else 4 + len(payload)
        return struct.pack("=HH", length & 0xFFFF, kind & 0xFFFF) + payload + bytes(-len(payload) % 4)

    def attributes(self) -> bytes:
        return b"".join(self.attribute() for _ in range(self.below(10)))

    def tc(self) -> bytes:
        """The payload of a message about a qdisc or a filter: tcmsg, the kind, and more."""
        head = struct.pack("=BxHiIII", 0, 0, *(self.number(32) & 0x7FFF_FFFF for _ in range(1)), *self.numbers(3))
        return self.cut(head + self.kind() + self.attributes())

    def link(self) -> bytes:
        """The payload of a message about a link: ifinfomsg, name, link info, and more."""
        head = struct.pack("=BxHiII", 0, 0, self.number(32) & 0x7FFF_FFFF, *self.numbers(2))
        name = self.wrapped(3, self.one_of((b"lo\0", b"lo", b"\xff\xfe\0", b"", b"x" * 40)))
        info = self.wrapped(18, self.kind() + self.wrapped(2, self.attributes()))
        return self.cut(head + name + (info if self.below(3) else b"") + self.attributes())

    def error(self) -> bytes:
        """The payload of an NLMSG_ERROR: an errno, the request's header, and an extended ack or something like it."""
        number = -self.one_of((0, 1, 2, 17, 19, 22, 95, 4095)) & 0xFFFF_FFFF if self.below(6) else self.number(32)
        echoed = struct.pack("=IHHII", self.number(32) if self.sometimes(4) else 36, 36, 5, 1, 0)
        words = self.one_of((b"Specified qdisc kind is unknown", b"class not found", b"\xff bad", b"", b"no NUL"))
        texts = self.wrapped(1, words + (b"" if self.sometimes(3) else b"\0"))
        return self.cut(
            struct.pack("=I", number & 0xFFFF_FFFF) + echoed + (texts if self.below(4) else self.attributes())
        )

    def message(self) -> bytes:
        """A message of the kernel's, with nearly every field right."""
        kind = self.one_of((NEWQDISC, NEWLINK, ERROR, DONE, NEWTFILTER, 0)) or self.number(16)
        make = {NEWQDISC: self.tc, NEWTFILTER: self.tc, NEWLINK: self.link, ERROR: self.error}
        payload = make[kind]() if kind in make else self.bytes(self.below(64))
        length = self.number(32) if self.sometimes(10) else 16 + len(payload)
        flags = self.one_of((0x300, 0x200, 0, 2, 0x100, 0x10)) if self.below(8) else self.number(16)
        number = 1 if self.below(6) else self.number(32)
        head = struct.pack("=IHHII", length & 0xFFFF_FFFF, kind & 0xFFFF, flags & 0xFFFF, number & 0xFFFF_FFFF, 4711)
        return head + payload + bytes(-len(payload) % 4)

    def datagram(self) -> bytes:
        """One or more messages, or what is none, perhaps cut off, seldom longer than anyone expects."""
        if self.sometimes(12):
            return self.bytes(self.below(40))
        whole = b"".join(self.message() for _ in range(1 + self.below(3)))
        return self.cut(whole) + (bytes(40_000) if self.sometimes(40) else b"")

    # -- what nftables answers

    def chains(self) -> bytes:
        """One or more messages of a dump of chains; the last may stand at the end of what anybody receives."""
        whole = b"".join(self.chain_message() for _ in range(1 + self.below(3)))
        if self.sometimes(20):
            head = struct.pack("=IHHII", self.one_of((16, 20, 17)), self.one_of((ERROR, DONE, NEWCHAIN)), 2, 1, 0)
            whole = struct.pack("=IHHII", 32768 - len(head), 1, 2, 1, 0).ljust(32768 - len(head), b"\0") + head
        return self.cut(whole)

    def chain_message(self) -> bytes:
        kind = self.one_of((NEWCHAIN, NEWCHAIN, NEWCHAIN, ERROR, DONE, 0)) or self.number(16) & 0xFFFF
        payload = self.error() if kind == ERROR else self.cut(self.chain())
        length = self.number(32) & 0xFFFF_FFFF if self.sometimes(10) else 16 + len(payload)
        return struct.pack("=IHHII", length, kind, 2, 1, 0) + payload + bytes(-len(payload) % 4)

    def chain(self) -> bytes:
        """The payload of a message about a chain: nfgenmsg, its table and name, and its hook."""
        devices = (b"eth0\0", b"eth0", b"eth\0", b"lo\0", b"", b"x" * 40)
        hook = self.wrapped(1, struct.pack(">I", self.one_of((0, 5, 1))))
        hook += self.wrapped(3, self.one_of(devices)) if self.below(2) else b""
        listed = (self.wrapped(1 + self.below(2), self.one_of(devices)) for _ in range(self.below(3)))
        hook += self.wrapped(4, b"".join(listed))
        name = self.one_of((b"c\0", b"x" * 700, b""))
        parts = (self.wrapped(1, b"t\0"), self.wrapped(3, name), self.wrapped(4, hook))
        return bytes([self.one_of((5, 5, 1, 2)), 0, 0, 0]) + b"".join(part for part in parts if self.below(10))

    # -- what a holder tells its guard

    def requests(self, kind: int) -> bytes:
        """A request about a qdisc of lo, or of no device."""
        payload = struct.pack("=BxHiIII", 0, 0, self.one_of((1, 1, 0x7FFF_FFFF, 0)), *self.numbers(3)) + self.kind()
        payload += self.attributes() if self.sometimes(6) else b""
        length = self.number(32) & 0xFFFF_FFFF if self.sometimes(40) else 16 + len(payload)
        kind = self.number(16) & 0xFFFF if self.sometimes(60) else kind
        head = struct.pack("=IHHII", length, kind, 1 if self.below(6) else self.number(16) & 0xFFFF, 0, 0)
        return head + payload + bytes(-len(payload) % 4)

    def mark(self) -> bytes:
        """The name of a mark and its NUL."""
        length = self.one_of((20, 1, 20, 104, 105, 20, 106, 200)) if self.sometimes(8) else 20
        return b"f%d" % self.below(5) + b"m" * length + (b"" if self.sometimes(40) else b"\0")

    # -- parts

    def numbers(self, count: int) -> list[int]:
        return [self.number(32) & 0xFFFF_FFFF for _ in range(count)]

    def kind(self) -> bytes:
        return self.wrapped(1, self.one_of(KINDS) + b"\0") if self.below(10) else b""

    def wrapped(self, kind: int, payload: bytes) -> bytes:
        """An attribute with a true length, nearly always."""
        length = self.number(16) if self.sometimes(20) else 4 + len(payload)
        return struct.pack("=HH", length & 0xFFFF, kind) + payload + bytes(-len(payload) % 4)

    def cut(self, data: bytes) -> bytes:
        return data[: self.below(len(data) + 1)] if self.sometimes(12) else data
