# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink messages as libnl makes them, and the texts in them: names, handles and classids."""

from __future__ import annotations

import os

from .libnl import ffi, lib
from .refusals import check

__all__ = [
    "aligned",
    "built",
    "encoded",
    "handle_text",
    "joined",
    "link_message",
    "message_bytes",
    "parse_handle",
    "qdisc_message",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .libnl import CData


def encoded(text: str) -> bytes | None:
    """The text as C takes it; None where it cannot: it has a NUL, or a surrogate that stands for no byte."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return None
    return None if b"\0" in encoded else encoded


def parse_handle(text: str) -> int | None:
    """The number of a handle or classid as libnl reads it ('root', '1:', '1:4', a name of its classid file)."""
    number = ffi.new("uint32_t *")
    name = encoded(text)
    if name is None or lib.rtnl_tc_str2handle(name, number) < 0:
        return None
    return int(number[0])


def handle_text(number: int) -> str:
    """The text of a handle or classid as tc writes it: 'root', '1:', '1:4'."""
    if number == lib.TC_H_ROOT:
        return "root"
    major, minor = number >> 16, number & 0xFFFF
    return f"{major:x}:{minor:x}" if minor else f"{major:x}:"


def aligned(length: int) -> int:
    return int(length + lib.NLMSG_ALIGNTO - 1 & -lib.NLMSG_ALIGNTO)


def message_bytes(msg: CData, number: int = 1, *, ack: bool = True) -> bytes:
    """The message as it is sent: a request with this number that asks for an ACK, padded as the next one needs it."""
    header = lib.nlmsg_hdr(msg)
    header.nlmsg_flags |= lib.NLM_F_REQUEST | (lib.NLM_F_ACK if ack else 0)
    header.nlmsg_seq = number
    return bytes(ffi.buffer(header, aligned(header.nlmsg_len)))


def qdisc_message(
    kind_of_request: int, flags: int, ifindex: int, parent: int, handle: int, kind: bytes | None
) -> CData:
    """A qdisc message without TCA_OPTIONS, which libnl's own functions cannot make for a plug."""
    msg = lib.nlmsg_alloc_simple(kind_of_request, flags)
    if msg == ffi.NULL:
        raise MemoryError("libnl has no memory for a message")
    msg = ffi.gc(msg, lib.nlmsg_free)
    header = ffi.new("struct tcmsg *", {"tcm_ifindex": ifindex, "tcm_parent": parent, "tcm_handle": handle})
    check(lib.nlmsg_append(msg, header, ffi.sizeof("struct tcmsg"), lib.NLMSG_ALIGNTO), "build a request")
    if kind is not None:
        check(lib.nla_put_string(msg, lib.TCA_KIND, kind), "build a request")
    return msg


def link_message(kind_of_request: int, flags: int, ifindex: int) -> CData:
    """A link message without attributes. libnl's own question for a link asks for all virtual functions too, and a
    card may have hundreds."""
    msg = lib.nlmsg_alloc_simple(kind_of_request, flags)
    if msg == ffi.NULL:
        raise MemoryError("libnl has no memory for a message")
    msg = ffi.gc(msg, lib.nlmsg_free)
    header = ffi.new("struct ifinfomsg *", {"ifi_index": ifindex})
    check(lib.nlmsg_append(msg, header, ffi.sizeof("struct ifinfomsg"), lib.NLMSG_ALIGNTO), "build a request")
    return msg


def joined(messages: list[bytes]) -> bytes:
    """The messages for one RouteSocket.batch(): numbered from 0, and only the last one asks for an ACK."""
    batch = bytearray().join(messages)
    start, at = ffi.from_buffer(batch), 0
    for number, message in enumerate(messages):
        header = ffi.cast("struct nlmsghdr *", start + at)
        header.nlmsg_seq = number
        if number < len(messages) - 1:
            header.nlmsg_flags &= ~lib.NLM_F_ACK
        at += len(message)
    return bytes(batch)


def built(build: Callable[..., int], *args: object) -> CData:
    """The message that one of libnl's build functions makes, freed with the object."""
    result = ffi.new("struct nl_msg **")
    check(build(*args, result), "build a request")
    return ffi.gc(result[0], lib.nlmsg_free)
