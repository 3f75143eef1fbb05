# SPDX-License-Identifier: GPL-2.0-or-later
"""RouteSocket: one NETLINK_ROUTE socket in one network namespace, used for one request at a time.

The kernel carries out a route request inside the caller's send and has queued its answer when the send returns
(net/netlink/af_netlink.c), so the socket does not block: an answer that is not there will not come, and nothing can
hang. Sequence numbers are not checked: every request takes its own answers under the lock, and where one did not come
as expected the queue is emptied, so that the next request never reads the answer of an earlier one.

Threads: a RouteSocket may be used by several threads; it locks. Fork: use in a child raises ForkedError; the parent's
socket stays usable. Close the object in the child, or forget it; a new one in the child is fine.
"""

from __future__ import annotations

import errno
import os
from _thread import RLock, allocate_lock, start_new_thread

from ._libnl import ffi, lib
from ._record import Record
from .errors import DeviceNotFound, NetlinkError, NetnsNotFound, NotPermitted, check, failure

__all__ = [
    "ClosedError",
    "ForkedError",
    "Netns",
    "QdiscInfo",
    "RouteSocket",
    "built",
    "handle_text",
    "parse_handle",
    "qdisc_info",
    "qdisc_message",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Callable, Protocol, TypeVar, Union

    from ._libnl import CData

    class HasFileno(Protocol):
        """An open file, a socket: what holds a descriptor."""

        def fileno(self) -> int: ...

    Netns = Union[str, "os.PathLike[str]", int, HasFileno, None]
    T = TypeVar("T")


class ClosedError(ValueError):
    """The object was closed."""


class ForkedError(RuntimeError):
    """The object belongs to the parent process: a netlink socket that two processes share loses its answers."""


_generation = 0


def _count_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_count_fork)


def _interrupted(kind: type[BaseException], error: BaseException, traceback: TracebackType) -> None:
    """A signal handler raised in the middle of a callback: C cannot carry that, so it waits until libnl returns."""
    ffi.from_handle(traceback.tb_frame.f_locals["arg"]).interrupt = error


@ffi.def_extern(error=lib.NL_STOP, onerror=_interrupted)
def libnlplug_on_error(nla: CData, nlerr: CData, arg: CData) -> int:
    """Keep the kernel's reply: libnl hands over the nlmsgerr, and its nlmsghdr stands right before it."""
    header = ffi.cast("struct nlmsghdr *", ffi.cast("char *", nlerr) - lib.NLMSG_HDRLEN)
    ffi.from_handle(arg).reply = ffi.buffer(header, header.nlmsg_len)[:]
    return lib.NL_STOP


@ffi.def_extern(error=lib.NL_STOP, onerror=_interrupted)
def libnlplug_on_message(msg: CData, arg: CData) -> int:
    """A message that is neither an ACK nor an error: keep it as it is, or let libnl read the object in it."""
    listed = ffi.from_handle(arg).listed
    if listed is not None:
        header = lib.nlmsg_hdr(msg)
        listed.append(ffi.buffer(header, header.nlmsg_len)[lib.NLMSG_HDRLEN :])
        return lib.NL_OK
    return lib.nl_msg_parse(msg, lib.libnlplug_on_object, arg)


@ffi.def_extern(onerror=_interrupted)
def libnlplug_on_object(obj: CData, arg: CData) -> None:
    """Keep the object that libnl read; libnl drops its own reference when this returns."""
    lib.nl_object_get(obj)
    ffi.from_handle(arg).object = ffi.gc(obj, lib.nl_object_put)


class QdiscInfo(Record):
    """What the kernel shows of a qdisc: ``qlen`` packets and ``backlog`` bytes wait in it, ``packets`` and ``bytes``
    have left it, ``drops`` packets were refused or thrown away."""

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


