# SPDX-License-Identifier: GPL-2.0-or-later
"""RouteSocket: a NETLINK_ROUTE socket in one network namespace, for one request at a time.

libnl builds the messages. exchange.c sends a request, receives the whole answer in the same call, under a lock, and
reads the fields of a qdisc or a link. No other thread or signal handler can run between a request and its answer.

Threads: several threads may use one RouteSocket; it locks. Fork: use in a child raises ForkedError, and the parent's
socket stays usable. In the child, close the object or drop it, and make a new one.
"""

from __future__ import annotations

import os
import sys

from ..bounds import NAME_MAX
from ..errors import ClosedError, DeviceNotFound, ForkedError, NetlinkError
from ..record import Record
from .attributes import integer
from .libnl import ffi, lib
from .messages import aligned, attribute, encoded, link_message, qdisc_message
from .netns import call_in, cannot_enter, in_netns, netns_of_thread
from .refusals import refusal, refusal_in, unanswered

__all__ = ["LinkInfo", "QdiscInfo", "Reply", "RouteSocket", "qdisc_info"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import Callable, TypeVar

    from .libnl import CData
    from .netns import Netns

    T = TypeVar("T")


_PER_ANSWER = 2048  # bytes of a socket's buffer for one error: its sentence, and the kernel's overhead

_generation = 0


def _count_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_count_fork)


class QdiscInfo(Record):
    """A qdisc: ``qlen`` packets and ``backlog`` bytes wait in it, ``packets`` and ``bytes`` have left it, and it has
    dropped ``drops`` packets."""

    __slots__ = ("ifindex", "kind", "handle", "parent", "qlen", "backlog", "drops", "packets", "bytes")
    ifindex: int
    kind: str
    handle: int
    parent: int
    qlen: int
    backlog: int
    drops: int
    packets: int
    bytes: int


class LinkInfo(Record):
    """What the kernel shows of a link."""

    __slots__ = ("ifindex", "name", "mtu", "txqueuelen")
    ifindex: int
    name: str
    mtu: int
    txqueuelen: int


def qdisc_info(message: bytes) -> QdiscInfo | None:
    """Read a qdisc from the kernel's message. Return None if the message is not about a qdisc."""
    read = ffi.new("struct libnlplug_qdisc *")
    if not lib.libnlplug_read_qdisc(message, len(message), read):
        return None
    kind = ffi.string(read.kind).decode("utf-8", "replace")
    counters = (read.qlen, read.backlog, read.drops, read.packets, read.bytes)
    return QdiscInfo(read.ifindex, kind, read.handle, read.parent, *counters)


