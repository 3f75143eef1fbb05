# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the kind of a device, its ports and largest packet, and refuse limits and parents that a plug must not have."""

from __future__ import annotations

import errno
import os
import sys

from ..errors import NetlinkError
from ..record import Record
from .attributes import attributes, integer, text
from .libnl import ffi, lib
from .messages import ETHERNET_HEADER, attribute, handle_text, link_message
from .route_socket import RouteSocket

__all__ = [
    "Device",
    "device_of",
    "load_ifb",
    "ports_of",
    "refuse_small_limit",
    "refuse_parent",
]

# These qdiscs serve no class while one class has packets but gives none, as a plug does that holds: drr_dequeue(),
# qfq_dequeue(), hfsc_dequeue() and ets_qdisc_dequeue() in net/sched.
STOPPED_BY_SILENCE = ("hfsc", "drr", "qfq", "ets")
# When the qdisc of a class of these is deleted, they put noop there, which drops every packet: mq_graft() and others in
# net/sched. (prio and htb put a pfifo there.)
LEFT_WITHOUT_QUEUE = ("mq", "mqprio", "taprio", "multiq", "tbf", "red", "sfb")
GSO_MAX_SIZE = 65536  # bytes, the kernel's default


class Device(Record):
    """A link: its ``kind`` ('veth', 'vrf'; empty for hardware and lo), an ipvlan's ``mode``, and the index of the
    device ``below`` it (0 if there is none, or if it is in another namespace).

    ``packet`` is the number of bytes of its largest packet, with the Ethernet header if it has one. The kernel may hand
    it ``gso`` bytes at once, to be split into packets later (generic segmentation offload).
    """

    __slots__ = ("ifindex", "name", "kind", "mode", "below", "packet", "gso")
    ifindex: int
    name: str
    kind: str
    mode: int
    below: int
    packet: int
    gso: int

    @property
    def most_bytes(self) -> int:
        """How many bytes one packet can count in a qdisc of the device.

        A packet that is split later (GSO) counts a header for each segment, at most as long as the segment's data. It
        may come from another device, whose gso_max_size may be the kernel's default.
        """
        return 2 * max(GSO_MAX_SIZE, self.gso, self.packet)


def device_of(sk: RouteSocket, ifindex: int) -> Device:
    """Return the device with this interface index, or raise DeviceNotFound."""
    replies = sk.ask(link_message(lib.RTM_GETLINK, 0, ifindex), "find", f"device {ifindex}")
    if not replies:
        raise NetlinkError(None, f"cannot find device {ifindex}: the kernel answered with no link", "find")
    return _read(replies[0].payload)


def ports_of(sk: RouteSocket, ifindex: int) -> list[str]:
    """Return the names of the ports of this bridge, bond or VRF."""
    master = attribute(lib.IFLA_MASTER, ifindex.to_bytes(4, sys.byteorder))
    replies = sk.ask(link_message(lib.RTM_GETLINK, lib.NLM_F_DUMP, 0, master), "list the ports", None)
    return [device.name for device in (_read(reply.payload) for reply in replies) if device.name]


def refuse_small_limit(sk: RouteSocket, ifindex: int, name: str, limit: int, stacklevel: int = 3) -> None:
    """Raise ValueError if the largest packet of the device does not fit into a plug with this limit.

    sch_plug.c drops such a packet at any time, also after a release. Warn if that can happen to a packet that the
    kernel has not split yet. ``stacklevel`` is that of warnings.warn().
    """
    device = device_of(sk, ifindex)
    dropped = "and the plug drops what is larger than its limit, even after a release"
    if limit < device.packet:
        at_least = f"give at least {max(device.packet, device.gso)}"
        raise ValueError(f"limit is {limit}: packets of {name} have up to {device.packet} bytes, {dropped}; {at_least}")
    if limit < device.gso:
        import warnings

        at_once = f"the kernel hands {name} up to {device.gso} bytes at once (GSO)"
        sentence = f"limit is {limit}: {at_once}, {dropped}; give at least {device.gso}"
        warnings.warn(sentence, RuntimeWarning, stacklevel=stacklevel)


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


def load_ifb() -> bool:
    """Load the module ifb without links of its own. The kernel itself would load it with the links ifb0 and ifb1.

    Return False if the kernel may still do that. Return True if the module is loaded, or if the kernel has no program
    to load modules.
    """
    if any(map(os.path.isdir, ("/sys/module/ifb", "/sys/class/net/ifb0"))):
        return True
    try:
        with open("/proc/sys/kernel/modprobe") as file:
            program = file.read().strip()
        if not program:
            return True
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pid = os.posix_spawn(program, [program, "-q", "ifb", "numifbs=0"], os.environ, file_actions=nothing)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False


def _read(payload: bytes) -> Device:
    head = ffi.sizeof("struct ifinfomsg")
    info = ffi.new("struct ifinfomsg *")
    ffi.buffer(info)[:] = payload[:head].ljust(head, b"\0")
    parts = dict(attributes(payload[head:]))
    about = dict(attributes(parts.get(lib.IFLA_LINKINFO, b"")))
    kind = text(about.get(lib.IFLA_INFO_KIND, b""))
    mode = integer(dict(attributes(about.get(lib.IFLA_INFO_DATA, b""))).get(lib.IFLA_IPVLAN_MODE, b"")[:2])
    below = 0 if lib.IFLA_LINK_NETNSID in parts else integer(parts.get(lib.IFLA_LINK, b"")[:4])
    name = text(parts.get(lib.IFLA_IFNAME, b""))
    header = ETHERNET_HEADER if info.ifi_type in (lib.ARPHRD_ETHER, lib.ARPHRD_LOOPBACK) else 0
    packet = integer(parts.get(lib.IFLA_MTU, b"")[:4]) + header
    size, segments = (integer(parts.get(kind, b"")[:4]) for kind in (lib.IFLA_GSO_MAX_SIZE, lib.IFLA_GSO_MAX_SEGS))
    return Device(info.ifi_index, name, kind, mode, below, packet, min(size, segments * packet))