def qdisc_info(obj: CData) -> QdiscInfo:
    tc = ffi.cast("struct rtnl_tc *", obj)
    counters = (lib.RTNL_TC_QLEN, lib.RTNL_TC_BACKLOG, lib.RTNL_TC_DROPS, lib.RTNL_TC_PACKETS, lib.RTNL_TC_BYTES)
    return QdiscInfo(
        lib.rtnl_tc_get_ifindex(tc),
        ffi.string(lib.rtnl_tc_get_kind(tc)).decode(),
        lib.rtnl_tc_get_handle(tc),
        lib.rtnl_tc_get_parent(tc),
        *(lib.rtnl_tc_get_stat(tc, counter) for counter in counters),
    )


def _encoded(text: str) -> bytes | None:
    """The text as C takes it; None where it cannot: it has a NUL, or a surrogate that stands for no byte."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return None
    return None if b"\0" in encoded else encoded


def parse_handle(text: str) -> int | None:
    """The number of a handle or classid as libnl reads it ('root', '1:', '1:4', a name of its classid file)."""
    number = ffi.new("uint32_t *")
    encoded = _encoded(text)
    if encoded is None or lib.rtnl_tc_str2handle(encoded, number) < 0:
        return None
    return int(number[0])


def handle_text(number: int) -> str:
    """The text of a handle or classid as tc writes it: 'root', '1:', '1:4'."""
    if number == lib.TC_H_ROOT:
        return "root"
    major, minor = number >> 16, number & 0xFFFF
    return f"{major:x}:{minor:x}" if minor else f"{major:x}:"


class _Answer:
    """What came back for the request under way."""

    __slots__ = ("interrupt", "listed", "object", "reply")

    def __init__(self) -> None:
        self.reply: bytes | None = None
        self.object: CData | None = None
        self.listed: list[bytes] | None = None
        self.interrupt: BaseException | None = None


class RouteSocket:
    """A connected NETLINK_ROUTE socket. ``netns`` is the namespace it is opened in; None is the calling thread's.

    A socket stays in the namespace it was opened in, and keeps a deleted one alive until it is closed.
    """

    def __init__(self, netns: Netns = None) -> None:
        self._lock = RLock()
        self._answer = _Answer()
        self._handle = ffi.new_handle(self._answer)
        self._busy = False
        self._answered = True  # False where a signal handler's exception broke off a request
        self._generation = _generation
        self._sk: CData | None = _in_netns(netns, self._connect)

    def _connect(self) -> CData:
        sk = lib.nl_socket_alloc()
        if sk == ffi.NULL:
            raise MemoryError("libnl has no memory for a socket")
        sk = ffi.gc(sk, lib.nl_socket_free)
        check(lib.nl_connect(sk, lib.NETLINK_ROUTE), "open a netlink socket")
        check(lib.nl_socket_set_nonblocking(sk), "set a netlink socket to non-blocking")
        lib.nl_socket_disable_seq_check(sk)
        lib.nl_socket_disable_msg_peek(sk)
        one = ffi.new("int *", 1)
        for option in (lib.NETLINK_EXT_ACK, lib.NETLINK_CAP_ACK):
            # A kernel older than 4.12 refuses: then the messages are without the kernel's sentence.
            lib.setsockopt(lib.nl_socket_get_fd(sk), lib.SOL_NETLINK, option, one, ffi.sizeof("int"))
        lib.nl_socket_modify_err_cb(sk, lib.NL_CB_CUSTOM, lib.libnlplug_on_error, self._handle)
        lib.nl_socket_modify_cb(sk, lib.NL_CB_VALID, lib.NL_CB_CUSTOM, lib.libnlplug_on_message, self._handle)
        return sk

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(lib.nl_socket_get_fd(self._open()))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._sk is None

    def close(self) -> None:
        """Close the socket; calling it again does nothing. The kernel's qdiscs are not touched."""
        with self._lock:
            sk, self._sk = self._sk, None
            if sk is not None:
                ffi.release(sk)

    def in_netns(self, call: Callable[[], T]) -> T:
        """The result of ``call`` in the socket's namespace, wherever the calling thread is."""
        fd = lib.ioctl(self.fileno(), lib.SIOCGSKNS)
        if fd < 0:
            raise _cannot_enter("of the socket", ffi.errno, "CAP_NET_ADMIN")
        try:
            here = os.path.samestat(os.stat("/proc/thread-self/ns/net"), os.fstat(fd))
        except OSError:  # no /proc: go there in any case
            here = False
        if here:
            os.close(fd)
            return call()
        return _visit(fd, "of the socket", call)

    @property
    def forked(self) -> bool:
        """Whether this is a forked child of the process that the object belongs to."""
        return self._generation != _generation

    def _open(self) -> CData:
        if self._generation != _generation:
            raise ForkedError("this object belongs to the parent process: make a new one in the forked child")
        if self._sk is None:
            raise ClosedError("this object is closed")
        if self._busy:
            raise RuntimeError("called from a signal handler in the middle of a request of the same object")
        if not self._answered:
            self._drain()
        return self._sk

    def change(self, qdisc: CData, flags: int, operation: str, device: str | None) -> None:
        """Send ``qdisc`` as RTM_NEWQDISC and take the ACK: one send and one receive."""
        with self._lock:
            code = lib.rtnl_qdisc_add(self._open(), qdisc, flags)
            if code < 0:
                raise self._failure(code, operation, device)

    def delete(self, qdisc: CData, operation: str, device: str | None) -> None:
        """Send ``qdisc`` as RTM_DELQDISC and take the ACK."""
        with self._lock:
            code = lib.rtnl_qdisc_delete(self._open(), qdisc)
            if code < 0:
                raise self._failure(code, operation, device)

    def get(self, msg: CData, operation: str, device: str | None) -> CData | None:
        """Send a request for one object; the object, or None where the kernel has nothing to show.

        The kernel sends the object first and the ACK after it (rtnetlink_rcv_msg), each in a datagram of its own.
        """
        with self._lock:
            sk = self._open()
            self._busy, self._answered = True, False
            try:
                self._answer.object = None
                lib.nl_socket_enable_msg_peek(sk)  # an object may be larger than an ACK's buffer
                code = lib.nl_send_auto(sk, msg)
                if code >= 0:
                    code = lib.nl_wait_for_ack(sk)
                if code >= 0 and self._answer.object is not None:
                    code = lib.nl_wait_for_ack(sk)
                self._raise_interrupt()
                self._answered = True
            finally:
                self._busy = False
                lib.nl_socket_disable_msg_peek(sk)
            if code < 0:
                raise self._failure(code, operation, device)
            found, self._answer.object = self._answer.object, None
            return found

    def dump(self, msg: CData, operation: str, device: str | None) -> list[bytes]:
        """Send a request with NLM_F_DUMP; the payload of each message that comes back, as bytes."""
        with self._lock:
            sk = self._open()
            self._busy, self._answered = True, False
            try:
                lib.nl_socket_enable_msg_peek(sk)
                for _ in range(10):  # a dump that something changed in the meantime is asked for again
                    listed: list[bytes] = []
                    self._answer.listed = listed
                    lib.nlmsg_hdr(msg).nlmsg_seq = 0
                    code = lib.nl_send_auto(sk, msg)
                    if code >= 0:
                        code = lib.nl_recvmsgs_default(sk)
                    if code >= 0 or self._answer.reply is not None:
                        break
                    self._drain()
                self._raise_interrupt()
                self._answered = True
            finally:
                self._busy = False
                self._answer.listed = None
                lib.nl_socket_disable_msg_peek(sk)
            if code < 0:
                raise self._failure(code, operation, device)
            return listed

    def send_one(self, msg: CData, operation: str, device: str | None) -> None:
        """Send a message of the caller's own making and take the ACK."""
        ((code, reply),) = self.send_all([msg])
        check(code, operation, device, reply)

    def send_all(self, messages: list[CData]) -> list[tuple[int, bytes | None]]:
        """Send the messages in one send, each asking for an ACK; libnl's code and the kernel's reply for each."""
        with self._lock:
            sk = self._open()
            iov = ffi.new("struct iovec[]", len(messages))
            for part, msg in zip(iov, messages):
                lib.nl_complete_msg(sk, msg)
                part.iov_base = lib.nlmsg_hdr(msg)
                part.iov_len = lib.nlmsg_hdr(msg).nlmsg_len
            self._busy, self._answered = True, False
            try:
                code = lib.nl_send_iovec(sk, messages[0], iov, len(messages))
                if code < 0:
                    return [(code, None) for _ in messages]
                answers: list[tuple[int, bytes | None]] = []
                for _ in messages:
                    self._answer.reply = None
                    code = lib.nl_wait_for_ack(sk)
                    answers.append((code, self._answer.reply))
                    if code < 0 and self._answer.reply is None:
                        self._drain()
                self._raise_interrupt()
                self._answered = True
                return answers
            finally:
                self._busy = False
                self._answer.reply = None

    def link(self, device: str) -> int:
        """The interface index of ``device`` in the socket's namespace; DeviceNotFound where there is none."""
        if not isinstance(device, str):
            raise TypeError(f"a device is named by a str, as 'eth0', not by {device!r}")
        name = _encoded(device)
        if name is None or not 0 < len(name) < lib.IFNAMSIZ:
            raise DeviceNotFound(
                None,
                f"cannot find {device!r}: a device's name has 1 to {lib.IFNAMSIZ - 1} bytes",
                "find",
                device,
            )
        msg = built(lib.rtnl_link_build_get_request, 0, name)
        found = self.get(msg, "find", device)
        if found is None:
            raise NetlinkError(None, f"cannot find {device}: the kernel answered with no link", "find", device)
        return int(lib.rtnl_link_get_ifindex(ffi.cast("struct rtnl_link *", found)))

    def link_name(self, ifindex: int) -> str:
        """The name of the device with this interface index; DeviceNotFound where there is none."""
        found = self.get(built(lib.rtnl_link_build_get_request, ifindex, ffi.NULL), "find", f"device {ifindex}")
        if found is None:
            return f"device {ifindex}"
        return os.fsdecode(ffi.string(lib.rtnl_link_get_name(ffi.cast("struct rtnl_link *", found))))

    def qdisc(
        self, ifindex: int, parent: int, device: str, handle: int = 0, kind: bytes | None = None
    ) -> QdiscInfo | None:
        """The qdisc at ``parent``, with its counters; None where the kernel has none to show (noqueue, noop).

        One question about one qdisc, however many links there are: RTM_GETQDISC without NLM_F_DUMP answers to the
        asker only with NLM_F_ECHO. With ``handle`` or ``kind``, a qdisc that differs is QdiscNotFound.
        """
        msg = qdisc_message(lib.RTM_GETQDISC, lib.NLM_F_ECHO, ifindex, parent, handle, kind)
        found = self.get(msg, "read the qdisc of", device)
        return None if found is None else qdisc_info(found)

    def qdiscs(self) -> list[QdiscInfo]:
        """Every qdisc of the namespace, by one dump."""
        with self._lock:
            sk = self._open()
            cache = ffi.new("struct nl_cache **")
            lib.nl_socket_enable_msg_peek(sk)
            code = lib.rtnl_qdisc_alloc_cache(sk, cache)
            lib.nl_socket_disable_msg_peek(sk)
            if code < 0:
                raise self._failure(code, "list the qdiscs", None)
        owned = ffi.gc(cache[0], lib.nl_cache_free)
        infos = []
        obj = lib.nl_cache_get_first(owned)
        while obj != ffi.NULL:
            infos.append(qdisc_info(obj))
            obj = lib.nl_cache_get_next(obj)
        return infos

    def _failure(self, code: int, operation: str, device: str | None) -> NetlinkError:
        self._raise_interrupt()
        reply, self._answer.reply = self._answer.reply, None
        if reply is None:
            self._drain()
        return failure(code, operation, device, reply)

    def _raise_interrupt(self) -> None:
        error, self._answer.interrupt = self._answer.interrupt, None
        if error is not None:
            raise error

    def _drain(self) -> None:
        """Throw away what is queued: answers to requests whose caller has given up."""
        self._answer.reply = None
        waste = ffi.new("char[]", 1)
        fd = lib.nl_socket_get_fd(self._sk)
        for _ in range(100_000):
            if lib.recv(fd, waste, 1, 0) < 0 and ffi.errno == errno.EAGAIN:
                break
        self._answered = True


