# SPDX-License-Identifier: GPL-2.0-or-later
"""plugs: those of a namespace, with the kernel's counters and who holds them.

Every number is a counter of the kernel's. Whether a plug holds is not among them and is never printed; who holds it by
a hold() is known from the mark that its guard keeps.
"""

from __future__ import annotations

import os

from ..errors import DeviceNotFound
from ..guard.holders import holder_of, mark_name
from ..netlink.messages import handle_text
from ..netlink.route_socket import RouteSocket

__all__ = ["NO_PLUG", "holder_name", "plugs"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..netlink.route_socket import QdiscInfo

NO_PLUG = "no plug in this network namespace"


def plugs(sk: RouteSocket, device: str | None, *, here: bool = False) -> list[dict[str, object]]:
    """Every plug as the JSON shows it: device, ifindex, parent, handle, qlen, backlog, drops, packets, bytes, holder.

    ``holder`` is null or an object: pid, since (seconds of the epoch), timeout (seconds or null), limit (bytes, null
    where the holder did not set it), guard (pid), detached, foreign, uid. ``here`` says that the socket's namespace is
    the calling thread's: then no privilege is needed.
    """
    index = sk.ifindex_of(device) if device is not None else None
    found = []
    for info in sk.every_qdisc():
        if info.kind != "plug" or index not in (None, info.ifindex):
            continue
        try:
            found.append(_plug(sk, info, here))
        except DeviceNotFound:  # it went between two questions
            continue
    return found


def _plug(sk: RouteSocket, info: QdiscInfo, here: bool) -> dict[str, object]:
    holder = holder_of(None if here else sk, mark_name(info.ifindex, info.parent))
    return {
        "device": sk.link_name(info.ifindex),
        "ifindex": info.ifindex,
        "parent": handle_text(info.parent),
        "handle": handle_text(info.handle),
        "qlen": info.qlen,
        "backlog": info.backlog,
        "drops": info.drops,
        "packets": info.packets,
        "bytes": info.bytes,
        "holder": None if holder is None else holder.as_dict(),
    }


def holder_name(holder: dict[str, Any]) -> str:
    """Who holds, in a few words."""
    who = f"pid {holder['pid']}" if holder["pid"] else "in another pid namespace"
    if holder["foreign"]:
        return "nobody answers" if holder["uid"] < 0 else f"{who} of uid {holder['uid']}, perhaps no guard"
    if holder["uid"] not in (0, os.geteuid()):
        who = f"{who} of uid {holder['uid']}"
    return f"guard {who}" if holder["detached"] else who
