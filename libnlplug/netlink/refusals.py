# SPDX-License-Identifier: GPL-2.0-or-later
"""Turn a refusal of the kernel into an exception. No other module does this.

The kernel answers a refused request with an errno and, in the extended ack, a sentence. libnl maps the errno to a
smaller list of its own and drops the sentence. This module therefore reads the kernel's reply itself.

Several refusals share one errno, for example ENOENT. The sentence tells them apart; it comes from the kernel's
net/sched/sch_api.c.
"""

from __future__ import annotations

import errno
import os

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
from .attributes import attributes, integer, text
from .libnl import lib

__all__ = ["parse_reply", "refusal", "refusal_in", "unanswered"]

_NO_PLUG = "the kernel has no sch_plug: try 'modprobe sch_plug', or install a kernel that has it (CONFIG_NET_SCH_PLUG)"

# What each refusal means: errno, words of the kernel's sentence ("" for any), exception, hint. The first match counts.
# DEV in a hint is replaced by the device's name.
_REFUSALS: tuple[tuple[int, str, type[NetlinkError], str], ...] = (
    (
        errno.EPERM,
        "",
        NotPermitted,
        "CAP_NET_ADMIN is missing in this network namespace: run it as root or give the process that capability",
    ),
    (
        errno.ENOENT,
        "kind is unknown",
        PlugUnavailable,
        _NO_PLUG,
    ),
    (
        errno.ENOENT,
        "Specified qdisc not found",  # Linux 5.10
        PlugUnavailable,
        _NO_PLUG,
    ),
    (
        errno.ENOENT,
        "classifier not found",
        PlugUnavailable,
        "the kernel has no flower filters: try 'modprobe cls_flower', or install a kernel with CONFIG_NET_CLS_FLOWER",
    ),
    (
        errno.ENOENT,
        "TC action module",
        PlugUnavailable,
        "the kernel cannot redirect: try 'modprobe act_mirred', or install a kernel with CONFIG_NET_ACT_MIRRED",
    ),
    (
        errno.ENOENT,
        "Failed to find specified qdisc",
        ParentNotFound,
        "the device has no qdisc with the parent's handle: 'tc qdisc show dev DEV' lists its qdiscs",
    ),
    (
        errno.ENOENT,
        "class not found",
        ClassNotFound,
        "the parent qdisc has no such class: 'tc class show dev DEV' lists its classes",
    ),
    (
        errno.ENOENT,
        "",
        QdiscNotFound,
        "the plug is gone, deleted or replaced: attach one",
    ),
    (
        errno.EOPNOTSUPP,
        "",
        ParentNotClassful,
        "the parent must be 'root' or a class of a classful qdisc such as prio or htb",
    ),
    (
        errno.ENODEV,
        "",
        DeviceNotFound,
        "'ip link' lists the devices of this network namespace",
    ),
    (
        errno.EEXIST,
        "",
        QdiscExists,
        "a configured qdisc is there and is not replaced: delete it first, or hold at a class of it",
    ),
    (
        errno.EINVAL,
        "different parent",
        HandleInUse,
        "the device has a qdisc with this handle elsewhere: choose another handle (handle=, --handle)",
    ),
    (
        errno.EINVAL,
        "Invalid minor handle",
        InvalidHandle,
        "a qdisc's handle is a major number and a colon, as in '40:'",
    ),
    (
        errno.EINVAL,
        "Invalid handle",
        QdiscNotFound,
        "another qdisc has taken the plug's place: attach one",
    ),
    (
        errno.EINVAL,
        "Invalid qdisc name",
        QdiscNotFound,
        "a qdisc of another kind has taken the plug's place: attach one",
    ),
)


# Their hints are about a plug, so a request about a link or a filter is refused without them.
_OF_QDISCS = (QdiscNotFound, ParentNotClassful, QdiscExists)


def parse_reply(message: bytes) -> tuple[int, str | None] | None:
    """Return the errno and the extended ack's sentence of an NLMSG_ERROR message, or None if it is too short.

    The layout is that of include/uapi/linux/netlink.h: nlmsghdr, nlmsgerr (an int and the request's own header), the
    request's payload unless it was capped, then attributes.
    """
    error_at = lib.NLMSG_HDRLEN
    request_at = error_at + 4
    if len(message) < request_at + lib.NLMSG_HDRLEN:
        return None
    code = -integer(message[error_at:request_at], signed=True)
    flags = integer(message[6:8])
    if not flags & lib.NLM_F_ACK_TLVS:
        return code, None
    request = lib.NLMSG_HDRLEN if flags & lib.NLM_F_CAPPED else integer(message[request_at : request_at + 4])
    after_request = request_at + max(lib.NLMSG_HDRLEN, (request + 3) & ~3)
    found = dict(attributes(message[after_request:]))
    return code, text(found.get(lib.NLMSGERR_ATTR_MSG, b"")) or None


def refusal_in(message: bytes, operation: str, device: str | None) -> NetlinkError:
    """Return the exception for the kernel's NLMSG_ERROR ``message``."""
    reply = parse_reply(message)
    if reply is None or not 0 <= reply[0] < 4096:
        return unanswered(errno.EBADMSG, operation, device)
    request = lib.NLMSG_HDRLEN + 4
    kind = integer(message[request + 4 : request + 6])
    about_qdisc = kind in (lib.RTM_NEWQDISC, lib.RTM_DELQDISC, lib.RTM_GETQDISC)
    return refusal(reply[0], operation, device, reply[1], about_qdisc=about_qdisc)


def refusal(
    code: int, operation: str, device: str | None, ext_ack: str | None = None, *, about_qdisc: bool = True
) -> NetlinkError:
    """Return the exception for the kernel's errno ``code``. The kernel has carried out no part of the request."""
    error_class, hint = NetlinkError, ""
    for its_code, words, its_class, its_hint in _REFUSALS:
        if its_code == code and words in (ext_ack or ""):
            error_class, hint = its_class, its_hint
            break
    if not about_qdisc and error_class in _OF_QDISCS:
        hint = ""
    hint = hint.replace(" DEV'", f" {device or 'DEV'}'")
    why = os.strerror(code)
    if ext_ack:
        why = f"{ext_ack.rstrip('.')} ({why})"
    sentence = f"cannot {_target(operation, device)}: {why}" + (f"; {hint}" if hint else "")
    return error_class(code, sentence, operation, device, -lib.nl_syserr2nlerr(code), ext_ack, hint or None)


def unanswered(code: int, operation: str, device: str | None) -> NetlinkError:
    """Return the exception for a request whose answer was lost; ``code`` is the errno of receiving it. The request may
    have been carried out."""
    hint = "the kernel's answer did not arrive: the request may or may not have been carried out"
    sentence = f"cannot {_target(operation, device)}: {os.strerror(code)}; {hint}"
    return NetlinkError(None, sentence, operation, device, -lib.nl_syserr2nlerr(code), None, hint)


def _target(operation: str, device: str | None) -> str:
    return f"{operation} {device}" if device else operation
