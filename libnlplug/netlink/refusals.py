# SPDX-License-Identifier: GPL-2.0-or-later
"""check() and its kin: the one place where a refusal of the kernel becomes an exception.

The kernel answers a refused request with an errno and, in the extended ack, a sentence. libnl passes on neither: it
maps the errno to a smaller list of its own and drops the sentence. So the kernel's reply is read here.

Several refusals share one errno (four of them are ENOENT); only the sentence tells them apart. The sentences are
those of the kernel's net/sched/sch_api.c.
"""

from __future__ import annotations

import errno as _errno
import os
import sys

from ..errors import (
    ClassNotFound,
    DeviceNotFound,
    HandleInUse,
    InvalidHandle,
    NetlinkError,
    NotPermitted,
    ParentNotClassful,
    ParentNotFound,
    PlugUnavailable,
    QdiscExists,
    QdiscNotFound,
)
from .libnl import ffi, lib

__all__ = ["check", "failure", "parse_reply", "refusal"]

_NO_PLUG = "the kernel has no sch_plug: try 'modprobe sch_plug', or install a kernel that has it (CONFIG_NET_SCH_PLUG)"

# What each refusal means: errno, words of the kernel's sentence ("" for any), exception, what to do. The first that
# fits counts.
_REFUSALS: tuple[tuple[int, str, type[NetlinkError], str], ...] = (
    (
        _errno.EPERM,
        "",
        NotPermitted,
        "CAP_NET_ADMIN is missing in this network namespace: run it as root or give the process that capability",
    ),
    (
        _errno.ENOENT,
        "kind is unknown",
        PlugUnavailable,
        _NO_PLUG,
    ),
    (
        _errno.ENOENT,
        "Specified qdisc not found",  # Linux 5.10
        PlugUnavailable,
        _NO_PLUG,
    ),
    (
        _errno.ENOENT,
        "classifier not found",
        PlugUnavailable,
        "the kernel has no flower filters: try 'modprobe cls_flower', or install a kernel with CONFIG_NET_CLS_FLOWER",
    ),
    (
        _errno.ENOENT,
        "TC action module",
        PlugUnavailable,
        "the kernel cannot redirect: try 'modprobe act_mirred', or install a kernel with CONFIG_NET_ACT_MIRRED",
    ),
    (
        _errno.ENOENT,
        "Failed to find specified qdisc",
        ParentNotFound,
        "the parent names a qdisc that the device does not have: 'tc qdisc show' lists them",
    ),
    (
        _errno.ENOENT,
        "class not found",
        ClassNotFound,
        "the parent qdisc has no such class: 'tc class show' lists them",
    ),
    (
        _errno.ENOENT,
        "",
        QdiscNotFound,
        "the plug is gone, deleted or replaced: attach one",
    ),
    (
        _errno.EOPNOTSUPP,
        "",
        ParentNotClassful,
        "the parent must be 'root' or a class of a classful qdisc (prio, htb and their like)",
    ),
    (
        _errno.ENODEV,
        "",
        DeviceNotFound,
        "the device is not in this network namespace: 'ip link' lists those that are",
    ),
    (
        _errno.EEXIST,
        "",
        QdiscExists,
        "a configured qdisc stands there and is never displaced: delete it first, or hold at a class of it",
    ),
    (
        _errno.EINVAL,
        "different parent",
        HandleInUse,
        "the device has a qdisc with this handle elsewhere: give it another one (handle=, --handle)",
    ),
    (
        _errno.EINVAL,
        "Invalid minor handle",
        InvalidHandle,
        "a qdisc's handle is a major number and a colon, as in '40:'",
    ),
    (
        _errno.EINVAL,
        "Invalid handle",
        QdiscNotFound,
        "another qdisc has taken the plug's place: attach one",
    ),
    (
        _errno.EINVAL,
        "Invalid qdisc name",
        QdiscNotFound,
        "a qdisc of another kind has taken the plug's place: attach one",
    ),
)


def parse_reply(message: bytes) -> tuple[int, str | None] | None:
    """The errno and the extended ack's sentence of an NLMSG_ERROR message; None where it is too short to be one.

    The layout is that of include/uapi/linux/netlink.h: nlmsghdr, nlmsgerr (an int and the request's own header), the
    request's payload unless it was capped, then attributes. Every length is checked: a lying one ends the reading.
    """

    def u16(at: int) -> int:
        return int.from_bytes(message[at : at + 2], sys.byteorder)

    header = lib.NLMSG_HDRLEN
    error_end = header + 4
    if len(message) < error_end + header:
        return None
    number = -int.from_bytes(message[header:error_end], sys.byteorder, signed=True)
    flags = u16(6)
    text = None
    if flags & lib.NLM_F_ACK_TLVS:
        capped = flags & lib.NLM_F_CAPPED
        request = header if capped else int.from_bytes(message[error_end : error_end + 4], sys.byteorder)
        at = error_end + max(header, (request + 3) & ~3)
        while at + 4 <= len(message):
            length = u16(at)
            if length < 4 or at + length > len(message):
                break
            if u16(at + 2) == lib.NLMSGERR_ATTR_MSG:
                text = message[at + 4 : at + length].split(b"\0")[0].decode("utf-8", "replace") or None
            at += (length + 3) & ~3
    return number, text


def failure(code: int, operation: str, device: str | None, message: bytes | None = None) -> NetlinkError:
    """The exception for libnl's negative ``code`` and, where there is one, the kernel's reply ``message``."""
    reply = parse_reply(message) if message is not None else None
    target = f"{operation} {device}" if device else operation
    if reply is None:
        words = ffi.string(lib.nl_geterror(code)).decode("utf-8", "replace")
        hint = "the kernel's answer did not arrive, so what it did is not known"
        return NetlinkError(None, f"cannot {target}: {words}; {hint}", operation, device, code, None, hint)
    return refusal(reply[0], operation, device, reply[1], code)


def refusal(errno: int, operation: str, device: str | None, ext_ack: str | None = None, code: int = 0) -> NetlinkError:
    """The exception for an ``errno`` that is certain: nothing of the request was carried out."""
    target = f"{operation} {device}" if device else operation
    kind, hint = NetlinkError, ""
    for number, part, kind_here, hint_here in _REFUSALS:
        if number == errno and part in (ext_ack or ""):
            kind, hint = kind_here, hint_here
            break
    words = os.strerror(errno) if 0 <= errno < 4096 else f"error {errno}"
    if ext_ack:
        words = f"{ext_ack.rstrip('.')} ({words})"
    sentence = f"cannot {target}: {words}" + (f"; {hint}" if hint else "")
    return kind(errno, sentence, operation, device, code or -lib.nl_syserr2nlerr(errno), ext_ack, hint or None)


def check(code: int, operation: str, device: str | None = None, message: bytes | None = None) -> int:
    """Return libnl's ``code`` where it says success (positive values are successes too), else raise."""
    if code < 0:
        raise failure(code, operation, device, message)
    return code
