# SPDX-License-Identifier: GPL-2.0-or-later
"""The ifb that carries a lane's plug: made, described in its alias, found again, emptied, deleted.

An ifb (drivers/net/ifb.c) is a device that takes packets from a redirect, passes them through its root qdisc, and
gives them back to where they were. The alias says what the ifb is for, so that any process can tell what it finds.
"""

from __future__ import annotations

import errno

from ._libnl import ffi, lib
from ._record import Record
from .attributes import attribute, attributes, text
from .errors import NetlinkError, PlugUnavailable, check
from .route import RouteSocket, built, link_message

__all__ = ["Ifb", "alias_of", "create_ifb", "delete_ifb", "ifbs", "set_alias"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libnl import CData

ALIAS = "libnlplug-lane"


class Ifb(Record):
    """An ifb as the kernel shows it. ``taken`` and ``given`` count the packets it took in and gave back."""

    __slots__ = ("ifindex", "name", "alias", "taken", "given")
    ifindex: int
    name: str
    alias: str
    taken: int
    given: int

    @property
    def words(self) -> dict[str, str] | None:
        """What the alias says, or None where it is not one of a lane's."""
        head, *parts = self.alias.split(" ")
        if head != ALIAS:
            return None
        return dict(part.split("=", 1) for part in parts if "=" in part)


def alias_of(**words: object) -> str:
    """The alias that says these words."""
    return " ".join([ALIAS, *(f"{name}={value}" for name, value in words.items())])


def create_ifb(route: RouteSocket, name: str, alias: str) -> int:
    """A new ifb, up, with its alias, and without traffic of its own; its interface index.

    Raises FileExistsError where the name is taken, PlugUnavailable where the kernel has no ifb.
    """
    link = _link(0)
    lib.rtnl_link_set_name(link, name.encode())
    check(lib.rtnl_link_set_type(link, b"ifb"), "build a request")
    try:
        route.send_one(
            built(lib.rtnl_link_build_add_request, link, lib.NLM_F_CREATE | lib.NLM_F_EXCL), "make the ifb", name
        )
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            hint = "the kernel has no ifb: try 'modprobe ifb numifbs=0', or install a kernel that has it (CONFIG_IFB)"
            message = f"cannot make the ifb {name}: {error.ext_ack or 'Operation not supported'}; {hint}"
            raise PlugUnavailable(error.errno, message, "make the ifb", name, hint=hint) from None
        raise
    ifindex = route.link(name)
    try:
        set_alias(route, ifindex, name, alias)
        _quieten(route, ifindex, name)
        up = _link(ifindex)
        lib.rtnl_link_set_flags(up, lib.IFF_UP)
        _change(route, ifindex, up, "set up the ifb", name)
    except BaseException:
        delete_ifb(route, ifindex, name)
        raise
    return ifindex


def set_alias(route: RouteSocket, ifindex: int, name: str, alias: str) -> None:
    """Write the alias. (The kernel takes none with the message that makes a device.)"""
    changes = _link(ifindex)
    lib.rtnl_link_set_ifalias(changes, alias.encode()[: lib.IFALIASZ - 1])
    _change(route, ifindex, changes, "describe the ifb", name)


def delete_ifb(route: RouteSocket, ifindex: int, name: str) -> None:
    """Delete the ifb with whatever is in it."""
    route.send_one(built(lib.rtnl_link_build_delete_request, _link(ifindex)), "delete the ifb", name)


def ifbs(route: RouteSocket) -> list[Ifb]:
    """Every ifb of the namespace, by one dump that the kernel filters by kind."""
    msg = link_message(lib.RTM_GETLINK, lib.NLM_F_DUMP, 0)
    kind = attribute(lib.IFLA_INFO_KIND, b"ifb\0")
    check(lib.nla_put(msg, lib.IFLA_LINKINFO, len(kind), kind), "build a request")
    found = []
    for payload in route.dump(msg, "list the ifbs", None):
        ifb = _read(payload)
        if ifb is not None:
            found.append(ifb)
    return found


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
    name, alias = text(parts.get(lib.IFLA_IFNAME, b"")), text(parts.get(lib.IFLA_IFALIAS, b""))
    return Ifb(int(info.ifi_index), name, alias, int(stats.rx_packets), int(stats.tx_packets))


def _quieten(route: RouteSocket, ifindex: int, name: str) -> None:
    """No IPv6 address, so no packets of its own; a kernel without IPv6 has nothing to be told."""
    mode = attribute(lib.IFLA_INET6_ADDR_GEN_MODE, bytes([lib.IN6_ADDR_GEN_MODE_NONE]))
    families = attribute(lib.AF_INET6, mode)
    msg = link_message(lib.RTM_NEWLINK, 0, ifindex)
    check(lib.nla_put(msg, lib.IFLA_AF_SPEC, len(families), families), "build a request")
    try:
        route.send_one(msg, "set addrgenmode of", name)
    except NetlinkError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def _link(ifindex: int) -> CData:
    link = lib.rtnl_link_alloc()
    if link == ffi.NULL:
        raise MemoryError("libnl has no memory for a link")
    link = ffi.gc(link, lib.rtnl_link_put)
    if ifindex:
        lib.rtnl_link_set_ifindex(link, ifindex)
    return link


def _change(route: RouteSocket, ifindex: int, changes: CData, operation: str, name: str) -> None:
    route.send_one(built(lib.rtnl_link_build_change_request, _link(ifindex), changes, 0), operation, name)