def qdisc_message(
    kind_of_request: int, flags: int, ifindex: int, parent: int, handle: int, kind: bytes | None
) -> CData:
    """A qdisc message without TCA_OPTIONS, which libnl's own functions cannot make for a plug."""
    msg = lib.nlmsg_alloc_simple(kind_of_request, flags)
    if msg == ffi.NULL:
        raise MemoryError("libnl has no memory for a message")
    msg = ffi.gc(msg, lib.nlmsg_free)
    header = ffi.new("struct tcmsg *", {"tcm_ifindex": ifindex, "tcm_parent": parent, "tcm_handle": handle})
    check(lib.nlmsg_append(msg, header, ffi.sizeof("struct tcmsg"), lib.NLMSG_ALIGNTO), "build a request")
    if kind is not None:
        check(lib.nla_put_string(msg, lib.TCA_KIND, kind), "build a request")
    return msg


def built(build: Callable[..., int], *args: object) -> CData:
    """The message that one of libnl's build functions makes, freed with the object."""
    result = ffi.new("struct nl_msg **")
    check(build(*args, result), "build a request")
    return ffi.gc(result[0], lib.nlmsg_free)


def _in_netns(netns: Netns, call: Callable[[], T]) -> T:
    """The result of ``call`` in the namespace: setns is per thread, so a short-lived thread goes there and ends."""
    if netns is None:
        return call()
    return _visit(_open_netns(netns), netns, call)