class RouteSocket:
    """A connected NETLINK_ROUTE socket in the namespace ``netns``; None is the calling thread's namespace.

    The socket keeps a deleted namespace alive until it is closed. A socket of another netlink ``protocol`` can only
    ask().
    """

    def __init__(self, netns: Netns = None, protocol: int = lib.NETLINK_ROUTE) -> None:
        self._generation = _generation
        self._netns: tuple[int, int] | None = None
        self._sk: CData | None = in_netns(netns, lambda: self._connect(protocol))
        self._fd = int(lib.nl_socket_get_fd(self._sk))
        line = lib.libnlplug_line_new(self._fd)
        if line == ffi.NULL:
            raise MemoryError("no memory for a socket")
        self._line = ffi.gc(line, lib.libnlplug_line_free)

    def _connect(self, protocol: int) -> CData:
        self._netns = netns_of_thread()
        sk = lib.nl_socket_alloc()
        if sk == ffi.NULL:
            raise MemoryError("libnl has no memory for a socket")
        sk = ffi.gc(sk, lib.nl_socket_free)
        if lib.nl_connect(sk, protocol) < 0:
            raise refusal(ffi.errno, "open a netlink socket", None)
        one = ffi.new("int *", 1)
        for option in (lib.NETLINK_EXT_ACK, lib.NETLINK_CAP_ACK):
            # Kernels before 4.12 refuse this. Error messages then lack the kernel's sentence.
            lib.setsockopt(lib.nl_socket_get_fd(sk), lib.SOL_NETLINK, option, one, ffi.sizeof("int"))
        return sk

    def fileno(self) -> int:
        """The socket's descriptor."""
        self._check()
        return self._fd

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._sk is None

    def close(self) -> None:
        """Close the socket. A second call does nothing. The kernel's qdiscs stay as they are."""
        sk, self._sk = self._sk, None
        if sk is not None:
            if not self.forked:  # the lock may belong to a thread that does not exist in the child
                lib.libnlplug_line_close(self._line)
            ffi.release(sk)

    def in_netns(self, call: Callable[[], T]) -> T:
        """Call ``call`` in the socket's namespace and return its result."""
        self._check()
        if self._netns is not None and self._netns == netns_of_thread():
            return call()
        return call_in(self._open_netns(), "of the socket", call)

    def netns_id(self) -> tuple[int, int]:
        """Return device and inode of the socket's namespace."""
        fd = self._open_netns()
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        return found.st_dev, found.st_ino

    def _open_netns(self) -> int:
        """Return a new descriptor of the socket's namespace."""
        fd = int(lib.libnlplug_netns_of(self.fileno()))
        if fd < 0:
            raise cannot_enter("of the socket", ffi.errno, "CAP_NET_ADMIN")
        return fd

    def make_room(self, answers: int) -> tuple[int, int]:
        """Enlarge the receive buffer for this many answers, as far as the system allows.

        Return how many bytes one send may have (netlink_sendmsg needs 32 bytes of the buffer) and how many answers fit
        into the receive buffer.
        """
        self._check()
        sizes = ffi.new("struct libnlplug_sizes *")
        if not lib.libnlplug_line_enlarge(self._line, answers * _PER_ANSWER, sizes):
            raise ClosedError("this object is closed")
        return sizes.send - 32, max(1, sizes.receive // _PER_ANSWER)

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that made this object."""
        return self._generation != _generation

    def _check(self) -> None:
        if self._generation != _generation:
            raise ForkedError("this object belongs to the parent process: make a new one in the forked child")
        if self._sk is None:
            raise ClosedError("this object is closed")

    def execute(self, message: bytes, operation: str, device: str | None) -> None:
        """Send one request and receive its ACK, or raise the kernel's refusal."""
        if self._generation != _generation or self._sk is None:
            self._check()
        answer = lib.libnlplug_exchange(self._line, message, len(message), 1)
        if answer:
            raise self._error(*_replies(answer), operation, device)

    def execute_all(self, messages: bytes, devices: Sequence[str], operation: str) -> dict[int, NetlinkError]:
        """Send joined() requests, one for each of ``devices``, in one send.

        Return the error of each request that failed, by its index. The other requests were carried out, also those
        after a failure.
        """
        self._check()
        last = len(devices) - 1
        error, replies = _replies(lib.libnlplug_exchange(self._line, messages, len(messages), last))
        if error < 0:  # nothing was sent
            if self.closed:
                raise ClosedError("this object was closed during a request")
            return {seq: refusal(-error, operation, device) for seq, device in enumerate(devices)}
        failures: dict[int, NetlinkError] = {}
        for reply in replies:
            if reply.kind == lib.NLMSG_ERROR and reply.seq <= last:
                failures[reply.seq] = refusal_in(reply.message, operation, devices[reply.seq])
        if error:  # requests without an answer may or may not have been carried out
            for seq in range(max(failures, default=-1) + 1, last + 1):
                failures[seq] = unanswered(error, operation, devices[seq])
        return failures

    def ask(self, message: bytes, operation: str, device: str | None) -> list[Reply]:
        """Send a question and return the kernel's answers, which may be none.

        The kernel answers with the object and then an ACK (rtnetlink_rcv_msg). A dump (NLM_F_DUMP) is repeated if a
        change interrupted it.
        """
        self._check()
        for _ in range(10):
            error, replies = _replies(lib.libnlplug_exchange(self._line, message, len(message), 1))
            if error or any(reply.kind == lib.NLMSG_ERROR for reply in replies):
                raise self._error(error, replies, operation, device)
            for reply in replies:
                if reply.kind == lib.NLMSG_DONE and (failed := -integer(reply.payload[:4], signed=True)) > 0:
                    raise refusal(failed, operation, device)
            if not any(reply.flags & lib.NLM_F_DUMP_INTR for reply in replies):
                return [reply for reply in replies if reply.kind >= lib.NLMSG_MIN_TYPE]
        raise NetlinkError(None, f"cannot {operation}: it changes faster than it can be read", operation, device)

    def ifindex_of(self, device: str) -> int:
        """Return the interface index of ``device`` in the socket's namespace, or raise DeviceNotFound."""
        return self.link_info(device).ifindex

    def link_info(self, device: str) -> LinkInfo:
        """Return the link named ``device`` in the socket's namespace, or raise DeviceNotFound."""
        if not isinstance(device, str):
            raise TypeError(f"device must be a str such as 'eth0', not {device!r}")
        name = encoded(device)
        if name is None or not 0 < len(name) <= NAME_MAX:
            why = f"a device's name has 1 to {lib.IFNAMSIZ - 1} bytes, an alternative one {NAME_MAX}"
            raise DeviceNotFound(None, f"cannot find {device!r}: {why}", "find", device)
        kind = lib.IFLA_IFNAME if len(name) < lib.IFNAMSIZ else lib.IFLA_ALT_IFNAME
        named = attribute(kind, name + b"\0")
        return self._link(link_message(lib.RTM_GETLINK, 0, 0, named), device)

    def link_name(self, ifindex: int) -> str:
        """Return the name of the device with this interface index, or raise DeviceNotFound."""
        return self._link(link_message(lib.RTM_GETLINK, 0, ifindex), f"device {ifindex}").name

    def _link(self, question: bytes, device: str) -> LinkInfo:
        replies = self.ask(question, "find", device)
        message = replies[0].message if replies else b""
        read = ffi.new("struct libnlplug_link *")
        if not lib.libnlplug_read_link(message, len(message), read) or read.ifindex <= 0:
            raise NetlinkError(None, f"cannot find {device}: the kernel answered with no link", "find", device)
        return LinkInfo(read.ifindex, os.fsdecode(ffi.string(read.name)), read.mtu, read.txqueuelen)

    def qdisc(
        self, ifindex: int, parent: int, device: str, handle: int = 0, kind: bytes | None = None
    ) -> QdiscInfo | None:
        """Return the qdisc at ``parent`` with its counters, or None if the kernel shows none (noqueue, noop).

        This asks for one qdisc, so its cost does not grow with the number of links. Without NLM_F_ECHO, the kernel
        would send the answer only to listeners, not to this socket. Raise QdiscNotFound if the qdisc has another
        ``handle`` or ``kind``.
        """
        question = qdisc_message(lib.RTM_GETQDISC, lib.NLM_F_ECHO, ifindex, parent, handle, kind)
        replies = self.ask(question, "read the qdisc of", device)
        if not replies:
            return None
        found = qdisc_info(replies[0].message)
        if found is None:
            why = f"cannot read the qdisc of {device}: the kernel answered with something else"
            raise NetlinkError(None, why, "read the qdisc of", device)
        return found

    def qdiscs(self, wanted: Container[tuple[int, int]] | None = None) -> list[QdiscInfo]:
        """Return all qdiscs of the namespace, or those at the ``wanted`` places (ifindex and parent), from one dump."""
        question = qdisc_message(lib.RTM_GETQDISC, lib.NLM_F_DUMP, 0, 0, 0, None)
        found = []
        for reply in self.ask(question, "list the qdiscs", None):
            info = qdisc_info(reply.message)
            if info is not None and (wanted is None or (info.ifindex, info.parent) in wanted):
                found.append(info)
        return found

    def every_qdisc(self) -> list[QdiscInfo]:
        """Return all qdiscs of the namespace, also those that a dump misses.

        While links are deleted, a dump passes over qdiscs of others (tc_dump_qdisc resumes by counting links) and does
        not say so. So each link without a root in the dump is asked for it. If one has a root after all, a second dump
        brings the qdiscs below it.
        """
        found: dict[tuple[int, int], QdiscInfo] = {}
        for _ in range(2):
            found.update({(info.ifindex, info.parent): info for info in self.qdiscs()})
            missed = [
                root for link in self._links() if (link, lib.TC_H_ROOT) not in found and (root := self._root(link))
            ]
            if not missed:
                break
            found.update({(info.ifindex, info.parent): info for info in missed})
        return list(found.values())

    def _links(self) -> list[int]:
        """Return the interface index of every link."""
        brief = attribute(lib.IFLA_EXT_MASK, lib.RTEXT_FILTER_SKIP_STATS.to_bytes(4, sys.byteorder))
        replies = self.ask(link_message(lib.RTM_GETLINK, lib.NLM_F_DUMP, 0, brief), "list the links", None)
        return [integer(reply.payload[4:8], signed=True) for reply in replies]

    def _root(self, ifindex: int) -> QdiscInfo | None:
        """Return the root qdisc of a link, or None if it has none or is gone."""
        try:
            return self.qdisc(ifindex, lib.TC_H_ROOT, f"device {ifindex}")
        except FileNotFoundError:
            return None

    def _error(self, error: int, replies: list[Reply], operation: str, device: str | None) -> Exception:
        if self.closed:
            return ClosedError("this object was closed during a request")
        if error < 0:  # nothing was sent
            return refusal(-error, operation, device)
        for reply in replies:
            if reply.kind == lib.NLMSG_ERROR:
                return refusal_in(reply.message, operation, device)
        return unanswered(error, operation, device)


class Reply(Record):
    """One message from the kernel: its type ``kind``, its ``flags``, the sequence number ``seq`` of the request, and
    all its bytes as ``message``."""

    __slots__ = ("kind", "flags", "seq", "message")
    kind: int
    flags: int
    seq: int
    message: bytes

    @property
    def payload(self) -> bytes:
        """The bytes after the netlink header."""
        return self.message[lib.NLMSG_HDRLEN :]


def _replies(answer: CData) -> tuple[int, list[Reply]]:
    """Return the error and the messages of an answer from libnlplug_exchange()."""
    if not answer:
        return 0, []
    answer = ffi.gc(answer, lib.libnlplug_answer_free)
    replies, at = [], 0
    while at + lib.NLMSG_HDRLEN <= answer.length:
        header = ffi.cast("struct nlmsghdr *", answer.messages + at)
        if not lib.NLMSG_HDRLEN <= header.nlmsg_len <= answer.length - at:
            break
        message = ffi.buffer(header, header.nlmsg_len)[:]
        replies.append(Reply(header.nlmsg_type, header.nlmsg_flags, header.nlmsg_seq, message))
        at += aligned(header.nlmsg_len)
    return answer.error, replies
