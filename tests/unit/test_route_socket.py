# SPDX-License-Identifier: GPL-2.0-or-later
"""RouteSocket without a plug: look-ups that need no right, its end, and its fork rule."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import struct
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libnlplug import ClosedError, DeviceNotFound, ForkedError, NetlinkError, PlugQdisc
from libnlplug.netlink import route_socket
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.messages import joined, link_message
from libnlplug.netlink.route_socket import Reply, RouteSocket, qdisc_info
from tests.support.netlab import Netns

LOOPBACK = 1  # lo's interface index, in every namespace


@pytest.fixture
def sk():
    """A socket in the caller's namespace."""
    made = RouteSocket()
    yield made
    made.close()


def test_lo_is_found(sk: RouteSocket) -> None:
    """A device is looked up by name, and by index."""
    assert sk.ifindex_of("lo") == LOOPBACK
    assert sk.link_name(LOOPBACK) == "lo"


@given(name=st.text(max_size=20).filter(lambda name: name != "lo"))
def test_no_name_disturbs_the_socket(name: str) -> None:
    """Any text is a device's index or DeviceNotFound; lo is found afterwards."""
    sk = RouteSocket()
    try:
        index = sk.ifindex_of(name)
    except DeviceNotFound:
        index = None
    assert index != LOOPBACK
    assert sk.ifindex_of("lo") == LOOPBACK
    sk.close()


@pytest.mark.parametrize("name", [None, 1, b"lo", object()])
def test_a_device_is_a_text(sk: RouteSocket, name: object) -> None:
    """A device of any other type is a TypeError that shows how one is named."""
    with pytest.raises(TypeError, match="as 'eth0'"):
        sk.ifindex_of(name)  # type: ignore[arg-type]


def other_socket(to: RouteSocket) -> socket.socket:
    """A socket that can put datagrams into the queue of another one: root may."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.setblocking(False)
    with socket.socket(fileno=os.dup(to.fileno())) as shared:
        made.connect(shared.getsockname())
    return made


def sent(other: socket.socket, size: int) -> bool:
    """Whether a datagram of so many bytes, a message with another number, was put into the queue."""
    try:
        return other.send(struct.pack("=IHHII", size, lib.NLMSG_MIN_TYPE, 0, 77, 0).ljust(size, b"\0")) == size
    except BlockingIOError:
        return False


def test_an_answer_that_is_cut_off_is_lost(netns: Netns) -> None:
    """A datagram of which not all was read: the call fails, saying so, and the next one gets its own answer."""
    sk = RouteSocket(netns)
    with netns.run(other_socket, sk) as other:
        assert sent(other, 40000)
        with pytest.raises(NetlinkError, match=f"{os.strerror(errno.EMSGSIZE)}; the kernel's answer did not arrive"):
            sk.ask(link_message(lib.RTM_GETLINK, 0, LOOPBACK), "find", "lo")
    assert sk.ifindex_of("lo") == LOOPBACK
    sk.close()


def test_a_full_queue_is_a_lost_answer(netns: Netns) -> None:
    """Where the queue has no room for an answer: the call fails, saying so, and the next one gets its own answer."""
    sk = RouteSocket(netns)
    with netns.run(other_socket, sk) as other:
        while sent(other, 4000):
            pass
        with pytest.raises(NetlinkError, match=f"{os.strerror(errno.ENOBUFS)}; the kernel's answer did not arrive"):
            sk.ifindex_of("lo")
    assert sk.ifindex_of("lo") == LOOPBACK
    sk.close()


def test_an_interrupted_dump_is_asked_for_again(sk: RouteSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump that a change interrupted is repeated; one that is interrupted every time is an error."""
    read, rounds = route_socket._replies, []

    def interrupted(answer) -> tuple[int, list[Reply]]:
        error, replies = read(answer)
        rounds.append(len(replies))
        flag = lib.NLM_F_DUMP_INTR if len(rounds) <= changes else 0
        return error, [Reply(one.kind, one.flags | flag, one.seq, one.message) for one in replies]

    monkeypatch.setattr(route_socket, "_replies", interrupted)
    changes = 2
    assert LOOPBACK in {info.ifindex for info in sk.qdiscs()}
    assert len(rounds) == 3
    changes = 1000
    with pytest.raises(NetlinkError, match="it changes faster than it can be read"):
        sk.qdiscs()


