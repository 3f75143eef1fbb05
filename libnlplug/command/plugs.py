# SPDX-License-Identifier: GPL-2.0-or-later
"""plugs: the plugs of a namespace, the kernel's counters of each, and its holder.

The kernel does not tell whether a plug holds, so this is never printed. A guard has the plug's mark while it holds, and
tells who the holder is.
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
    """Return every plug as the JSON shows it: device, ifindex, parent, handle, qlen, backlog, drops, packets, bytes,
    holder.

    ``holder`` is null or an object: pid, since (seconds of the epoch), timeout (seconds or null), limit (bytes, null
    if the holder did not set it), guard (pid), detached, foreign, uid. ``here`` says that the socket's namespace is
    the calling thread's: then no privilege is needed.
    """
    index = sk.ifindex_of(device) if device is not None else None
    found = []
    for info in sk.every_qdisc():
        if info.kind != "plug" or index not in (None, info.ifindex):
            continue
        try:
            found.append(_plug(sk, info, here))
        except DeviceNotFound:  # it was deleted between two questions
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
    """Return who holds, in a few words."""
    who = f"pid {holder['pid']}" if holder["pid"] else "in another pid namespace"
    if holder["foreign"]:
        return "nobody answers" if holder["uid"] < 0 else f"{who} of uid {holder['uid']}, perhaps no guard"
    if holder["uid"] not in (0, os.geteuid()):
        who = f"{who} of uid {holder['uid']}"
    return f"guard {who}" if holder["detached"] else who
