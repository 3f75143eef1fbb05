# SPDX-License-Identifier: GPL-2.0-or-later
"""A guard of qdiscs that are not there: what it is told to hold, and what it sends the kernel then."""

from __future__ import annotations

from libnlplug.guard.holders import Place
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.messages import qdisc_message, without_ack

PLACES = [Place("lo", 1, 0x7_0000, 0x7_0000), Place("lo", 1, 0x8_0000, 0x8_0000)]
MARKS = [place.mark for place in PLACES]


def message(kind: int, flags: int = 0) -> bytes:
    """A request about a qdisc that is not there, whatever the guard writes into it: the kernel's answer is ENOENT."""
    return without_ack(qdisc_message(kind, flags, 1, 0x7_0000, 0x7_0000, b"pfifo"))


MESSAGES = [
    message(lib.RTM_GETLINK),  # instead of buffer: what succeeds and changes nothing
    message(lib.RTM_NEWQDISC),
    message(lib.RTM_DELQDISC),
    message(lib.RTM_GETQDISC),
    message(lib.RTM_GETLINK),
]