def _visit(fd: int, netns: str | os.PathLike[str] | int | HasFileno, call: Callable[[], T]) -> T:
    """The same in the namespace of ``fd``, which is closed."""
    outcome: list[T | BaseException] = []
    done = allocate_lock()
    done.acquire()

    def visit() -> None:
        try:
            if lib.setns(fd, lib.CLONE_NEWNET) < 0:
                raise _cannot_enter(netns, ffi.errno)
            outcome.append(call())
        except BaseException as error:  # brought to the caller's thread, whatever it is
            outcome.append(error)
        finally:
            os.close(fd)
            done.release()

    try:
        start_new_thread(visit, ())
    except RuntimeError as error:
        os.close(fd)
        raise _cannot_enter(netns, errno.EAGAIN) from error
    except BaseException:
        os.close(fd)
        raise
    done.acquire()
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    return result


def _open_netns(netns: str | os.PathLike[str] | int | HasFileno) -> int:
    """A descriptor of the namespace: a name of 'ip netns', a path, a pid (int), or an object with a fileno()."""
    if isinstance(netns, bool) or not (isinstance(netns, (str, int, os.PathLike)) or hasattr(netns, "fileno")):
        raise TypeError(f"netns is a name, a path, a pid (int) or an object with a fileno(), not {netns!r}")
    try:
        if isinstance(netns, int):
            if netns <= 0:
                raise ValueError(
                    f"netns is {netns}, which is no pid; a descriptor is given as an object with a fileno()"
                )
            return os.open(f"/proc/{netns}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if isinstance(netns, (str, os.PathLike)):
            path = os.fspath(netns)
            if "/" not in path:
                path = f"/run/netns/{path}"
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.dup(netns.fileno())
    except OSError as error:
        raise _cannot_enter(netns, error.errno or 0) from None


def _cannot_enter(netns: Netns, number: int, capability: str = "CAP_SYS_ADMIN") -> NetlinkError:
    shown = netns if isinstance(netns, str) else repr(netns)
    kind: type[NetlinkError] = NetlinkError
    hint = ""
    if number in (errno.ENOENT, errno.ESRCH, errno.ENOTDIR):
        kind, hint = NetnsNotFound, "; 'ip netns' lists the named ones"
    elif number in (errno.EPERM, errno.EACCES):
        kind, hint = NotPermitted, f"; {capability} is needed to enter a network namespace"
    elif number == errno.EINVAL:
        hint = "; it is not a network namespace"
    elif number == errno.EAGAIN:
        hint = "; it takes a thread, and the limit of processes (ulimit -u, pids.max) is reached"
    message = f"cannot enter the network namespace {shown}: {os.strerror(number)}{hint}"
    return kind(number, message, "enter the network namespace")
