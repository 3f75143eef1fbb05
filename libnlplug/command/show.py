# SPDX-License-Identifier: GPL-2.0-or-later
"""show: the plugs of a namespace, for people or as JSON.

Every number is a counter of the kernel's. Whether a plug holds is not among them and is never printed; who holds it by
a hold() is known from the mark that its guard keeps.
"""

from __future__ import annotations

import errno
import sys
import time
from functools import partial

from ..errors import DeviceNotFound, QdiscNotFound
from ..guard.client import holder_of, mark_name
from ..netlink.messages import handle_text
from ..netlink.route_socket import RouteSocket
from .output import table
from .table import DONE
from .verbs import device_of

__all__ = ["NO_PLUG", "holder_name", "lines", "plugs", "show"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..netlink.route_socket import QdiscInfo
    from .parser import Args

NO_PLUG = "no plug in this network namespace"
_NUMBERS = ("qlen", "backlog", "drops", "packets", "bytes")


def plugs(route: RouteSocket, device: str | None, *, here: bool = False) -> list[dict[str, object]]:
    """Every plug as the JSON shows it: device, ifindex, parent, handle, qlen, backlog, drops, packets, bytes, holder.

    ``holder`` is null or an object: pid, since (seconds of the epoch), timeout (seconds or null), limit (bytes, null
    where the holder did not set it), guard (pid), detached, foreign, uid. ``here`` says that the socket's namespace is
    the calling thread's: then no privilege is needed.
    """
    index = route.link(device) if device is not None else None
    found = []
    for info in route.qdiscs():
        if info.kind != "plug" or index not in (None, info.ifindex):
            continue
        try:
            found.append(_plug(route, info, here))
        except DeviceNotFound:  # it went between two questions
            continue
    return found


def _plug(route: RouteSocket, info: QdiscInfo, here: bool) -> dict[str, object]:
    holder = holder_of(None if here else route, mark_name(info.ifindex, info.parent))
    return {
        "device": route.link_name(info.ifindex),
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


def show(args: Args) -> int:
    """libnlplug show [DEV]; QdiscNotFound where a device is named and has no plug."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    route = RouteSocket(args.netns)
    device = None if args.dev is None else device_of(args)
    look = partial(plugs, route, device, here=args.netns is None)
    found = look()
    if args.watch:
        from .watch import watch

        watch(look, args.json)
    elif device is not None and not found:
        raise QdiscNotFound(None, f"no plug on {device}: attach one with 'libnlplug attach {device}'", "show", device)
    elif args.json:
        import json

        print(json.dumps(found, indent=2))
    else:
        print("\n".join(lines(found)))
    return DONE


def lines(found: list[dict[str, object]]) -> list[str]:
    """The table, a line for each plug."""
    if not found:
        return [NO_PLUG]
    rows = [
        [str(plug[name]) for name in ("device", "parent", "handle", *_NUMBERS)] + [_holder(plug["holder"])]
        for plug in found
    ]
    numbers = [name.upper() for name in _NUMBERS]
    return table(["DEVICE", "PARENT", "HANDLE", *numbers, "HOLDER"], rows, numbers)


def _holder(holder: object) -> str:
    if not isinstance(holder, dict):
        return "-"
    if holder["foreign"]:
        return holder_name(holder)
    since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
    timeout = f", timeout {holder['timeout']:g} s" if holder["timeout"] else ", no timeout"
    return f"{holder_name(holder)} since {since} ({time.time() - holder['since']:.1f} s{timeout})"


def holder_name(holder: dict[str, Any]) -> str:
    """Who holds, in a few words."""
    who = f"pid {holder['pid']}" if holder["pid"] else "in another pid namespace"
    if holder["foreign"]:
        return "nobody answers" if holder["uid"] < 0 else f"{who} of uid {holder['uid']}, perhaps no guard"
    return f"guard {who}" if holder["detached"] else who
