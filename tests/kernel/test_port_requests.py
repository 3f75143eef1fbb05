# SPDX-License-Identifier: GPL-2.0-or-later
"""The drop-in port's requests: each result is that of its own request, whatever threads, signals and forks do."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from libnlplug import plug_qdisc as port
from libnlplug.netlink.libnl import ffi, lib
from tests.support.netlab import Wire, random_name

REQUESTS = int(os.environ.get("PORT_REQUESTS", "4000"))
SOL_NETLINK, ADD_MEMBERSHIP, DROP_MEMBERSHIP, RTNLGRP_LINK = 270, 1, 2, 1  # linux/netlink.h, linux/rtnetlink.h
REFUSED = -6  # NLE_EXIST: another handle stands there


@pytest.fixture
def attached(wire: Wire) -> Wire:
    """A wire, and the port's plug on it, with the handle 1:."""
    assert wire.near.run(port.qdisc_init) == 0
    assert port.plug_qdisc_attach(wire.device, "root", "1:", 1 << 20) == 0
    return wire


def with_another_handle() -> tuple[object, object]:
    """The port's socket and its plug with another handle, whose requests the kernel refuses."""
    assert port._statics is not None
    nl_sock, qdisc = port._statics
    copy = ffi.cast("struct rtnl_qdisc *", lib.nl_object_clone(ffi.cast("struct nl_object *", qdisc)))
    lib.rtnl_tc_set_handle(ffi.cast("struct rtnl_tc *", copy), 0x2_0000)
    return nl_sock, ffi.gc(copy, lib.rtnl_qdisc_put)


@contextmanager
def handling(handler: Callable[[], None], after: float, every: float) -> Iterator[None]:
    """Call the handler from a timer's signal, again and again."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, after, every)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def request(statics: object, set_action: object = lib.rtnl_qdisc_plug_release_indefinite) -> int:
    return port._in_turn(statics, set_action, lib.rtnl_qdisc_add, 0)  # type: ignore[arg-type]


@contextmanager
def socket_of_the_port() -> Iterator[socket.socket]:
    assert port._statics is not None
    with socket.socket(fileno=os.dup(lib.nl_socket_get_fd(port._statics[0]))) as shared:
        yield shared


def each_result_is_its_own(wire: Wire) -> None:
    """Requests that the kernel carries out and requests that it refuses, in turn; and packets are held and let go."""
    bad = with_another_handle()
    for _ in range(3):
        assert [port.plug_qdisc_plug_buffer(), request(bad)] == [0, REFUSED]
    numbers = wire.send(3)
    assert wire.near.qdisc(wire.device)["qlen"] == 3
    assert port.plug_qdisc_release_indefinite_buffer() == 0
    wire.expect(numbers)


def test_an_unread_answer_shifts_nothing(attached: Wire) -> None:
    """An answer that nobody has read is not taken for that of the next request."""
    with socket_of_the_port() as shared:
        for number in (0, 1, 7):
            shared.send(struct.pack("=IHHII", 16, lib.RTM_NEWQDISC, lib.NLM_F_REQUEST | lib.NLM_F_ACK, number, 0))
    each_result_is_its_own(attached)


def fill(wire: Wire) -> None:
    """Leave no room in the port's socket for an answer."""
    with socket_of_the_port() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        shared.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, RTNLGRP_LINK)
        name = random_name()
        for _ in range(40):
            wire.near.ip(f"link add {name} type dummy", f"link del {name}")
        shared.setsockopt(SOL_NETLINK, DROP_MEMBERSHIP, RTNLGRP_LINK)


def test_a_lost_answer_is_one_failure(attached: Wire) -> None:
    """Where the kernel has no room for an answer, its request fails, and all later ones have their own results."""
    fill(attached)
    assert port.plug_qdisc_plug_buffer() < 0
    each_result_is_its_own(attached)


def test_a_lost_answer_to_the_attach_leaves_nothing_held(wire: Wire, capfd: pytest.CaptureFixture[str]) -> None:
    """The attach fails and says why; the plug, if the kernel has made it, is released."""
    assert wire.near.run(port.qdisc_init) == 0
    fill(wire)
    assert port.plug_qdisc_attach(wire.device, "root", "1:", 1 << 20) == -1
    assert "the kernel's answer was lost" in capfd.readouterr().err
    assert wire.near.qdisc(wire.device)["kind"] == "plug"
    wire.expect(wire.send(3))
    each_result_is_its_own(wire)


def test_a_descriptor_that_is_another_sockets_is_a_failure(attached: Wire) -> None:
    """A program that has closed all descriptors gave the port's number to a socket at its end: no endless loop."""
    assert port._statics is not None
    fd = lib.nl_socket_get_fd(port._statics[0])
    with socket.socket() as listener, socket.socket() as ended, socket_of_the_port() as kept:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ended.connect(listener.getsockname())
        listener.accept()[0].close()
        os.dup2(ended.fileno(), fd)
        try:
            assert port.plug_qdisc_plug_buffer() < 0
        finally:
            os.dup2(kept.fileno(), fd)
    each_result_is_its_own(attached)


