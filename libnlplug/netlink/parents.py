# SPDX-License-Identifier: GPL-2.0-or-later
"""Refuse a parent where a plug would harm other classes."""

from __future__ import annotations

import errno

from ..errors import NetlinkError
from .messages import handle_text
from .route_socket import RouteSocket

__all__ = ["refuse_parent"]

# These qdiscs serve no class while one class has packets but gives none, as a plug does that holds: drr_dequeue(),
# qfq_dequeue(), hfsc_dequeue() and ets_qdisc_dequeue() in net/sched.
STOPPED_BY_SILENCE = ("hfsc", "drr", "qfq", "ets")
# When the qdisc of a class of these is deleted, they put noop there, which drops every packet: mq_graft() and others in
# net/sched. (prio and htb put a pfifo there.)
LEFT_WITHOUT_QUEUE = ("mq", "mqprio", "taprio", "multiq", "tbf", "red", "sfb")


def refuse_parent(sk: RouteSocket, ifindex: int, device: str, parent: int) -> None:
    """Raise NetlinkError if ``parent`` is a class of a qdisc that would serve no other class while a plug holds, or
    that would leave the class without a queue when the plug is removed."""
    by_handle = {one.handle: one for one in sk.qdiscs() if one.ifindex == ifindex}
    seen: set[int] = set()
    while (major := parent & 0xFFFF_0000) in by_handle and major not in seen:
        there = by_handle[major]
        why = ""
        if there.kind in STOPPED_BY_SILENCE:
            why = "serves none of its classes while one of them holds packets back"
        elif there.kind in LEFT_WITHOUT_QUEUE and not seen:
            why = "leaves a class without a queue when its plug is removed, and the class then drops every packet"
        seen.add(major)
        if why:
            hint = "hold chosen packets by a lane instead (PlugLane; 'hold' with packet options)"
            why = f"{there.kind} {handle_text(major)} {why}"
            sentence = f"cannot attach a plug to {device}: {why}; {hint}"
            raise NetlinkError(errno.EOPNOTSUPP, sentence, "attach a plug to", device, hint=hint)
        parent = there.parent
