# SPDX-License-Identifier: GPL-2.0-or-later
"""The holder's side of the guard: whether it is alive, what ends it, and what does not disturb it.

The kernel needs no sch_plug here: the guard's requests are refused.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from libnlplug import ForkedError, GuardUnavailable, PlugBusy
from libnlplug.guard import client as guard
from libnlplug.guard.client import Guard
from libnlplug.guard.holders import holder_of
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.guard import MARKS, MESSAGES, PLACES
from tests.support.hold import Child, child
from tests.support.netlab import Netns, eventually, setns


@contextmanager
def guarded(netns: Netns):
    """A Guard of a qdisc that is not there."""
    sk = RouteSocket(netns)
    made = Guard(sk, "nothing", PLACES[:1], dict(enumerate(MESSAGES)))
    try:
        yield made, sk
    finally:
        made.end()
        sk.close()


def test_it_is_alive_until_it_ends(netns: Netns) -> None:
    """alive is the truth of the moment, also where the process was killed; end() may be called again."""
    with guarded(netns) as (first, _), guarded(netns) as (second, _):
        assert first.alive
        os.kill(first.pid, 9)
        eventually(lambda: not first.alive, "the kill is noticed")
        second.end()
        assert not second.alive
        second.end()


def test_a_guard_that_has_gone_does_not_hold(netns: Netns) -> None:
    """GuardUnavailable, and a release that nobody can do is answered with None."""
    with guarded(netns) as (made, sk):
        os.kill(made.pid, 9)
        eventually(lambda: not made.alive, "the kill is noticed")
        with pytest.raises(GuardUnavailable, match="its guard is gone"):
            made.hold(sk, 1, 1.0)
        assert made.release(1) is None


def test_the_programs_default_timeout_is_not_the_guards(netns: Netns) -> None:
    """socket.setdefaulttimeout() makes new sockets non-blocking: a hold still waits for the guard's answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        with guarded(netns) as (made, sk):
            for hold in range(1, 20):
                made.hold(sk, hold, None)
                assert holder_of(sk, MARKS[0]) is not None
                assert made.release(hold) is not None
    finally:
        socket.setdefaulttimeout(before)


def test_two_guards_of_one_plug_exclude_each_other(netns: Netns) -> None:
    """PlugBusy for the second, with the first one's pid, until the first has released."""
    with guarded(netns) as (first, sk), guarded(netns) as (second, _):
        first.hold(sk, 1, None)
        with pytest.raises(PlugBusy) as caught:
            second.hold(sk, 1, None)
        assert caught.value.pid == os.getpid()
        first.release(1)
        second.hold(sk, 2, None)


def test_ids_are_not_used_twice(netns: Netns) -> None:
    """Each hold has an id of its own, never 0."""
    with guarded(netns) as (made, _):
        assert [made.new_id() for _ in range(3)] == [1, 2, 3]


def test_threads_may_share_a_guard(netns: Netns) -> None:
    """Questions and answers of several threads do not get mixed up."""
    wrong = []
    with guarded(netns) as (made, _):

        def ask() -> None:
            for _ in range(100):
                answer = made.release(made.new_id())
                if answer is None or answer.was_on:
                    wrong.append(answer)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_forked_child_cannot_start_one(netns: Netns) -> None:
    """The netlink socket is the parent's: ForkedError."""
    sk = RouteSocket(netns)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            Guard(sk, "nothing", PLACES, dict(enumerate(MESSAGES)))
        except ForkedError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sk.close()


def test_a_namespace_of_its_own_is_needed_only_by_the_guard(netns: Netns) -> None:
    """The guard is in the namespace of the socket; the thread that starts it stays where it is."""

    def here() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    before = here()
    with guarded(netns) as (made, _):
        assert os.stat(f"/proc/{made.pid}/ns/net").st_ino == os.fstat(netns.fileno()).st_ino
        assert here() == before


# -- signals that come all the time


def tick(netns: Netns) -> None:
    """Work in the namespace. From now on ten signals a second come, whose handler does nothing."""
    setns(netns.fileno())
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)


@pytest.mark.parametrize("ask", ["release", "end"])
def test_signals_do_not_prolong_the_wait_for_a_stopped_guard(
    netns: Netns, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """Each signal makes the kernel count the socket's timeout anew: the holder gives up all the same."""
    monkeypatch.setattr(guard, "ANSWER_TIMEOUT", 1)

    def work(this: Child) -> None:
        tick(netns)
        made = Guard(RouteSocket(), "nothing", PLACES, dict(enumerate(MESSAGES)))
        os.kill(made.pid, signal.SIGSTOP)
        this.say(made.pid)
        this.say(bool(made.release(1) if ask == "release" else made.end()))

    with child(work) as holder:
        pid = holder.hear()
        try:
            assert holder.hear() is False
        finally:
            os.kill(pid, signal.SIGCONT)


def test_signals_do_not_prolong_the_wait_for_a_guard_that_does_not_start(
    netns: Netns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error says that it did not start in time."""
    program = tmp_path / "guard"
    program.write_text("#!/bin/sh\nexec sleep 6\n")
    program.chmod(0o755)
    monkeypatch.setattr(guard, "PATH", str(program))
    monkeypatch.setattr(guard, "ANSWER_TIMEOUT", 1)

    def work(this: Child) -> None:
        tick(netns)
        with pytest.raises(GuardUnavailable) as caught:
            Guard(RouteSocket(), "nothing", PLACES, dict(enumerate(MESSAGES)))
        this.say(str(caught.value))

    with child(work) as holder:
        assert "did not start within 1 s" in holder.hear()


def test_signals_do_not_prolong_the_wait_for_a_squatter(netns: Netns) -> None:
    """Somebody has a mark and answers nobody: a visitor gives up."""

    def work(this: Child) -> None:
        tick(netns)
        found = holder_of(RouteSocket(), MARKS[0])
        this.say(found is not None and found.foreign)

    with netns.run(socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(f"\0{MARKS[0]}")
        other.listen()
        with child(work) as visitor:
            assert visitor.hear() is True