def test_an_answer_that_does_not_come_is_not_waited_for(attached: Wire) -> None:
    """Where no answer comes, the request fails at once."""

    @ffi.callback("int(struct nl_sock *, struct rtnl_qdisc *, int)")
    def add(nl_sock, qdisc, flags):
        message = ffi.new("struct nl_msg **")
        lib.rtnl_qdisc_build_add_request(qdisc, flags, message)
        lib.nlmsg_hdr(message[0]).nlmsg_len = 8  # which the kernel does not answer, as it is no message
        return lib.nl_send_sync(nl_sock, message[0])

    assert port._in_turn(port._statics, lib.rtnl_qdisc_plug_buffer, add, 0) < 0
    each_result_is_its_own(attached)


def test_threads_in_a_storm_of_signals(attached: Wire) -> None:
    """Four threads, every third request refused, a signal each millisecond whose handler asks too and interrupts: no
    result is another's."""
    assert port._statics is not None
    good, bad = port._statics, with_another_handle()
    wrong: list[tuple[int, int]] = []
    signals, interruptible = 0, False

    def interrupt() -> None:
        nonlocal signals, interruptible
        signals += 1
        ask(signals)
        if interruptible:
            interruptible = False
            raise InterruptedError

    def ask(number: int) -> None:
        expected = 0 if number % 3 else REFUSED
        action = random.choice((lib.rtnl_qdisc_plug_buffer, lib.rtnl_qdisc_plug_release_indefinite))
        result = request(good if number % 3 else bad, action)
        if result != expected:
            wrong.append((result, expected))

    def work() -> None:
        for number in range(REQUESTS // 4):
            ask(number)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    with handling(interrupt, 0.001, 0.001):
        for number in range(REQUESTS // 4):
            try:
                interruptible = True
                ask(number)
                interruptible = False
            except InterruptedError:
                pass
    for thread in threads:
        thread.join()
    print(f"{REQUESTS + signals} requests, {signals} signals, {len(wrong)} wrong")
    assert signals > 10
    assert wrong == []
    assert port.plug_qdisc_release_indefinite_buffer() == 0
    each_result_is_its_own(attached)


def test_an_interrupted_attach_leaves_nothing_held(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyboardInterrupt between the attach and the release: the new plug lets packets pass."""
    assert wire.near.run(port.qdisc_init) == 0
    real, calls = port._in_turn, []

    def in_turn(*arguments: object) -> int:
        calls.append(real(*arguments))  # type: ignore[arg-type]
        if len(calls) == 1:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(port, "_in_turn", in_turn)
    with pytest.raises(KeyboardInterrupt):
        port.plug_qdisc_attach(wire.device, "root", "1:", 1 << 20)
    assert wire.near.qdisc(wire.device)["kind"] == "plug"
    wire.expect(wire.send(3))


def test_the_first_attach_of_another_thread_is_not_forgotten(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads attach for the first time at once, and one names no device: the other's plug can be released."""
    monkeypatch.setattr(port, "_statics", None)
    slow, go_on = threading.Event(), threading.Event()

    class Slow:
        """libnl, but the first socket takes long to make."""

        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def libnlplug_match_answers(self, nl_sock: object) -> None:
            lib.libnlplug_match_answers(nl_sock)
            if not slow.is_set():
                slow.set()
                go_on.wait(2)

    monkeypatch.setattr(port, "lib", Slow())
    results: list[int] = []

    def work() -> None:
        first = threading.Thread(target=port.plug_qdisc_attach, args=("nosuchdevice", "root", "1:", 1 << 20))
        first.start()
        assert slow.wait(20)

        def attach() -> None:
            results.append(port.plug_qdisc_attach(wire.device, "root", "1:", 1 << 20))
            results.append(port.plug_qdisc_plug_buffer())
            go_on.set()

        second = threading.Thread(target=attach)
        second.start()
        first.join()
        second.join()
        results.append(port.plug_qdisc_release_indefinite_buffer())

    wire.near.run(work)
    assert results == [0, 0, 0]
    each_result_is_its_own(wire)


def test_a_fork_in_the_middle_of_a_request(attached: Wire) -> None:
    """A child that is forked while another thread has a request in progress can use the port after qdisc_init()."""
    begun, go_on = threading.Event(), threading.Event()

    @ffi.callback("int(struct nl_sock *, struct rtnl_qdisc *, int)")
    def add(_nl_sock, _qdisc, _flags):
        begun.set()
        go_on.wait(20)
        return 0

    thread = threading.Thread(target=port._in_turn, args=(port._statics, ffi.NULL, add, 0))
    thread.start()
    assert begun.wait(20)

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            status = 1
            try:
                if port.plug_qdisc_plug_buffer() == -1 and port.qdisc_init() == 0:
                    status = 2 - (port.plug_qdisc_attach(attached.device, "root", "1:", 1 << 20) == 0) * 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    try:
        assert attached.near.run(fork) == 0
    finally:
        go_on.set()
        thread.join()
    each_result_is_its_own(attached)


def test_another_thread_waits_for_its_turn(attached: Wire) -> None:
    """While a request is in progress, another thread's is not sent."""
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    @ffi.callback("int(struct nl_sock *, struct rtnl_qdisc *, int)")
    def add(_nl_sock, _qdisc, _flags):
        begun.set()
        go_on.wait(20)
        order.append("first")
        return 0

    def second() -> None:
        assert port.plug_qdisc_plug_buffer() == 0
        order.append("second")

    threads = [threading.Thread(target=port._in_turn, args=(port._statics, ffi.NULL, add, 0))]
    threads[0].start()
    assert begun.wait(20)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    time.sleep(0.1)
    go_on.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
