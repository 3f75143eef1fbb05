# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the sockets that listen on the ports of a match, what waits in their queues, and whose they are.

    SYN --> half done (SYN-RECV) --> accept queue --> accept()      what waits here is lost when the listener closes

The kernel shows sockets by NETLINK_SOCK_DIAG to every user (net/ipv4/inet_diag.c). /proc shows which process has a
socket, for the processes that the caller may look into.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from ..errors import NetlinkError
from ..netlink.libnl import ffi, lib
from ..netlink.messages import message
from ..netlink.route_socket import RouteSocket
from ..record import Record
from .match import Match

__all__ = ["Listener", "Sockets", "owners", "sockets_of"]


class Listener(Record):
    """A listening socket. ``waiting`` connections are in its accept queue, which has room for ``backlog``. ``cookie``
    is the kernel's number for the socket, which is never used again."""

    __slots__ = ("cookie", "address", "port", "waiting", "backlog", "inode")
    cookie: bytes
    address: str
    port: int
    waiting: int
    backlog: int
    inode: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Sockets(Record):
    """The listeners for a match, and how many handshakes with their ports are half done."""

    __slots__ = ("listeners", "half_done")
    listeners: list[Listener]
    half_done: int

    @property
    def quiet(self) -> bool:
        """Whether nothing waits in any accept queue."""
        return not any(listener.waiting for listener in self.listeners)


def sockets_of(sk: RouteSocket, match: Match, *, half_done: bool = True) -> Sockets:
    """Return the sockets that listen for connections of the match in the namespace. Counting handshakes that are half
    done makes the kernel look through all connections."""
    states = 1 << lib.TCP_LISTEN | half_done << lib.TCP_SYN_RECV
    asker = sk.in_netns(lambda: RouteSocket(protocol=lib.NETLINK_SOCK_DIAG))
    try:
        found = [one for family in (lib.AF_INET, lib.AF_INET6) for one in _dump(asker, family, states)]
    finally:
        asker.close()
    mine = [(state, listener) for state, listener in found if _is_for(listener, match)]
    listeners = [listener for state, listener in mine if state == lib.TCP_LISTEN]
    return Sockets(listeners, sum(state == lib.TCP_SYN_RECV for state, _ in mine))


def owners(inodes: set[int]) -> dict[int, str]:
    """Return the names of the processes that have one of the sockets, by pid, if the caller may look into them."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and wanted and _has(entry, wanted):
            try:
                with open(f"/proc/{entry}/comm", errors="replace") as file:  # it may be cut in a character
                    found[int(entry)] = file.read().strip()
            except OSError:  # it has ended
                continue
    return found


def _has(pid: str, wanted: set[str]) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # another user's, or it has ended
        return False
    for descriptor in descriptors:
        try:
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") in wanted:
                return True
        except OSError:
            continue
    return False


def _is_for(one: Listener, match: Match) -> bool:
    """Return whether connections of the match come to this socket, by its port and address."""
    if not any(first <= one.port <= last for first, last in match.ports("dst_port")):
        return False
    networks = match.networks("dst_ip")
    address = ipaddress.ip_address(one.address)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified:
        return address.version == 6 or 4 in match.families  # [::] takes IPv4 too, unless IPV6_V6ONLY is set
    return address.version in match.families and (not networks or any(address in network for network in networks))


def _dump(asker: RouteSocket, family: int, states: int) -> list[tuple[int, Listener]]:
    """Return every TCP socket of the family that is in one of the states, with its state."""
    wanted = {"sdiag_family": family, "sdiag_protocol": lib.IPPROTO_TCP, "idiag_states": states}
    request = ffi.buffer(ffi.new("struct inet_diag_req_v2 *", wanted))[:]
    operation = "list the listening sockets"
    try:
        replies = asker.ask(message(lib.SOCK_DIAG_BY_FAMILY, lib.NLM_F_DUMP, request), operation, None)
    except FileNotFoundError as error:
        if family == lib.AF_INET6:
            return []  # a kernel without IPv6
        hint = "the kernel has no tcp_diag: try 'modprobe tcp_diag'"
        sentence = f"cannot {operation}: {os.strerror(errno.ENOENT)}; {hint}"
        raise NetlinkError(errno.ENOENT, sentence, operation, hint=hint) from error
    size = ffi.sizeof("struct inet_diag_msg")
    return [_read(reply.payload[:size]) for reply in replies if len(reply.payload) >= size]


def _read(payload: bytes) -> tuple[int, Listener]:
    shown = ffi.new("struct inet_diag_msg *")
    ffi.buffer(shown)[:] = payload
    place = shown.id
    source = ffi.buffer(place.idiag_src)[: 4 if shown.idiag_family == lib.AF_INET else 16]
    port, cookie = socket.ntohs(place.idiag_sport), ffi.buffer(place.idiag_cookie)[:]
    address = str(ipaddress.ip_address(source))
    waiting, backlog, inode = shown.idiag_rqueue, shown.idiag_wqueue, shown.idiag_inode
    return shown.idiag_state, Listener(cookie, address, port, waiting, backlog, inode)
