# SPDX-License-Identifier: GPL-2.0-or-later
"""show: the plugs of a namespace, once or again and again, for people or as JSON.

Every number is a counter of the kernel's. Whether a plug holds is not among them and is never printed; who holds it by
a hold() is known from the mark that its guard keeps.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from functools import partial

from ..errors import DeviceNotFound, QdiscNotFound
from ..guard.holders import holder_of, mark_name
from ..netlink.messages import handle_text
from ..netlink.route_socket import RouteSocket
from .units import format_size

__all__ = ["plugs", "show"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from ..netlink.netns import Netns
    from ..netlink.route_socket import QdiscInfo

INTERVAL = 0.5
BAR = 20


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


def show(device: str | None, netns: Netns, *, as_json: bool, watch: bool) -> int:
    """Print them; QdiscNotFound where a device was named and has no plug."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    route = RouteSocket(netns)
    look = partial(plugs, route, device, here=netns is None)
    found = look()
    if device is not None and not found and not watch:
        raise QdiscNotFound(None, f"no plug on {device}: attach one with 'libnlplug attach {device}'", "show", device)
    if watch:
        _watch(look, as_json)
    elif as_json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_table(found)))
    return 0


def _table(found: list[dict[str, object]]) -> list[str]:
    if not found:
        return ["no plug in this network namespace"]
    heads = ["DEVICE", "PARENT", "HANDLE", "QLEN", "BACKLOG", "DROPS", "PACKETS", "BYTES", "HOLDER"]
    rows = [
        [str(plug[name]) for name in ("device", "parent", "handle", "qlen", "backlog", "drops", "packets", "bytes")]
        + [_holder(plug["holder"])]
        for plug in found
    ]
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [heads, *rows]]


def _holder(holder: object) -> str:
    if not isinstance(holder, dict):
        return "-"
    who = f"pid {holder['pid']}" if holder["pid"] else "in another pid namespace"
    if holder["foreign"]:
        return "nobody answers" if holder["uid"] < 0 else f"{who} of uid {holder['uid']}, perhaps no guard"
    since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
    timeout = f", timeout {holder['timeout']:g} s" if holder["timeout"] else ", no timeout"
    detached = "guard " if holder["detached"] else ""
    return f"{detached}{who} since {since} ({time.time() - holder['since']:.1f} s{timeout})"


def _watch(look: Callable[[], list[dict[str, object]]], as_json: bool) -> None:
    """Twice a second until interrupted: redrawn in place on a terminal, line after line elsewhere."""
    live = sys.stdout.isatty() and not as_json
    largest: dict[object, int] = {}
    before: dict[object, tuple[float, int]] = {}
    drawn = 0
    try:
        while True:
            found, now = look(), time.monotonic()
            if as_json:
                print(json.dumps({"time": time.time(), "plugs": found}), flush=True)
            else:
                lines = [_live(plug, now, largest, before) for plug in found] or ["no plug in this network namespace"]
                erase = ""
                if live:
                    lines = _fitted(lines)
                    erase, drawn = f"\033[{drawn}A\033[J" if drawn else "", len(lines)
                print(erase + "\n".join([*lines, ""]), end="", flush=True)  # in one write
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        if live:
            print()  # the terminal has shown ^C


def _fitted(lines: list[str]) -> list[str]:
    """The lines as a terminal shows them: what it wrapped or scrolled away by itself could not be drawn over."""
    import textwrap

    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns, rows = 0, 0
    fitted = []
    for line in lines:
        fitted += textwrap.wrap(line, columns or 80, subsequent_indent="    ", break_on_hyphens=False)
    most = (rows or 24) - 1
    if len(fitted) > most:
        hidden = len(fitted) - most + 1
        fitted[most - 1 :] = [f"... {hidden} more lines"]
    return fitted


def _live(
    plug: dict[str, object], now: float, largest: dict[object, int], before: dict[object, tuple[float, int]]
) -> str:
    """One plug's line: what is in it against its limit where that is known, else against the most that was seen."""
    key = (plug["ifindex"], plug["parent"], plug["handle"])
    backlog, packets = int(str(plug["backlog"])), int(str(plug["packets"]))
    largest[key] = max(backlog, largest.get(key, 0))
    holder = plug["holder"] if isinstance(plug["holder"], dict) else None
    limit = holder["limit"] if holder else None
    full = limit or largest[key]
    filled = min(BAR, -(-backlog * BAR // full)) if full else 0
    then, packets_then = before.get(key, (now, packets))
    before[key] = (now, packets)
    rate = (packets - packets_then) / (now - then) if now > then else 0.0
    of = f"of limit {format_size(limit)}" if limit else f"most seen {format_size(largest[key])}"
    return (
        f"{plug['device']} {plug['parent']} [{'#' * filled}{'.' * (BAR - filled)}] {plug['qlen']} packets,"
        f" {format_size(backlog)} {of}, {rate:.0f} packets/s leaving, {plug['drops']} drops, holder {_holder(holder)}"
    )
