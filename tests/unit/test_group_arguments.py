# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugGroup without a plug: what it takes, what it refuses, and how its messages are put together."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import libnlplug
from libnlplug import ClosedError, GroupError, NetlinkError, NotPermitted, PlugGroup, PlugQdisc, QdiscNotFound
from libnlplug.netlink.libnl import ffi, lib
from libnlplug.netlink.messages import joined, qdisc_message
from libnlplug.netlink.refusals import unanswered
from libnlplug.netlink.route_socket import RouteSocket

LOOPBACK = 1


def plug_at(sk: RouteSocket, parent: int) -> PlugQdisc:
    """An object for a plug that need not be there."""
    return PlugQdisc(sk, "lo", LOOPBACK, parent, 0x504C_0000)


def message(device: int) -> bytes:
    return qdisc_message(lib.RTM_NEWQDISC, 0, device, lib.TC_H_ROOT, 0x504C_0000, b"plug")


@given(devices=st.lists(st.integers(1, 2**31 - 1), max_size=30))
def test_joined_messages_are_numbered_and_only_the_last_asks(devices: list[int]) -> None:
    """Each message stays what it is, has its place as its number, and the last one alone asks for an ACK."""
    batch, at = joined([message(device) for device in devices]), 0
    start = ffi.from_buffer(batch)
    for number, device in enumerate(devices):
        header = ffi.cast("struct nlmsghdr *", start + at)
        place = ffi.cast("struct tcmsg *", start + at + lib.NLMSG_HDRLEN)
        assert (header.nlmsg_seq, place.tcm_ifindex) == (number, device)
        assert header.nlmsg_flags & lib.NLM_F_REQUEST
        assert bool(header.nlmsg_flags & lib.NLM_F_ACK) == (number == len(devices) - 1)
        at += len(message(device))
    assert at == len(batch)


@pytest.mark.parametrize("member", ["eth0", None, 1, object()])
def test_a_group_is_made_of_plugs(member: object) -> None:
    """Anything but a PlugQdisc is a TypeError that shows it."""
    with pytest.raises(TypeError, match="made of PlugQdisc objects"):
        PlugGroup([member])  # type: ignore[list-item]


def test_a_group_takes_any_iterable() -> None:
    """A generator is as good as a list; the order is kept."""
    sk = RouteSocket()
    plugs = [plug_at(sk, lib.TC_H_ROOT), plug_at(sk, 0x1_0001), plug_at(sk, 0x1_0002)]
    group = PlugGroup(plug for plug in plugs)
    assert group.plugs == tuple(plugs)
    assert repr(group) == "<PlugGroup of 3 plugs>"
    sk.close()
    with pytest.raises(ClosedError):
        group.buffer()


def test_every_failure_is_kept_with_its_plug() -> None:
    """Where no plug is there, or no right, all fail: one error with each plug's own, and nothing is claimed as sent."""
    sk = RouteSocket()
    plugs = [plug_at(sk, 0x7777_0000 + number) for number in range(1, 200)]
    group = PlugGroup(plugs)
    with pytest.raises(GroupError, match="^199 of 199 plugs failed") as caught:
        group.buffer()
    assert list(caught.value.failures) == plugs
    assert caught.value.operation == "buffer on"
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    assert {plug.last_action for plug in plugs} == {None}
    sk.close()


def test_what_a_group_error_says() -> None:
    """The first three failures are in the sentence, the others counted; a shared errno is the group's."""
    sk = RouteSocket()
    failures = {
        plug_at(sk, 0x1_0001 + number): NetlinkError(errno.ENODEV, f"cannot buffer on eth{number}: gone")
        for number in range(5)
    }
    error = GroupError.of("buffer on", 9, failures)
    assert str(error) == (
        "5 of 9 plugs failed, the others are done: cannot buffer on eth0: gone; cannot buffer on eth1: gone; "
        "cannot buffer on eth2: gone; and 2 more"
    )
    assert (error.errno, error.operation, error.failures) == (errno.ENODEV, "buffer on", failures)
    other = {**failures, plug_at(sk, 0x1_0009): NetlinkError(errno.EPERM, "no")}
    assert GroupError.of("buffer on", 9, other).errno is None
    sk.close()


