# SPDX-License-Identifier: GPL-2.0-or-later
"""The ifb that carries a lane's plug: made, described in its alias, found again, deleted.

An ifb (drivers/net/ifb.c) is a device that takes packets from a redirect, passes them through its root qdisc, and
gives them back to where they were. A lane's is known by its hardware address, which the message that makes it sets;
its alias says what it is for, so that any process can tell what it finds.
"""

from __future__ import annotations

import errno
import sys

from ..errors import DeviceNotFound, NetlinkError, PlugUnavailable
from ..netlink.attributes import attribute, attributes, text
from ..netlink.devices import ETHERNET_HEADER, load_ifb
from ..netlink.libnl import ffi, lib
from ..netlink.messages import built, link_message
from ..netlink.route_socket import RouteSocket
from ..record import Record

__all__ = ["ADDRESS", "Ifb", "alias_of", "create_ifb", "delete_ifb", "ifb_of", "ifbs", "set_alias"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..netlink.libnl import CData

ALIAS = "libnlplug-lane"
ADDRESS = b"\x02plug\0"  # locally administered
_KIND = attribute(lib.IFLA_LINKINFO, attribute(lib.IFLA_INFO_KIND, b"ifb\0"))


class Ifb(Record):
    """An ifb as the kernel shows it. ``inside`` counts the packets that it has taken in and not yet given back, but for
    those in its qdisc, and ``lost`` those whose device was gone when they were to be given back."""

    __slots__ = ("ifindex", "name", "alias", "address", "up", "inside", "lost")
    ifindex: int
    name: str
    alias: str
    address: bytes
    up: bool
    inside: int
    lost: int

    @property
    def words(self) -> dict[str, str]:
        """What the alias says; nothing where it is not a lane's."""
        head, *parts = self.alias.split(" ")
        return dict(part.split("=", 1) for part in parts if "=" in part) if head == ALIAS else {}


def alias_of(words: dict[str, str]) -> str:
    """The alias that says these words."""
    return " ".join([ALIAS, *(f"{name}={value}" for name, value in words.items())])


def create_ifb(sk: RouteSocket, name: str, alias: str, packet: int) -> int:
    """A new ifb, up, with a lane's address and its alias, and without traffic of its own; its interface index.

    Its largest packet is the lane's, so that a limit of its plug is checked by that.
    Raises FileExistsError where the name is taken, PlugUnavailable where the kernel has no ifb.
    """
    load_ifb()
    parts = attribute(lib.IFLA_IFNAME, name.encode() + b"\0") + attribute(lib.IFLA_ADDRESS, ADDRESS) + _KIND
    parts += attribute(lib.IFLA_MTU, (packet - ETHERNET_HEADER).to_bytes(4, sys.byteorder))
    msg = link_message(lib.RTM_NEWLINK, lib.NLM_F_CREATE | lib.NLM_F_EXCL, 0, parts)
    try:
        sk.execute(msg, "make the ifb", name)
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            hint = "the kernel has no ifb: try 'modprobe ifb numifbs=0', or install a kernel that has it (CONFIG_IFB)"
            message = f"cannot make the ifb {name}: {error.ext_ack or 'Operation not supported'}; {hint}"
            raise PlugUnavailable(error.errno, message, "make the ifb", name, hint=hint) from None
        raise
    ifindex = sk.link(name)
    set_alias(sk, ifindex, name, alias)
    _quieten(sk, ifindex, name)
    up = _link(ifindex)
    lib.rtnl_link_set_flags(up, lib.IFF_UP)
    _change(sk, ifindex, up, "set up the ifb", name)
    return ifindex


def set_alias(sk: RouteSocket, ifindex: int, name: str, alias: str) -> None:
    """Write the alias, 255 bytes at most. (The kernel takes none with the message that makes a device.)"""
    changes = _link(ifindex)
    lib.rtnl_link_set_ifalias(changes, alias.encode())
    _change(sk, ifindex, changes, "describe the ifb", name)


def delete_ifb(sk: RouteSocket, ifindex: int, name: str) -> None:
    """Delete the ifb with whatever is in it; one that is gone already is passed over."""
    try:
        sk.execute(built(lib.rtnl_link_build_delete_request, _link(ifindex)), "delete the ifb", name)
    except DeviceNotFound:
        pass


def ifb_of(sk: RouteSocket, ifindex: int) -> Ifb | None:
    """The ifb with this interface index, None where it is gone."""
    try:
        shown = sk.ask(link_message(lib.RTM_GETLINK, 0, ifindex), "find the ifb", None)
    except DeviceNotFound:
        return None
    return _read(shown[0].payload) if shown else None


def ifbs(sk: RouteSocket) -> list[Ifb]:
    """Every ifb of the namespace, by one dump that the kernel filters by kind."""
    replies = sk.ask(link_message(lib.RTM_GETLINK, lib.NLM_F_DUMP, 0, _KIND), "list the ifbs", None)
    return [ifb for ifb in (_read(reply.payload) for reply in replies) if ifb is not None]


def _read(payload: bytes) -> Ifb | None:
    head = ffi.sizeof("struct ifinfomsg")
    if len(payload) < head:
        return None
    info = ffi.new("struct ifinfomsg *")
    ffi.buffer(info)[:] = payload[:head]
    parts = dict(attributes(payload[head:]))
    if text(dict(attributes(parts.get(lib.IFLA_LINKINFO, b""))).get(lib.IFLA_INFO_KIND, b"")) != "ifb":
        return None
    stats = ffi.new("struct rtnl_link_stats64 *")
    counters = parts.get(lib.IFLA_STATS64, b"")[: ffi.sizeof("struct rtnl_link_stats64")]
    ffi.buffer(stats)[: len(counters)] = counters
    return Ifb(
        int(info.ifi_index),
        text(parts.get(lib.IFLA_IFNAME, b"")),
        text(parts.get(lib.IFLA_IFALIAS, b"")),
        parts.get(lib.IFLA_ADDRESS, b""),
        bool(info.ifi_flags & lib.IFF_UP),
        # What did not come from a redirect is counted as taken in, too, and thrown away.
        int(stats.rx_packets) - int(stats.rx_dropped) - int(stats.tx_packets),
        int(stats.tx_dropped),
    )


def _quieten(sk: RouteSocket, ifindex: int, name: str) -> None:
    """No IPv6 address, so no packets of its own; a kernel without IPv6 has nothing to be told."""
    mode = attribute(lib.IFLA_INET6_ADDR_GEN_MODE, bytes([lib.IN6_ADDR_GEN_MODE_NONE]))
    families = attribute(lib.AF_INET6, mode)
    msg = link_message(lib.RTM_NEWLINK, 0, ifindex, attribute(lib.IFLA_AF_SPEC, families))
    try:
        sk.execute(msg, "set addrgenmode of", name)
    except NetlinkError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def _link(ifindex: int) -> CData:
    link = lib.rtnl_link_alloc()
    if link == ffi.NULL:
        raise MemoryError("libnl has no memory for a link")
    link = ffi.gc(link, lib.rtnl_link_put)
    lib.rtnl_link_set_ifindex(link, ifindex)
    return link


def _change(sk: RouteSocket, ifindex: int, changes: CData, operation: str, name: str) -> None:
    sk.execute(built(lib.rtnl_link_build_change_request, _link(ifindex), changes, 0), operation, name)
