# SPDX-License-Identifier: GPL-2.0-or-later
"""show: the plugs of a namespace, for people or as JSON."""

from __future__ import annotations

import errno
import sys
import time

from ..errors import QdiscNotFound
from ..netlink.route_socket import RouteSocket
from .output import columns
from .plugs import NO_PLUG, holder_name, plugs
from .table import DONE
from .verbs import device_named

__all__ = ["lines", "show"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .parser import Args

_NUMBERS = ("qlen", "backlog", "drops", "packets", "bytes")


def show(args: Args) -> int:
    """libnlplug show [DEV]. Raise QdiscNotFound if a device is named and has no plug."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sk = RouteSocket(args.netns)
    device = None if args.dev is None else device_named(args)

    def look() -> list[dict[str, object]]:
        return plugs(sk, device, here=args.netns is None)

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
    """Return the table, one line for each plug."""
    if not found:
        return [NO_PLUG]
    rows = [
        [str(plug[name]) for name in ("device", "parent", "handle", *_NUMBERS)] + [_holder(plug["holder"])]
        for plug in found
    ]
    numbers = [name.upper() for name in _NUMBERS]
    return columns(["DEVICE", "PARENT", "HANDLE", *numbers, "HOLDER"], rows, numbers)


def _holder(holder: object) -> str:
    if not isinstance(holder, dict):
        return "-"
    if holder["foreign"]:
        return holder_name(holder)
    since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
    timeout = f", timeout {holder['timeout']:g} s" if holder["timeout"] else ", no timeout"
    return f"{holder_name(holder)} since {since} ({time.time() - holder['since']:.1f} s{timeout})"
