# SPDX-License-Identifier: GPL-2.0-or-later
"""lane: make, list and delete lanes that stay, and make or find the lane of 'hold'."""

from __future__ import annotations

from ..errors import DeviceNotFound
from .advice import elsewhere
from .output import columns, say
from .table import DONE, FAILED, PACKETS
from .verbs import device_named

__all__ = ["chosen", "lane", "lane_for"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..lane.inventory import ShownLane
    from ..lane.lane import PlugLane
    from ..lane.match import Match
    from ..netlink.route_socket import RouteSocket
    from .parser import Args

_PARTS = tuple(one.key for one in PACKETS)


def lane(args: Args) -> int:
    """libnlplug lane add|show|del DEV"""
    return {"add": _add, "show": _show, "del": _delete}[args.action](args)


def _add(args: Args) -> int:
    lane_for(args, chosen(args), keep=True).close()
    return DONE


def _delete(args: Args) -> int:
    from ..lane.remove import delete_lanes
    from ..netlink.route_socket import RouteSocket

    match = chosen(args)
    every = match is None and not args.ingress  # with packet options, only the lane that 'add' made with the same ones
    gone = delete_lanes(RouteSocket(args.netns), device_named(args), match, None if every else args.ingress)
    if not gone:
        say(elsewhere(f"no such lane on {args.dev}: 'libnlplug lane show {args.dev}' lists them", args))
    return DONE if gone else FAILED


def _show(args: Args) -> int:
    from ..netlink.route_socket import RouteSocket

    found = _listed(RouteSocket(args.netns), None if args.dev is None else device_named(args))
    if args.json:
        import json

        print(json.dumps([one.as_dict() for one in found], indent=2))
    elif found:
        rows = [[one.device, one.hook, one.match, one.ifb, elsewhere(_state(one), args)] for one in found]
        print("\n".join(columns(["DEVICE", "HOOK", "MATCH", "IFB", "STATE"], rows)))
    else:
        print(f"no lane on {args.dev}" if args.dev else "no lane in this network namespace")
    return DONE


def _state(one: ShownLane) -> str:
    return ", ".join([one.state, *([f"pid {one.pid}"] if one.pid else []), *([one.trouble] if one.trouble else [])])


def _listed(sk: RouteSocket, device: str | None) -> list[ShownLane]:
    """Return the lanes of the device, or of every device that has a lane or a clsact qdisc."""
    from ..lane.inventory import all_lanes, shown_lanes

    if device is not None:
        return shown_lanes(sk, sk.link_name(sk.ifindex_of(device)))  # it may be an alternative name
    ifindexes = {one.ifindex for one in all_lanes(sk)}
    ifindexes |= {one.ifindex for one in sk.qdiscs() if one.kind == "clsact"}
    found = []
    for ifindex in sorted(ifindexes):
        try:
            found += shown_lanes(sk, sk.link_name(ifindex))
        except DeviceNotFound:  # it has gone, and the next lane of any device removes what it left
            continue
    return found


def chosen(args: Args) -> Match | None:
    """Return the match of the packet options, or None if none was given."""
    parts = {key: getattr(args, key) for key in _PARTS if key in args.typed}
    if not parts:
        return None
    from ..lane.match import Match

    return Match(**parts)


def lane_for(args: Args, match: Match | None, *, keep: bool = False) -> PlugLane:
    """Make or find a lane of the device. Print a warning for each filter or program that comes before it."""
    import warnings

    from ..lane.lane import LaneShadowed, PlugLane
    from ..lane.match import Match

    warnings.simplefilter("ignore", LaneShadowed)  # printed below
    make = PlugLane.keep if keep else PlugLane
    made = make(device_named(args), match or Match(), ingress=args.ingress, limit=args.limit, netns=args.netns)
    for sentence in made.shadowed:
        say(f"warning: {sentence}")
    return made