def plug_of(sk: RouteSocket) -> PlugQdisc:
    """An object for a plug that need not be there: what is tested ends before the kernel is asked."""
    return PlugQdisc(sk, "lo", LOOPBACK, lib.TC_H_ROOT, 0x504C_0000)


USES = [
    ("buffer", ()),
    ("release_one", ()),
    ("release_indefinite", ()),
    ("set_limit", (1000,)),
    ("stats", ()),
    ("detach", ()),
    ("__enter__", ()),
]


@pytest.mark.parametrize(("verb", "arguments"), USES)
def test_a_closed_object_says_so(sk: RouteSocket, verb: str, arguments: tuple[object, ...]) -> None:
    """After close() every use is ClosedError, a ValueError as with files."""
    plug = plug_of(sk)
    plug.close()
    with pytest.raises(ClosedError, match="closed") as caught:
        getattr(plug, verb)(*arguments)
    assert isinstance(caught.value, ValueError)


def test_what_a_closed_object_still_tells(sk: RouteSocket) -> None:
    """device, parent, handle, limit, last_action, closed and repr need no socket; close() can be repeated."""
    plug = plug_of(sk)
    assert (plug.closed, repr(plug)) == (False, "<PlugQdisc lo parent root handle 504c: last_action=None>")
    plug.close()
    plug.close()
    assert (plug.closed, repr(plug)) == (True, "<PlugQdisc lo parent root handle 504c: closed>")
    assert (plug.device, plug.parent, plug.handle, plug.limit, plug.last_action) == ("lo", "root", "504c:", None, None)
    plug.__exit__(None, None, None)


def test_close_in_one_thread_while_others_call(sk: RouteSocket) -> None:
    """A call that comes after another thread's close is ClosedError, and nothing worse."""
    seen: list[BaseException] = []
    started = threading.Barrier(5)

    def call() -> None:
        started.wait()
        try:
            for _ in range(100_000):
                sk.ifindex_of("lo")
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    sk.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in seen] == [ClosedError] * 4