def test_a_group_says_whether_all_that_failed_is_gone() -> None:
    """A GroupError is about plugs that are gone only if every failure is; so is any other error."""
    sk = RouteSocket()
    plugs = [plug_at(sk, 0x1_0001), plug_at(sk, 0x1_0002)]
    gone, denied = QdiscNotFound(errno.ENOENT, "gone"), NotPermitted(errno.EPERM, "denied")
    group = PlugGroup(())
    assert group.is_gone(GroupError.of("release", 2, {plugs[0]: gone, plugs[1]: gone}))
    assert not group.is_gone(GroupError.of("release", 2, {plugs[0]: gone, plugs[1]: denied}))
    assert (group.is_gone(gone), group.is_gone(denied)) == (True, False)
    sk.close()


def test_the_group_is_loaded_when_it_is_named() -> None:
    """`import libnlplug` does not load the group's module; libnlplug.PlugGroup does."""
    program = """
import sys, libnlplug
assert "libnlplug.group" not in sys.modules
libnlplug.PlugGroup
assert "libnlplug.group" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert "PlugGroup" in dir(libnlplug)


def with_sockets_of_their_own(count: int) -> list[PlugQdisc]:
    """Plugs that need not be there, of which the first one's socket takes few messages at a time."""
    plugs = [plug_at(RouteSocket(), 0x7777_0000 + number) for number in range(1, count + 1)]
    with socket.socket(fileno=os.dup(plugs[0]._sk.fileno())) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return plugs


@pytest.mark.parametrize("when", ["before", "after"])
def test_closing_a_plug_between_two_sends_loses_none(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The plug whose socket is used is closed right before its first send, or after it: the next plug's socket goes
    on, and every failure is named, with the kernel's reason."""
    plugs = with_sockets_of_their_own(200)
    group = PlugGroup(plugs)
    exchange = lib.libnlplug_exchange

    class Closing:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        @staticmethod
        def libnlplug_exchange(*request: object) -> object:
            if when == "before":
                plugs[0].close()
            answer = exchange(*request)
            plugs[0].close()
            return answer

    monkeypatch.setattr("libnlplug.netlink.route_socket.lib", Closing())
    with pytest.raises(GroupError, match="^200 of 200 plugs failed") as caught:
        group.buffer()
    assert list(caught.value.failures) == plugs
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    for plug in plugs:
        plug.close()


def test_an_unknown_outcome_counts_as_holding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the answers did not come, or an interrupt came instead, a buffer() may have been done: each plug's last
    word is buffer, so that leaving ``with`` releases it. A release that may not have been done is not noted."""
    sk = RouteSocket()
    plugs = [plug_at(sk, 0x7777_0000 + number) for number in range(1, 4)]
    group = PlugGroup(plugs)

    def lose_all(_: RouteSocket, _messages: bytes, devices: list[str], operation: str) -> dict[int, NetlinkError]:
        return {seq: unanswered(errno.ENOBUFS, operation, device) for seq, device in enumerate(devices)}

    def interrupt(*_request: object) -> None:
        raise KeyboardInterrupt

    for batch, raised in ((lose_all, GroupError), (interrupt, KeyboardInterrupt)):
        monkeypatch.setattr(RouteSocket, "execute_all", batch)
        for action in (group.buffer, group.release_one, group.release_indefinite):
            for plug in plugs:
                plug._last_action = None
            with pytest.raises(raised):
                action()
            last = None if action == group.release_indefinite else action.__name__
            assert [plug.last_action for plug in plugs] == [last] * 3
    sk.close()
