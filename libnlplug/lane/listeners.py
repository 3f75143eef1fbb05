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
import struct
from _socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW
from _socket import socket as Socket

from ..errors import NetlinkError
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..record import Record
from .match import Match

__all__ = ["Listener", "Sockets", "owners", "sockets_of"]

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
TCP, SYN_RECV, LISTEN = 6, 3, 10
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")  # struct inet_diag_msg


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
    states = 1 << LISTEN | half_done << SYN_RECV
    found = sk.in_netns(lambda: [one for family in (AF_INET, AF_INET6) for one in _dump(family, states)])
    mine = [(state, listener) for state, listener in found if _is_for(listener, match)]
    listeners = [listener for state, listener in mine if state == LISTEN]
    return Sockets(listeners, sum(state == SYN_RECV for state, _ in mine))


def owners(inodes: set[int]) -> dict[int, str]:
    """Return the names of the processes that have one of the sockets, by pid, if the caller may look into them."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and wanted and _has(entry, wanted):
            try:
                with open(f"/proc/{entry}/comm") as file:
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


def _dump(family: int, states: int) -> list[tuple[int, Listener]]:
    """Return every TCP socket of the family that is in one of the states, with its state."""
    payload = _REQUEST.pack(family, TCP, 0, states)
    header = _HEADER.pack(_HEADER.size + len(payload), SOCK_DIAG_BY_FAMILY, lib.NLM_F_REQUEST | lib.NLM_F_DUMP, 1, 0)
    asker = Socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    try:
        asker.settimeout(2.0)
        asker.send(header + payload)
        found: list[tuple[int, Listener]] = []
        while True:
            answers = asker.recv(1 << 16)
            if _take(answers, found):
                return found
    except FileNotFoundError:
        if family == AF_INET6:
            return []  # a kernel without IPv6
        raise _cannot(errno.ENOENT, "; try 'modprobe tcp_diag'") from None
    except OSError as error:
        raise _cannot(error.errno, "") from None
    finally:
        asker.close()


def _cannot(code: int | None, advice: str) -> NetlinkError:
    why = os.strerror(code) if code else "the kernel does not answer"
    return NetlinkError(code, f"cannot list the listening sockets: {why}{advice}", "list the listening sockets")


def _take(answers: bytes, found: list[tuple[int, Listener]]) -> bool:
    """Read one datagram of the dump into ``found``. Return whether it was the last."""
    at = 0
    while at + _HEADER.size <= len(answers):
        length, kind, _, _, _ = _HEADER.unpack_from(answers, at)
        body = answers[at + _HEADER.size : at + length]
        if kind == lib.NLMSG_DONE:
            return True
        if kind == lib.NLMSG_ERROR:
            code = -struct.unpack_from("=i", body)[0]
            raise OSError(code, os.strerror(code))
        if length < _HEADER.size + _MESSAGE.size:
            return True
        found.append(_read(body))
        at += length + 3 & ~3
    return False


def _read(body: bytes) -> tuple[int, Listener]:
    family, state, _, _, port, _, source, _, _, cookie, _, waiting, backlog, _, inode = _MESSAGE.unpack_from(body)
    address = ipaddress.ip_address(source[: 4 if family == AF_INET else 16])
    return state, Listener(cookie, str(address), int.from_bytes(port, "big"), waiting, backlog, inode)
