# SPDX-License-Identifier: GPL-2.0-or-later
"""Make, find, describe and delete the ifb that has a lane's plug.

An ifb (drivers/net/ifb.c) is a device that takes packets from a redirect, passes them through its root qdisc, and gives
them back to the hook they came from. A lane's ifb has a hardware address that no other has, set by the message that
makes it. Its alias describes the lane, so that any process can read what it is for.
"""

from __future__ import annotations

import errno
import sys

from ..errors import DeviceNotFound, NetlinkError, PlugUnavailable
from ..netlink.devices import Device, device_of, devices_with
from ..netlink.libnl import ffi, lib
from ..netlink.messages import ETHERNET_HEADER, attribute, built, link_message
from ..netlink.modules import load_ifb
from ..netlink.route_socket import RouteSocket

__all__ = ["ADDRESS", "alias_of", "create_ifb", "delete_ifb", "ifb_of", "ifbs", "set_alias", "unnamed", "words_of"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..netlink.libnl import CData

ALIAS = "libnlplug-lane"
ADDRESS = b"\x02plug\0"  # locally administered
_KIND = attribute(lib.IFLA_LINKINFO, attribute(lib.IFLA_INFO_KIND, b"ifb\0"))


def alias_of(words: dict[str, str]) -> str:
    """Return the alias with these words."""
    return " ".join([ALIAS, *(f"{name}={value}" for name, value in words.items())])


def words_of(ifb: Device) -> dict[str, str]:
    """Return the words of its alias; none if it is no lane's ifb."""
    head, *parts = ifb.alias.split(" ")
    return dict(part.split("=", 1) for part in parts if "=" in part) if head == ALIAS else {}


def create_ifb(sk: RouteSocket, name: str, alias: str, packet: int) -> Device:
    """Make an ifb with this alias and a lane's address, set it up, and return it.

    It sends no packet of its own. ``packet`` is the largest packet of the lane's device, so that the plug's limit is
    checked as it would be on that device. Raise FileExistsError if the name is taken, PlugUnavailable if the kernel has
    no ifb.
    """
    load_ifb()
    parts = attribute(lib.IFLA_IFNAME, name.encode() + b"\0") + attribute(lib.IFLA_ADDRESS, ADDRESS) + _KIND
    parts += attribute(lib.IFLA_MTU, (packet - ETHERNET_HEADER).to_bytes(4, sys.byteorder))
    message = link_message(lib.RTM_NEWLINK, lib.NLM_F_CREATE | lib.NLM_F_EXCL, 0, parts)
    try:
        sk.execute(message, "make the ifb", name)
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            hint = "the kernel has no ifb: try 'modprobe ifb numifbs=0', or install a kernel that has it (CONFIG_IFB)"
            sentence = f"cannot make the ifb {name}: {error.ext_ack or 'Operation not supported'}; {hint}"
            raise PlugUnavailable(error.errno, sentence, "make the ifb", name, hint=hint) from None
        raise
    ifindex = sk.ifindex_of(name)
    set_alias(sk, ifindex, name, alias)
    _quieten(sk, ifindex, name)
    up = _link(ifindex)
    lib.rtnl_link_set_flags(up, lib.IFF_UP)
    _change(sk, ifindex, up, "set up the ifb", name)
    return device_of(sk, ifindex)


def set_alias(sk: RouteSocket, ifindex: int, name: str, alias: str) -> None:
    """Write the alias, at most 255 bytes. (The kernel ignores one in the message that makes a device.)"""
    changes = _link(ifindex)
    lib.rtnl_link_set_ifalias(changes, alias.encode())
    _change(sk, ifindex, changes, "describe the ifb", name)


def delete_ifb(sk: RouteSocket, ifindex: int, name: str) -> None:
    """Delete the ifb and the packets in it. It is no error if it is already gone."""
    try:
        sk.execute(built(lib.rtnl_link_build_delete_request, _link(ifindex)), "delete the ifb", name)
    except DeviceNotFound:
        pass


def ifb_of(sk: RouteSocket, ifindex: int) -> Device | None:
    """Return the ifb with this interface index, or None if it is gone."""
    try:
        found = device_of(sk, ifindex)
    except DeviceNotFound:
        return None
    return found if found.kind == "ifb" else None


def ifbs(sk: RouteSocket) -> list[Device]:
    """Return all ifbs of the namespace. (An old kernel does not look for the kind, and shows all devices.)"""
    return [device for device in devices_with(sk, _KIND, "list the ifbs") if device.kind == "ifb"]


def unnamed(error: NetlinkError, name: str, shown: str) -> NetlinkError:
    """Let an error of the plug on the ifb ``name`` say ``shown`` instead: users know their device, but not the ifb."""
    error.strerror = str(error).replace(name, shown, 1)
    error.device = shown.partition(" ")[0]
    return error


def _quieten(sk: RouteSocket, ifindex: int, name: str) -> None:
    """Give the ifb no IPv6 address, so that it sends no packets of its own. A kernel without IPv6 refuses: fine."""
    mode = attribute(lib.IFLA_INET6_ADDR_GEN_MODE, bytes([lib.IN6_ADDR_GEN_MODE_NONE]))
    families = attribute(lib.AF_INET6, mode)
    message = link_message(lib.RTM_NEWLINK, 0, ifindex, attribute(lib.IFLA_AF_SPEC, families))
    try:
        sk.execute(message, "set addrgenmode of", name)
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
