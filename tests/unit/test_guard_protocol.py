# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard's program, spoken to as a holder speaks to it: what it answers, when it ends, and what confuses it not.

The kernel needs no sch_plug here: the guard's requests are refused, and what it does then is what is looked at.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libnlplug import ForkedError, GuardUnavailable, PlugBusy
from libnlplug.guard import client as guard
from libnlplug.guard.client import Guard, holder_of
from libnlplug.netlink.libnl import ffi, lib
from libnlplug.netlink.messages import qdisc_message, without_ack
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.netlab import Netns, eventually

MARKS = ["libnlplug-hold/test/a", "libnlplug-hold/test/bb"]
HOLD, RELEASE, END = lib.GUARD_HOLD, lib.GUARD_RELEASE, lib.GUARD_END


def message(kind: int, ifindex: int = 1, parent: int = 0x7_0000) -> bytes:
    """A request about a qdisc that is not there: the kernel's answer is ENOENT, where there is such a device."""
    return without_ack(qdisc_message(kind, 0, ifindex, parent, 0x7_0000, b"pfifo"))


RELEASES = message(lib.RTM_NEWQDISC)
DROPS = message(lib.RTM_DELQDISC)


class Talk:
    """A guard's program and the other end of its conversation."""

    def __init__(self, netns: Netns) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(5)
        name = ffi.new("char[]", b"libnlplug-guard")
        argv = ffi.new("char *[]", [name, ffi.NULL])
        with theirs:
            self.pid = netns.run(lib.libnlplug_spawn, os.fsencode(guard.PATH), argv, theirs.fileno())
        assert self.pid > 0

    def configure(self, releases: bytes = RELEASES, drops: bytes = DROPS, marks: list[str] = MARKS) -> None:
        names = b"".join(mark.encode() + b"\0" for mark in marks)
        head = ffi.new("struct guard_config *", [len(releases), len(drops), len(names), os.getpid()])
        self.socket.send(ffi.buffer(head)[:] + releases + drops + names)

    def say(self, *values: int) -> None:
        self.socket.send(ffi.buffer(ffi.new("struct guard_command *", list(values)))[:])

    def answer(self) -> tuple[int, int, int]:
        """error, mark, expired."""
        received = self.socket.recv(64)
        assert received, "the guard has ended"
        answer = ffi.new("struct guard_answer *")
        assert len(received) == ffi.sizeof("struct guard_answer")
        ffi.buffer(answer)[:] = received
        return answer.error, answer.mark, answer.expired

    def ask(self, *values: int) -> tuple[int, int, int]:
        self.say(*values)
        return self.answer()

    def expect_end(self) -> None:
        """The conversation ends, and with it the process; it is the child of whoever takes orphans here."""
        try:
            assert self.socket.recv(64) == b""
        except ConnectionResetError:  # it had not read all that it was told
            pass
        eventually(self.is_over, "the guard ends", 2.0)

    def is_over(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True


@pytest.fixture
def talk(netns: Netns):
    """A guard that is ready."""
    made = Talk(netns)
    made.configure()
    assert made.answer() == (0, 0, 0)
    yield made
    made.socket.close()
    eventually(made.is_over, "the guard ends", 2.0)


def marks(netns: Netns) -> list[str]:
    lines = netns.run(Path("/proc/thread-self/net/unix").read_text)
    return sorted(line.split("@")[-1] for line in lines.splitlines() if "@libnlplug-hold/" in line)


def test_ready_means_that_it_may_change_qdiscs(talk: Talk, netns: Netns) -> None:
    """The answer to the configuration is 0 where the right is there; nothing is marked yet."""
    assert marks(netns) == []


@pytest.mark.parametrize(
    "raw",
    [b"x", b"x" * 15, struct.pack("=IIII", 0, 0, 0, 0), struct.pack("=IIII", 99, 0, 0, 0), b"\xff" * 64, b"\0" * 5000],
)
def test_nonsense_is_refused(netns: Netns, raw: bytes) -> None:
    """A configuration whose lengths are not those of its parts, or with nothing to release: an error, and the end."""
    made = Talk(netns)
    made.socket.send(raw)
    assert made.answer()[0] == 71  # EPROTO
    made.expect_end()


@settings(max_examples=30)
@given(raw=st.binary(min_size=1, max_size=80), where=st.sampled_from(["release", "drop", "after"]))
def test_nonsense_messages_are_refused(netns: Netns, raw: bytes, where: str) -> None:
    """Messages that are none, with the right lengths around them: EPROTO, and the end."""
    made = Talk(netns)
    if where == "drop":
        made.configure(drops=raw)
    else:
        made.configure(raw if where == "release" else RELEASES + raw)
    assert made.answer()[0] == 71
    made.expect_end()
    made.socket.close()


@pytest.mark.parametrize("marks", [["x" * 108], [""], ["fine", ""]])
def test_a_mark_that_cannot_be_one_is_refused(netns: Netns, marks: list[str]) -> None:
    """A name that is empty, or longer than a socket's may be: EPROTO, and the end."""
    made = Talk(netns)
    made.configure(marks=marks)
    assert made.answer()[0] == 71
    made.expect_end()
    made.socket.close()


def test_without_a_configuration_it_ends(netns: Netns) -> None:
    """A holder that dies before it has said anything leaves no guard."""
    made = Talk(netns)
    made.socket.shutdown(socket.SHUT_WR)
    made.expect_end()


def test_a_hold_marks_every_plug(talk: Talk, netns: Netns) -> None:
    """The marks come with the hold and go with the release, whose error is the kernel's."""
    assert talk.ask(HOLD) == (0, 0, 0)
    assert marks(netns) == sorted(MARKS)
    assert talk.ask(RELEASE) == (2, 0, 0)  # ENOENT
    assert marks(netns) == []


def test_a_second_hold_is_refused(talk: Talk) -> None:
    """EBUSY; the first one goes on."""
    assert talk.ask(HOLD, 0, 0, 1) == (0, 0, 0)
    assert talk.ask(HOLD, 0, 0, 2)[0] == 16
    assert talk.ask(RELEASE, 0, 0, 1) == (2, 0, 0)


def test_a_release_ends_only_its_own_hold(talk: Talk, netns: Netns) -> None:
    """The number of an earlier hold, or of none, ends nothing; 0 ends whichever is on."""
    assert talk.ask(RELEASE, 0, 0, 1) == (0, 0, 1)
    assert talk.ask(HOLD, 0, 0, 2) == (0, 0, 0)
    assert talk.ask(RELEASE, 0, 0, 1) == (0, 0, 1)
    assert marks(netns) == sorted(MARKS)
    assert talk.ask(RELEASE) == (2, 0, 0)
    assert talk.ask(RELEASE) == (0, 0, 1)


def test_a_taken_mark_is_named_and_none_is_kept(talk: Talk, netns: Netns) -> None:
    """EADDRINUSE and which of the marks it was; the others are given back."""
    with netns.run(socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(f"\0{MARKS[1]}")
        assert talk.ask(HOLD) == (98, 1, 0)
        assert marks(netns) == [MARKS[1]]
    assert talk.ask(HOLD) == (0, 0, 0)
    assert talk.ask(RELEASE)[2] == 0


def test_an_expiry_is_told_with_what_came_of_it(talk: Talk, netns: Netns) -> None:
    """After the time is up the marks are gone; the release is then told that it expired, and the kernel's error."""
    assert talk.ask(HOLD, 0, 0, 5, 20_000_000) == (0, 0, 0)
    eventually(lambda: marks(netns) == [], "the time is up", 2.0)
    assert talk.ask(RELEASE, 0, 0, 5) == (2, 0, 1)
    assert talk.ask(HOLD, 0, 0, 6) == (0, 0, 0)
    assert talk.ask(RELEASE, 0, 0, 5) == (0, 0, 1)
    assert talk.ask(RELEASE, 0, 0, 6) == (2, 0, 0)


def test_who_connects_to_a_mark_is_told_the_holder(talk: Talk, netns: Netns) -> None:
    """holder_of() knows pid, guard, timeout, since and limit from the guard's answer."""
    assert talk.ask(HOLD, 0, 0, 0, 60_000_000_000, 1_500_000_000, 77) == (0, 0, 0)
    route = RouteSocket(netns)
    for mark in MARKS:
        found = holder_of(route, mark)
        assert found is not None
        assert (found.pid, found.guard, found.timeout, found.since, found.limit) == (
            os.getpid(),
            talk.pid,
            60.0,
            1.5,
            77,
        )
        assert not found.foreign
        assert not found.detached
    assert holder_of(route, "libnlplug-hold/test/none") is None
    route.close()


def test_a_detached_hold_goes_on_alone(talk: Talk, netns: Netns) -> None:
    """The end of the conversation means nothing to it; its time does."""
    assert talk.ask(HOLD, 0, 1, 0, 300_000_000) == (0, 0, 0)
    talk.socket.close()
    time.sleep(0.1)
    assert marks(netns) == sorted(MARKS)
    eventually(talk.is_over, "it ends at its time", 2.0)
    assert marks(netns) == []


@pytest.mark.parametrize("alone", [True, False])
def test_a_detached_guard_can_be_told_to_end(talk: Talk, netns: Netns, alone: bool) -> None:
    """SIGTERM ends it, whether or not the conversation goes on; a guard of a living holder does not hear it."""
    os.kill(talk.pid, signal.SIGTERM)
    assert talk.ask(HOLD, 0, 1, 0, 60_000_000_000) == (0, 0, 0)
    if alone:
        talk.socket.close()
    os.kill(talk.pid, signal.SIGTERM)
    eventually(talk.is_over, "the guard ends", 2.0)
    assert marks(netns) == []


@pytest.mark.parametrize("goodbye", [True, False])
def test_it_ends_with_the_conversation(talk: Talk, netns: Netns, goodbye: bool) -> None:
    """END, or the closed socket: the marks go and the process ends, in a hold too."""
    assert talk.ask(HOLD) == (0, 0, 0)
    if goodbye:
        talk.say(END)
        talk.expect_end()
    else:
        talk.socket.close()
        eventually(talk.is_over, "it ends", 2.0)
    assert marks(netns) == []


def test_a_datagram_that_is_no_command_ends_it(talk: Talk) -> None:
    """Who speaks another language is no holder of ours."""
    talk.socket.send(b"release")
    talk.expect_end()


# -- the Guard class


@contextmanager
def guarded(netns: Netns, mark: str = MARKS[0]):
    """A Guard of a qdisc that is not there."""
    route = RouteSocket(netns)
    made = Guard(route, "nothing", [mark], RELEASES, DROPS)
    try:
        yield made
    finally:
        made.end()
        route.close()


def test_it_is_alive_until_it_ends(netns: Netns) -> None:
    """alive is the truth of the moment, also where the process was killed; end() may be called again."""
    with guarded(netns) as first, guarded(netns) as second:
        assert first.alive
        os.kill(first.pid, 9)
        eventually(lambda: not first.alive, "the kill is noticed")
        second.end()
        assert not second.alive
        second.end()


def test_a_guard_that_has_gone_does_not_hold(netns: Netns) -> None:
    """GuardUnavailable, and a release that nobody can do is answered with None."""
    with guarded(netns) as made:
        os.kill(made.pid, 9)
        eventually(lambda: not made.alive, "the kill is noticed")
        with pytest.raises(GuardUnavailable, match="nothing is held"):
            made.hold(1.0)
        assert made.release() is None


def test_two_guards_of_one_plug_exclude_each_other(netns: Netns) -> None:
    """PlugBusy for the second, with the first one's pid, until the first has released."""
    with guarded(netns) as first, guarded(netns) as second:
        first.hold(None)
        with pytest.raises(PlugBusy) as caught:
            second.hold(None)
        assert caught.value.pid == os.getpid()
        first.release()
        second.hold(None)


def test_numbers_are_not_used_twice(netns: Netns) -> None:
    """Each hold has a number of its own, never 0, and after the last one they begin again."""
    with guarded(netns) as made:
        assert [made.new_number() for _ in range(3)] == [1, 2, 3]
        made._numbers = itertools.count(0xFF_FFFF)
        assert [made.new_number() for _ in range(2)] == [0xFF_FFFF, 1]


def test_threads_may_share_a_guard(netns: Netns) -> None:
    """Questions and answers of several threads do not get mixed up."""
    wrong = []
    with guarded(netns) as made:

        def ask() -> None:
            for _ in range(100):
                answer = made.release(made.new_number())
                if answer is None or not answer.expired:
                    wrong.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_forked_child_cannot_start_one(netns: Netns) -> None:
    """The route socket is the parent's: ForkedError."""
    route = RouteSocket(netns)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            Guard(route, "nothing", MARKS, RELEASES, DROPS)
        except ForkedError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    route.close()


def test_a_namespace_of_its_own_is_needed_only_by_the_guard(netns: Netns) -> None:
    """The guard is in the namespace of the socket; the thread that starts it stays where it is."""

    def here() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    before = here()
    with guarded(netns) as made:
        assert os.stat(f"/proc/{made.pid}/ns/net").st_ino == os.fstat(netns.fileno()).st_ino
        assert here() == before
