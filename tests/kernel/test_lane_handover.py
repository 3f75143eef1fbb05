# SPDX-License-Identifier: GPL-2.0-or-later
"""A hold with handover: it begins when the listeners' queues are empty, and ends when the old listeners have closed."""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from contextlib import suppress

import pytest

from libnlplug import HoldExpired, Match, PlugLane
from libnlplug.lane.hold import BacklogTooSmall
from libnlplug.lane.listeners import owners, sockets_of
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.netlab import PORT, Netns, Wire, eventually

NEW = Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)
FAMILIES = pytest.mark.parametrize("address", ["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
REUSEPORT = getattr(socket, "SO_REUSEPORT", 15)


class Town:
    """Listeners on lo of a namespace, clients of theirs, and a lane for new connections to them."""

    def __init__(self) -> None:
        self.netns = Netns.take()
        self.netns.command("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
        self.netns.ip("link set lo up")
        self.lane = PlugLane("lo", NEW, netns=self.netns)
        self.sockets: list[socket.socket] = []
        self.timers: list[threading.Timer] = []

    def listener(self, address: str = "127.0.0.1", *, port: int = PORT, backlog: int = 16) -> socket.socket:
        made = self._socket(address)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, REUSEPORT, 1)
        made.bind((address, port))
        made.listen(backlog)
        return made

    def client(self, address: str = "127.0.0.1", *, wait: bool = True) -> socket.socket:
        made = self._socket(address)
        made.setblocking(wait)
        made.settimeout(5 if wait else 0)
        with suppress(BlockingIOError):
            made.connect((address, PORT))
        return made

    def _socket(self, address: str) -> socket.socket:
        made = self.netns.run(socket.socket, socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.sockets.append(made)
        return made

    def later(self, seconds: float, act, *words: object) -> None:
        self.timers.append(threading.Timer(seconds, act, words))
        self.timers[-1].start()

    def sees(self, match: Match = NEW):
        sk = RouteSocket(self.netns)
        try:
            return sockets_of(sk, match)
        finally:
            sk.close()

    def close(self) -> None:
        for timer in self.timers:
            timer.join()
        self.lane.close()
        for made in self.sockets:
            made.close()
        self.netns.give_back()


@pytest.fixture
def town():
    made = Town()
    yield made
    made.close()


@FAMILIES
def test_the_block_waits_for_the_accept_queue(town: Town, address: str) -> None:
    """A connection in the accept queue of one of several listeners: the block begins when it is accepted."""
    listeners = [town.listener(address) for _ in range(3)]
    town.client(address)
    eventually(lambda: not town.sees().quiet, "one waits")

    def accept() -> None:
        for one in listeners:
            one.settimeout(0.01)
            with suppress(socket.timeout):
                town.sockets.append(one.accept()[0])

    town.later(0.4, accept)
    begun = time.monotonic()
    with town.lane.hold(timeout=5, handover=True):
        assert time.monotonic() - begun > 0.35
        assert town.sees().quiet
        listeners.append(town.listener(address))
        for one in listeners[:3]:
            one.close()


def test_the_block_waits_for_a_handshake(town: Town) -> None:
    """A handshake that is half done, because an answer was lost, is waited for; it ends as a connection."""
    old = town.listener()
    # The listener's answer comes by the lane's device too: held there, the handshake stays half done.
    answers = Match(ip_proto="tcp", src_port=PORT)
    with PlugLane("lo", answers, ingress=True, netns=town.netns) as back:
        back.plug.buffer()
        town.client(wait=False)
        eventually(lambda: town.sees().half_done == 1, "half done")
        town.later(0.4, back.plug.release_indefinite)
        town.later(0.5, lambda: town.sockets.append(old.accept()[0]))
        begun = time.monotonic()
        with town.lane.hold(timeout=5, handover=True):
            assert time.monotonic() - begun > 0.4
            assert town.sees().half_done == 0
            town.listener()
            old.close()


def test_a_client_that_is_gone_is_not_waited_for(town: Town) -> None:
    """A handshake whose client does not answer at all delays the block by half the timeout and no more."""
    old = town.listener()
    answers = Match(ip_proto="tcp", src_port=PORT)
    with PlugLane("lo", answers, ingress=True, netns=town.netns) as back:
        back.plug.buffer()
        town.client(wait=False)
        eventually(lambda: town.sees().half_done == 1, "half done")
        begun = time.monotonic()
        with town.lane.hold(timeout=2, handover=True) as report:
            assert 0.9 < time.monotonic() - begun < 1.8
            town.listener()
            old.close()
    assert report.handover == "handed over"


@FAMILIES
def test_the_hold_lasts_until_the_old_listener_has_closed(town: Town, address: str) -> None:
    """What the block has left behind to close does so while new connections are held; they reach the new listener."""
    old = town.listener(address)
    begun = time.monotonic()
    with town.lane.hold(timeout=5, handover=True) as report:
        new = town.listener(address)
        client = town.client(address, wait=False)
        town.later(0.5, old.close)
    assert 0.45 < time.monotonic() - begun < 2
    assert (report.handover, report.packets, report.expired) == ("handed over", 1, False)
    new.settimeout(3)
    town.sockets.append(new.accept()[0])
    assert client.getpeername()[:2] == (address, PORT)


@pytest.mark.parametrize("other", ["0.0.0.0", "::", "127.0.0.2"])
def test_another_server_on_the_port_stays(town: Town, other: str) -> None:
    """A server of one address is replaced beside another one on the same port, which is not waited for."""
    town.listener(other)
    old = town.listener()
    begun = time.monotonic()
    with town.lane.hold(timeout=5, handover=True) as report:
        town.listener()
        town.later(0.3, old.close)
    assert 0.25 < time.monotonic() - begun < 4
    assert (report.handover, report.expired) == ("handed over", False)


@pytest.mark.parametrize(("before", "after"), [("127.0.0.1", "0.0.0.0"), ("::", "127.0.0.1")])
def test_a_server_that_comes_with_another_address(town: Town, before: str, after: str) -> None:
    """A listener for more or fewer addresses takes the old one's place: the hold waits until that has closed."""
    old = town.listener(before)
    begun = time.monotonic()
    with town.lane.hold(timeout=5, handover=True) as report:
        town.listener(after)
        town.later(1.5, old.close)
    assert time.monotonic() - begun > 1.4
    assert (report.handover, report.expired) == ("handed over", False)


def test_the_hold_lasts_until_the_new_listener_is_there(town: Town) -> None:
    """Where the old listener closes first, the hold lasts until a new one is there, and what is released meets that."""
    old = town.listener()
    with town.lane.hold(timeout=5, handover=True) as report:
        client = town.client(wait=False)
        old.close()
        town.later(0.4, town.listener)
    assert report.handover == "handed over"
    assert report.seconds >= 0.4
    eventually(lambda: client.getpeername(), "connected") if not client.getsockopt(socket.SOL_SOCKET, 4) else None
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_the_hold_lasts_until_there_is_a_listener_on_each_port(town: Town) -> None:
    """A server of two ports may listen on one long before the other: no connection to the other one is refused."""
    town.lane.close()
    town.lane = PlugLane("lo", Match(dst_port=(PORT, PORT + 1), tcp_syn=True), netns=town.netns)
    old = [town.listener(), town.listener(port=PORT + 1)]
    with town.lane.hold(timeout=5, handover=True) as report:
        for one in old:
            one.close()
        town.listener(port=PORT + 1)
        client = town.client(wait=False)
        town.later(1.5, town.listener)
    assert (report.handover, report.packets) == ("handed over", 2)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_the_hold_lasts_until_there_is_a_listener_on_each_address(town: Town) -> None:
    """The new listener for IPv6 comes after the one for IPv4: no connection over IPv6 is refused."""
    old = [town.listener(), town.listener("::1")]
    with town.lane.hold(timeout=5, handover=True) as report:
        for one in old:
            one.close()
        town.listener()
        client = town.client("::1", wait=False)
        town.later(0.5, town.listener, "::1")
    assert (report.handover, report.packets) == ("handed over", 1)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_port_on_which_nothing_listens_any_more(town: Town) -> None:
    """The error names the port on which nothing listens, and not the others."""
    town.lane.close()
    town.lane = PlugLane("lo", Match(dst_port=(PORT, PORT + 1), tcp_syn=True), netns=town.netns)
    old = [town.listener(), town.listener(port=PORT + 1)]
    with (
        pytest.raises(HoldExpired, match=f": nothing listens on 127.0.0.1:{PORT + 1};"),
        town.lane.hold(timeout=0.6, handover=True),
    ):
        for one in old:
            one.close()
        town.listener()


def test_a_server_that_keeps_its_socket(town: Town) -> None:
    """The same socket afterwards: said, soon, and without an error."""
    town.listener()
    begun = time.monotonic()
    with town.lane.hold(timeout=5, handover=True) as report:
        pass
    assert report.handover == "same socket"
    assert time.monotonic() - begun < 2.5


def test_nothing_listened(town: Town) -> None:
    """Where nothing listened before there is nothing to wait for, and that is said. Other ports do not count."""
    town.listener(port=PORT + 1)
    begun = time.monotonic()
    with town.lane.hold(timeout=5, handover=True) as report:
        town.listener()
    assert report.handover == "nothing listened"
    assert time.monotonic() - begun < 1


def test_an_accept_queue_that_never_empties(town: Town) -> None:
    """The block is not begun, the error names the listener and its process, and new connections go on at once."""
    old = town.listener()
    town.client()
    begun = time.monotonic()
    sentence = (
        rf"accept queue of 127.0.0.1:{PORT} \(.*pid {os.getpid()}\) still has 1 conn.*, so the block was not begun"
    )
    with pytest.raises(HoldExpired, match=sentence), town.lane.hold(timeout=0.6, handover=True):
        pytest.fail("it was begun")
    assert 0.5 < time.monotonic() - begun < 2
    town.client().close()
    assert not old._closed


def test_an_old_listener_that_never_closes(town: Town) -> None:
    """The error names it and its process; the report says that the hold expired."""
    town.listener()
    hold = town.lane.hold(timeout=0.6, handover=True)
    sentence = rf"127.0.0.1:{PORT} \(.*pid {os.getpid()}\) is still listened on by the old socket"
    with pytest.raises(HoldExpired, match=sentence), hold as report:
        town.listener()
        report_seen = report
    assert report_seen.expired
    assert report_seen.packets is None
    town.client().close()


def test_a_server_that_does_not_come_back(town: Town) -> None:
    """Nothing listens any more when the time is up: said."""
    old = town.listener()
    with (
        pytest.raises(HoldExpired, match=f"nothing listens on 127.0.0.1:{PORT}"),
        town.lane.hold(timeout=0.6, handover=True),
    ):
        old.close()


def test_a_block_that_fails_is_not_waited_for(town: Town) -> None:
    """An exception in the block ends the hold at once."""
    town.listener()
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError), town.lane.hold(timeout=5, handover=True):
        town.listener()
        raise ZeroDivisionError
    assert time.monotonic() - begun < 1
    town.client().close()


@pytest.mark.parametrize(
    ("match", "timeout", "sentence"),
    [
        (NEW, None, "give the hold a timeout"),
        (Match(tcp_syn=True), 1, "give tcp_syn and a dst_port; the match is ip_proto=tcp,tcp_syn"),
        (Match(ip_proto="tcp", dst_port=PORT), 1, "handover needs a lane that holds only the SYNs to a port"),
        (Match(ip_proto="udp", dst_port=PORT), 1, "handover needs a lane that holds only the SYNs to a port"),
    ],
)
def test_where_there_is_no_handover(town: Town, match: Match, timeout: float | None, sentence: str) -> None:
    """Without SYNs to a port, or a timeout, it is refused before anything is held. (A lane that holds all packets to
    a port would also hold the acknowledgement that a half-done handshake waits for.)"""
    town.lane.close()
    with PlugLane("lo", match, netns=town.netns) as lane, pytest.raises(ValueError, match=sentence):
        lane.hold(timeout=timeout, handover=True)


def test_no_handover_of_what_leaves(wire: Wire) -> None:
    """What leaves by another device than lo comes to no listener of this namespace."""
    with PlugLane(wire.device, NEW, netns=wire.near) as lane, pytest.raises(ValueError, match="give the lane ingress"):
        lane.hold(timeout=1, handover=True)


def test_which_listeners_are_the_matchs(town: Town) -> None:
    """By port, range and address; a socket for all addresses counts for each, one for [::] for IPv4 too."""
    for address, port in (("127.0.0.1", 80), ("127.0.0.2", 81), ("0.0.0.0", 90), ("::", 91), ("::1", 92)):
        town.listener(address, port=port)
    for parts, wanted in (
        ({"dst_port": 80}, {80}),
        ({"dst_port": (80, "90-92")}, {80, 90, 91, 92}),
        ({"dst_port": "1-100", "dst_ip": "127.0.0.2"}, {81, 90, 91}),
        ({"dst_port": "1-100", "dst_ip": "::1"}, {91, 92}),
        ({"dst_port": "1-100", "dst_ip": ("127.0.0.1", "::2")}, {80, 90, 91}),
    ):
        found = town.sees(Match(ip_proto="tcp", tcp_syn=True, **parts))
        assert {listener.port for listener in found.listeners} == wanted, parts
    assert all(listener.backlog == 16 for listener in found.listeners)
    assert set(owners({listener.inode for listener in found.listeners})) == {os.getpid()}


def test_more_connections_than_the_backlog_has_room_for(town: Town) -> None:
    """A warning and the report say so, with the backlog to set; where there is room, neither says anything."""
    town.listener(backlog=4)
    for count, needed in ((10, 10), (3, None)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with town.lane.hold(timeout=5) as report:
                for _ in range(count):
                    town.client(wait=False)
                eventually(lambda count=count: town.lane.plug.stats().qlen == count, "they wait")
        assert (report.packets, report.backlog, report.backlog_needed) == (count, 4, needed)
        said = [str(one.message) for one in caught if issubclass(one.category, BacklogTooSmall)]
        assert len(said) == (needed is not None)
        if said:
            assert said[0].startswith(f"{count} SYNs were held (")
            assert "and the listener has room for 4 connections at once" in said[0]
            assert f"somaxconn of {count} are enough" in said[0]
            assert [one.filename for one in caught if str(one.message) in said] == [__file__]


def test_the_backlog_of_each_address_counts_by_itself(town: Town) -> None:
    """Listeners of one address and port share the connections, those of another address take none of them: with two
    for IPv4 and one for IPv6, the smaller room counts."""
    for address, backlog in (("0.0.0.0", 4), ("0.0.0.0", 5), ("::1", 16)):
        town.listener(address, backlog=backlog)
    with pytest.warns(BacklogTooSmall, match="room for 9 connections"), town.lane.hold(timeout=5) as report:
        for _ in range(10):
            town.client(wait=False)
        eventually(lambda: town.lane.plug.stats().qlen >= 10, "they wait")
    assert report.backlog == 9
    assert report.backlog_needed == report.packets >= 10  # after a second a client sends another SYN