def test_a_forked_child_is_refused(sk: RouteSocket) -> None:
    """In a child every use is ForkedError, a RuntimeError; close() works; the parent's socket goes on."""
    plug = plug_of(sk)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = []
        try:
            for verb, arguments in USES:
                try:
                    getattr(plug, verb)(*arguments)
                except RuntimeError as error:
                    seen.append(type(error).__name__)
            plug.close()
            own = RouteSocket()
            seen.append(str(own.ifindex_of("lo")))
        finally:
            os.write(write, " ".join(seen).encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read().split() == [ForkedError.__name__] * len(USES) + ["1"]
    os.waitpid(pid, 0)
    assert sk.ifindex_of("lo") == LOOPBACK


def test_thousands_of_sockets() -> None:
    """A process may have more than a thousand of them (libnl numbers only the first 1024 of a process itself)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(2500, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    try:
        sockets = [RouteSocket() for _ in range(count)]
        assert count > 1024
        assert {sk.ifindex_of("lo") for sk in sockets} == {LOOPBACK}
        for sk in sockets:
            sk.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_forgotten_sockets_are_closed() -> None:
    """An object without references frees its descriptor at once: nothing waits for the garbage collector."""
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            plug_of(RouteSocket())
            with pytest.raises(DeviceNotFound):
                RouteSocket().ifindex_of("nosuch0")
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_what_cannot_be_sent_is_certain(sk: RouteSocket) -> None:
    """A request that the socket does not take has that errno, each message of it, and the next one is answered."""
    message = link_message(lib.RTM_GETLINK, 0, LOOPBACK)
    too_long = message + bytes(1 << 20)
    with pytest.raises(NetlinkError, match="cannot find lo: Message too long") as caught:
        sk.execute(too_long, "find", "lo")
    assert caught.value.errno == errno.EMSGSIZE
    failures = sk.execute_all(too_long, ["lo", "lo"], "find")
    assert [failures[seq].errno for seq in (0, 1)] == [errno.EMSGSIZE] * 2
    assert sk.ifindex_of("lo") == LOOPBACK


def test_room_for_answers_only_grows(netns: Netns) -> None:
    """The receive buffer is enlarged for more answers, and never made smaller for fewer. A closed socket says so."""
    sk = RouteSocket(netns)
    _, many = sk.make_room(2000)
    assert many >= 2000
    assert sk.make_room(10)[1] == many
    assert sk.make_room(4000)[1] >= 4000
    sk.close()
    with pytest.raises(ClosedError):
        sk.make_room(10)


def test_a_socket_that_closes_meanwhile_has_no_room(sk: RouteSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """close() in another thread after the check: ClosedError, and no other socket's buffer is changed."""
    monkeypatch.setattr(RouteSocket, "_check", lambda one: lib.libnlplug_line_close(one._line))
    with pytest.raises(ClosedError):
        sk.make_room(10)


@pytest.mark.parametrize("requests", [1, 2])
def test_a_descriptor_that_is_another_sockets_is_a_failure(sk: RouteSocket, requests: int) -> None:
    """A program that has closed all descriptors gave the socket's number to a socket at its end: no endless loop."""
    batch = joined([link_message(lib.RTM_GETLINK, 0, LOOPBACK)] * requests)
    with socket.socket() as listener, socket.socket() as ended, socket.socket(fileno=os.dup(sk.fileno())) as kept:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ended.connect(listener.getsockname())
        listener.accept()[0].close()
        os.dup2(ended.fileno(), sk.fileno())
        try:
            failures = sk.execute_all(batch, ["lo"] * requests, "find")
        finally:
            os.dup2(kept.fileno(), sk.fileno())
    assert sorted(failures) == list(range(requests))
    assert sk.ifindex_of("lo") == LOOPBACK


def test_no_descriptor_is_left_for_a_socket() -> None:
    """At the limit of open files the error has that errno and says it in a sentence."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(NetlinkError, match="^cannot open a netlink socket: Too many open files") as caught:
            RouteSocket()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("packets", [7, 2**32 + 7])
def test_packets_are_counted_beyond_32_bits(packets: int) -> None:
    """The kernel's counter of packets has 32 bits, and 64 in an attribute of their own where these are not enough."""

    def attribute(kind: int, content: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(content), kind) + content

    basic = attribute(1, struct.pack("=QII", 1 << 40, packets & 0xFFFF_FFFF, 0))
    wide = attribute(8, struct.pack("=Q", packets)) if packets >> 32 else b""
    place = struct.pack("=B3xiIII", 0, LOOPBACK, 0x504C_0000, lib.TC_H_ROOT, 1)
    body = place + attribute(lib.TCA_KIND, b"plug\0\0\0\0") + attribute(7, basic + wide)  # TCA_STATS2
    info = qdisc_info(struct.pack("=IHHII", 16 + len(body), lib.RTM_NEWQDISC, 0, 1, 0) + body)
    assert info is not None
    assert (info.kind, info.packets, info.bytes) == ("plug", packets, 1 << 40)


def test_a_thread_with_a_small_stack_may_ask() -> None:
    """A request needs no more stack than Python itself: one from a thread with 64 KiB is answered."""
    program = """
import threading
from libnlplug.netlink.route_socket import RouteSocket
threading.stack_size(65536)
thread = threading.Thread(target=lambda: print(RouteSocket().ifindex_of("lo")))
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{LOOPBACK}\n", "")
