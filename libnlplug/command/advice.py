# SPDX-License-Identifier: GPL-2.0-or-later
"""Write an error in the words of the command line, with what the user can do about it.

The library says what failed and why, and advises whoever programs with it. Here options are named as they are typed,
advice repeats the namespace, and if a device cannot take a plug, the error suggests a lane.
"""

from __future__ import annotations

import errno

from ..errors import DeviceNotFound, NetlinkError, NotPermitted, QdiscExists, QdiscNotFound

__all__ = ["as_typed", "elsewhere", "explained"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .parser import Args

# Qdiscs a class of which can be held while the others flow.
_CLASSFUL = ("prio", "htb")
_AT_A_CLASS = "hold at a class of it"
_CLOSE_IT = "close it and make it again"  # for a program that has the lane as an object
_CAPABILITIES = {"CAP_NET_ADMIN": 1 << 12, "CAP_SYS_ADMIN": 1 << 21}
_STATUS = "/proc/self/status"


def explained(error: OSError, args: Args) -> str:
    """Return the sentence of an error, with the advice that fits the given command."""
    sentence = str(error) if isinstance(error, NetlinkError) else error.strerror or str(error)
    dev, parent = getattr(args, "dev", None), getattr(args, "parent", "root")
    if isinstance(error, QdiscExists) and _AT_A_CLASS in sentence:
        sentence = sentence.replace(f", or {_AT_A_CLASS}", _other_ways(args))
    elif isinstance(error, NotPermitted):
        sentence = _not_permitted(sentence)
    elif isinstance(error, QdiscNotFound) and isinstance(dev, str):
        sentence = _where_plugs_are(sentence, args)
    elif isinstance(error, DeviceNotFound) and isinstance(dev, str):
        sentence += _no_device(dev)
    elif error.errno == errno.EAFNOSUPPORT:
        sentence += "; this process may not make such sockets: a unit's RestrictAddressFamilies= must allow AF_NETLINK"
        sentence += " and AF_UNIX"
    elif error.errno == errno.EINVAL and parent != "root" and type(error) is NetlinkError:
        classes = f"'tc class show dev {dev}' lists them"
        sentence += f"; if the class {parent} has classes of its own, hold at one of those: {classes}"
    sentence = sentence.replace(_CLOSE_IT, f"'libnlplug lane show {dev}' says what to do")
    return elsewhere(sentence, args)


def _other_ways(args: Args) -> str:
    """Return how packets can be held although another qdisc is the root."""
    at_class = f", {_AT_A_CLASS} (--parent; 'tc class show dev {args.dev}' lists them)" if _has_classes(args) else ""
    if args.verb is not None and args.verb.name == "hold":
        made = f"; 'libnlplug lane show {args.dev}' lists those that are there" if _has_lanes(args) else ""
        by_lane = "or hold chosen packets by a lane, which leaves it alone: give packet options, as --tcp-syn"
        return f"{at_class}, {by_lane}{made}"
    return f"{at_class}, or use a lane, which leaves it alone: 'libnlplug lane add {args.dev}'"


def _where_plugs_are(sentence: str, args: Args) -> str:
    """Return the sentence, with where the device's plugs are. Verbs that use an old plug advise no new one."""
    if args.verb is not None and args.verb.name in ("release", "limit", "detach"):
        sentence = sentence.replace("attach one first", "'libnlplug show' lists the plugs")
    if args.verb is not None and args.verb.name != "hold" and _has_lanes(args):
        sentence += f"; the plugs of its lanes are on their ifbs: 'libnlplug lane show {args.dev}' lists them"
    return sentence


def _has_lanes(args: Args) -> bool:
    from ..lane.inventory import all_lanes
    from ..netlink.route_socket import RouteSocket

    try:
        sk = RouteSocket(args.netns)
        ifindex = sk.ifindex_of(args.dev)
        return any(lane.ifindex == ifindex for lane in all_lanes(sk))
    except OSError:
        return False


def _no_device(name: str) -> str:
    """Return what a name is that no device has: an address, or the label of one."""
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        device, colon, _ = name.partition(":")
        return (
            f"; a name with a colon is the label of an address: give the device, {device}" if device and colon else ""
        )
    return "; it is an address: give the device that has it ('ip -br address' lists both)"


def _has_classes(args: Args) -> bool:
    from ..netlink.messages import parse_handle
    from ..netlink.route_socket import RouteSocket

    try:
        sk = RouteSocket(args.netns)
        found = sk.qdisc(sk.ifindex_of(args.dev), parse_handle(args.parent) or 0, args.dev)
    except OSError:
        return False
    return found is not None and found.kind in _CLASSFUL


def _not_permitted(sentence: str) -> str:
    """Return the sentence. If the capability is not missing, it names a seccomp filter instead."""
    for name, bit in _CAPABILITIES.items():
        what, missing, _ = sentence.partition(f"{name} is ")
        if missing and _has_the_right(bit):
            return f"{what.rstrip(' ;:')}; this process has {name}, so a seccomp filter or the like refuses it"
    return sentence


def _has_the_right(capability: int) -> bool:
    """Return whether this process has the capability and is under a seccomp filter."""
    try:
        with open(_STATUS, errors="replace") as file:
            status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        return bool(int(status["CapEff"], 16) & capability) and status["Seccomp"].strip() != "0"
    except (OSError, KeyError, ValueError):
        return False


def as_typed(error: ValueError, args: Args) -> str:
    """Return the sentence of an invalid argument, with its options as they were typed, and where to find more."""
    sentence = str(error)
    if args.verb is not None and args.verb.name == "limit" and sentence.startswith("limit is "):
        sentence = "SIZE" + sentence[len("limit") :]
    for one in args.verb.options if args.verb is not None else ():
        typed = args.typed.get(one.key, one.names[-1])
        if "_" in one.key:
            sentence = sentence.replace(one.key, typed)
        elif sentence.startswith(f"{one.key} is "):
            sentence = typed + sentence[len(one.key) :]
    sentence = sentence.replace(" is None", " is not given")
    name = f"libnlplug {args.verb.name}" if args.verb is not None else "libnlplug"
    return f"{name}: {sentence} (try '{name} --help')"


def elsewhere(sentence: str, args: Args) -> str:
    """Return the sentence, with its quoted commands changed so that they work in the namespace of --netns."""
    netns = getattr(args, "netns", None)
    if netns is None:
        return sentence
    from shlex import quote

    inside = f"-n {quote(str(netns))}"
    named = isinstance(netns, str) and "/" not in netns
    path = netns if isinstance(netns, str) else f"/proc/{netns}/ns/net"
    for program in ("libnlplug", "tc", "ip"):
        takes_it = named or program == "libnlplug"
        does = f"{program} {inside}" if takes_it else f"nsenter --net={quote(path)} {program}"
        sentence = sentence.replace(f"'{program} ", f"'{does} ")
    return sentence.replace(f"'{does} netns'", "'ip netns'")
