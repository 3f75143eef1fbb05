# SPDX-License-Identifier: GPL-2.0-or-later
"""Read what the kernel shows of devices, and refuse a limit that is too small for a device's packets."""

from __future__ import annotations

from ..errors import NetlinkError
from ..record import Record
from .attributes import attributes, integer, text
from .libnl import ffi, lib
from .messages import ETHERNET_HEADER, link_message
from .route_socket import RouteSocket

__all__ = ["Device", "device_of", "devices_with", "refuse_small_limit"]

GSO_MAX_SIZE = 65536  # bytes, the kernel's default


class Device(Record):
    """A link: its ``kind`` ('veth', 'vrf'; empty for hardware and lo), an ipvlan's ``mode``, and the index of the
    device ``below`` it (0 if there is none, or if it is in another namespace).

    ``packet`` is the number of bytes of its largest packet, with the Ethernet header if it has one. The kernel may hand
    it ``gso`` bytes at once, to be split into packets later (generic segmentation offload).

    Of an ifb, ``inside`` counts the packets that it has taken and not given back, without those in its qdisc. ``lost``
    counts packets that could not be given back because their device was gone.
    """

    __slots__ = (
        *("ifindex", "name", "alias", "address", "up", "kind", "mode", "below"),
        *("packet", "gso", "inside", "lost"),
    )
    ifindex: int
    name: str
    alias: str
    address: bytes
    up: bool
    kind: str
    mode: int
    below: int
    packet: int
    gso: int
    inside: int
    lost: int

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


def devices_with(sk: RouteSocket, parts: bytes, operation: str) -> list[Device]:
    """Return the devices that the kernel finds for these attributes: IFLA_MASTER, or the kind in IFLA_LINKINFO."""
    replies = sk.ask(link_message(lib.RTM_GETLINK, lib.NLM_F_DUMP, 0, parts), operation, None)
    return [_read(reply.payload) for reply in replies]


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
    size, segments = (integer(parts.get(limit, b"")[:4]) for limit in (lib.IFLA_GSO_MAX_SIZE, lib.IFLA_GSO_MAX_SEGS))
    stats = ffi.new("struct rtnl_link_stats64 *")
    counters = parts.get(lib.IFLA_STATS64, b"")[: ffi.sizeof("struct rtnl_link_stats64")]
    ffi.buffer(stats)[: len(counters)] = counters
    return Device(
        info.ifi_index,
        name,
        text(parts.get(lib.IFLA_IFALIAS, b"")),
        parts.get(lib.IFLA_ADDRESS, b""),
        bool(info.ifi_flags & lib.IFF_UP),
        kind,
        mode,
        below,
        packet,
        min(size, segments * packet),
        # rx_packets also counts packets that did not come from a redirect; the ifb drops those.
        stats.rx_packets - stats.rx_dropped - stats.tx_packets,
        stats.tx_dropped,
    )
