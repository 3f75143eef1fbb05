# SPDX-License-Identifier: GPL-2.0-or-later
"""Build netlink messages with libnl; check and convert the names, handles, classids and limits in them."""

from __future__ import annotations

import os
import sys

from ..bounds import LIMIT_MAX
from ..errors import InvalidHandle
from .libnl import check, ffi, lib

__all__ = [
    "ETHERNET_HEADER",
    "aligned",
    "attribute",
    "built",
    "checked_handle",
    "checked_limit",
    "encoded",
    "handle_text",
    "joined",
    "link_message",
    "message",
    "parent_classid",
    "parse_handle",
    "plug_message",
    "qdisc_message",
    "without_ack",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .libnl import CData


ETHERNET_HEADER = 14  # bytes


def encoded(text: str) -> bytes | None:
    """Return the text as bytes for C, or None if it has a NUL or a surrogate that stands for no byte."""
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return None
    return None if b"\0" in name else name


def parse_handle(text: str) -> int | None:
    """Return the number of a handle or classid as libnl reads it: 'root', '1:', '1:4', a name of its classid file."""
    number = ffi.new("uint32_t *")
    name = encoded(text)
    if name is None or lib.rtnl_tc_str2handle(name, number) < 0:
        return None
    return int(number[0])


def handle_text(handle: int) -> str:
    """Return a handle or classid as tc prints it: 'root', '1:', '1:4'."""
    if handle == lib.TC_H_ROOT:
        return "root"
    major, minor = handle >> 16, handle & 0xFFFF
    return f"{major:x}:{minor:x}" if minor else f"{major:x}:"


def parent_classid(parent: str) -> int:
    """Return the classid, or raise ValueError."""
    classid = parse_handle(parent) if isinstance(parent, str) else None
    if classid is None or classid == lib.TC_H_UNSPEC or (classid != lib.TC_H_ROOT and classid >> 16 == 0xFFFF):
        raise ValueError(f"parent is {parent!r}: it must be 'root' or a class of a classful qdisc, as '1:4'")
    return classid


def checked_handle(handle: str) -> int:
    """Return the handle, or raise InvalidHandle."""
    checked = parse_handle(handle) if isinstance(handle, str) else None
    if checked is None or checked & 0xFFFF or not 0 < checked >> 16 < 0xFFFF:
        sentence = f"handle is {handle!r}: it must be a hexadecimal number from 1 to fffe and a colon, as '40:'"
        raise InvalidHandle(None, sentence, "read the handle")
    return checked


def checked_limit(limit: int) -> int:
    """Return the limit, or raise ValueError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        why = " (0 would drop every packet for ever)" if limit == 0 else ""
        raise ValueError(
            f"limit is {limit!r}: it must be 1 to {LIMIT_MAX} bytes{why}, or None for the kernel's default"
        )
    return limit


def aligned(length: int) -> int:
    """Return the length with the padding between two netlink messages."""
    return int(length + lib.NLMSG_ALIGNTO - 1 & -lib.NLMSG_ALIGNTO)


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute: length, type and payload, padded to four bytes (include/uapi/linux/netlink.h)."""
    length = len(payload) + 4
    head = length.to_bytes(2, sys.byteorder) + kind.to_bytes(2, sys.byteorder)
    return head + payload + bytes(-length % 4)


def message(kind_of_request: int, flags: int, body: bytes) -> bytes:
    """Return a message with this body: the family's header, then attributes."""
    msg = lib.nlmsg_alloc_simple(kind_of_request, flags)
    if msg == ffi.NULL:
        raise MemoryError("libnl has no memory for a message")
    msg = ffi.gc(msg, lib.nlmsg_free)
    check(lib.nlmsg_append(msg, ffi.from_buffer(body), len(body), lib.NLMSG_ALIGNTO), "build a request")
    return _finished(msg)


def qdisc_message(
    kind_of_request: int, flags: int, ifindex: int, parent: int, handle: int, kind: bytes | None
) -> bytes:
    """Return a message about a qdisc without TCA_OPTIONS. (libnl always adds TCA_OPTIONS for a plug.)"""
    header = ffi.new("struct tcmsg *", {"tcm_ifindex": ifindex, "tcm_parent": parent, "tcm_handle": handle})
    attributes = b"" if kind is None else attribute(lib.TCA_KIND, kind + b"\0")
    return message(kind_of_request, flags, ffi.buffer(header)[:] + attributes)


def link_message(kind_of_request: int, flags: int, ifindex: int, attributes: bytes = b"") -> bytes:
    """Return a message about a link. (libnl's own request also asks for all virtual functions of a card.)"""
    header = ffi.new("struct ifinfomsg *", {"ifi_index": ifindex})
    return message(kind_of_request, flags, ffi.buffer(header)[:] + attributes)


def plug_message(ifindex: int, parent: int, handle: int, set_action: Callable[[CData], int], flags: int = 0) -> bytes:
    """Return libnl's message to a plug. ``set_action`` is one of the rtnl_qdisc_plug_* functions."""
    qdisc = lib.rtnl_qdisc_alloc()
    if qdisc == ffi.NULL:
        raise MemoryError("libnl has no memory for a qdisc")
    qdisc = ffi.gc(qdisc, lib.rtnl_qdisc_put)
    tc = ffi.cast("struct rtnl_tc *", qdisc)
    lib.rtnl_tc_set_ifindex(tc, ifindex)
    lib.rtnl_tc_set_parent(tc, parent)
    lib.rtnl_tc_set_handle(tc, handle)
    check(lib.rtnl_tc_set_kind(tc, b"plug"), "build a request")
    check(set_action(qdisc), "build a request")
    return built(lib.rtnl_qdisc_build_add_request, qdisc, flags)


def built(build: Callable[..., int], *args: object) -> bytes:
    """Return the message that one of libnl's ``rtnl_..._build_..._request()`` functions builds."""
    result = ffi.new("struct nl_msg **")
    check(build(*args, result), "build a request")
    return _finished(ffi.gc(result[0], lib.nlmsg_free))


def _finished(msg: CData) -> bytes:
    """Return the bytes to send: a request for an ACK, with the sequence number 1, padded for the next message."""
    header = lib.nlmsg_hdr(msg)
    header.nlmsg_flags |= lib.NLM_F_REQUEST | lib.NLM_F_ACK
    header.nlmsg_seq = 1
    return bytes(ffi.buffer(header, aligned(header.nlmsg_len)))


def without_ack(request: bytes) -> bytes:
    """Return the message without the request for an ACK. The kernel then answers only with errors."""
    changed = bytearray(request)
    ffi.cast("struct nlmsghdr *", ffi.from_buffer(changed)).nlmsg_flags &= ~lib.NLM_F_ACK
    return bytes(changed)


def joined(messages: list[bytes]) -> bytes:
    """Join messages for RouteSocket.execute_all(): number them from 0, and ask for an ACK of the last one only."""
    batch = bytearray().join(messages)
    start, at = ffi.from_buffer(batch), 0
    for seq, one in enumerate(messages):
        header = ffi.cast("struct nlmsghdr *", start + at)
        header.nlmsg_seq = seq
        if seq < len(messages) - 1:
            header.nlmsg_flags &= ~lib.NLM_F_ACK
        at += len(one)
    return bytes(batch)
