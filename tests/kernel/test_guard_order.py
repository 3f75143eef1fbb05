# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard's steps: their order, and what becomes of a hold when guard or holder is struck between any two of them."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from libnlplug import GuardUnavailable, HoldExpired, NetlinkError, PlugQdisc
from libnlplug.hold import PacketsUncounted
from tests.support.hold import (
    Child,
    child,
    expect_ended,
    expect_flow,
    expect_held,
    marks,
)
from tests.support.netlab import Wire, eventually, unable

PIDFD_GETFD = 438  # on every architecture


class Strace:
    """strace on a process, from now until the end of the block; ``lines`` is what it has seen by then."""

    def __init__(self, pid: int, path, *options: str) -> None:
        self._output = path / f"strace-{pid}"
        argv = ["strace", "-o", str(self._output), *options, "-p", str(pid)]
        try:
            self._process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            unable("strace is not installed")
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        if "attached" not in said:
            self._process.communicate(timeout=10)
            unable(f"strace may not trace here: {said}")

    def __enter__(self) -> Strace:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)

    @property
    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()


# -- the order


def test_the_mark_goes_after_the_release(wire: Wire, plug: PlugQdisc, tmp_path) -> None:
    """As long as the release is not sent, nobody else can begin a hold, which it would end; then comes the answer."""
    with Strace(plug.guard().pid, tmp_path, "-e", "trace=sendto,sendmsg,close,bind") as trace:
        with plug.hold():
            pass
        eventually(lambda: trace.lines[-1].startswith("sendmsg(0,"), "the guard has answered")
    steps = ["answer" if line.startswith("sendmsg(0,") else line.partition("(")[0] for line in trace.lines]
    steps = steps[steps.index("answer") + 1 :]
    release = len(steps) - 1 - steps[::-1].index("sendto")
    assert steps[release + 1 :] == ["close", "answer"], trace.lines


# -- the end of the conversation


@pytest.mark.parametrize("on_death", ["release", "drop"])
def test_a_holder_that_dies_while_it_leaves_has_left(wire: Wire, plug: PlugQdisc, on_death: str) -> None:
    """It has asked for the release, and is killed before the guard has heard that: released, also with drop."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        with mine.hold(on_death=on_death):  # type: ignore[arg-type]
            this.say(mine.guard().pid)
            while not told:
                time.sleep(0.01)

    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: told.append(number))
    try:
        with child(work) as holder:
            pid = holder.hear()
            numbers = expect_held(wire, plug)
            os.kill(pid, signal.SIGSTOP)
            holder.kill(signal.SIGUSR1)
            waiting = "unix_stream_read_generic", "skb_wait_for_more_packets", "__skb_wait_for_more_packets"
            eventually(lambda: _queued(pid), f"it has asked, and waits in one of {waiting}")
            holder.kill()
            assert holder.status() == -signal.SIGKILL
            os.kill(pid, signal.SIGCONT)
            expect_flow(wire, numbers)
            expect_ended(pid)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert (wire.near.kinds(wire.device), marks(wire.near)) == (["plug"], [])


def _descriptor_of(pid: int, fd: int) -> int:
    """A copy of another process's descriptor."""
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if copy < 0:
        unable(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return copy


def _netlink_socket_of(pid: int) -> socket.socket:
    """A copy of its netlink socket."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            copy = socket.socket(fileno=_descriptor_of(pid, int(name)))
            if copy.family == socket.AF_NETLINK:
                return copy
            copy.close()
    raise AssertionError("the guard has no netlink socket")


def _queued(pid: int) -> bool:
    """Whether a question waits for this guard."""
    with socket.socket(fileno=_descriptor_of(pid, 0)) as commands:
        try:
            return bool(commands.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False


# -- a release that fails for a passing reason


def test_a_release_that_fails_for_a_passing_reason_is_sent_again(wire: Wire, plug: PlugQdisc) -> None:
    """ENOBUFS on the guard's netlink socket: the answer to its release is lost, and it tries again."""
    with pytest.warns(PacketsUncounted, match="than the guard could follow"), plug.hold() as held:
        numbers = expect_held(wire, plug)
        pid = plug.guard().pid
        os.kill(pid, signal.SIGSTOP)  # or it would read what is to fill its queue
        with _netlink_socket_of(pid) as route:
            route.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            question = bytes([20, 0, 0, 0, 0x12, 0, 5, 0]) + b"\xff" * 4 + bytes(8)  # RTM_GETLINK that asks for an ACK
            for _ in range(50):
                route.send(question)
        threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
    assert not held.expired
    expect_flow(wire, numbers)
    assert marks(wire.near) == []


def test_a_release_that_goes_on_failing_is_told_and_tried_on(wire: Wire, plug: PlugQdisc, tmp_path) -> None:
    """Leaving raises the error after a second; the guard goes on, and the traffic flows when the reason has passed."""
    pid = plug.guard().pid
    hold = plug.hold()
    hold.__enter__()
    numbers = expect_held(wire, plug)
    with Strace(pid, tmp_path, "-e", "trace=sendto", "-e", "inject=sendto:error=ENOBUFS"):
        with pytest.raises(NetlinkError, match="cannot release") as caught:
            hold.__exit__(None, None, None)
        assert caught.value.errno == errno.ENOBUFS
        numbers += expect_held(wire, plug)
    expect_flow(wire, numbers)
    eventually(lambda: marks(wire.near) == [], "the mark goes")


def test_a_release_that_begins_in_time_and_ends_late_is_late(wire: Wire, plug: PlugQdisc, tmp_path) -> None:
    """It fails for a passing reason until the timeout is over: leaving raises HoldExpired."""
    with plug.hold():
        pass
    with Strace(plug.guard().pid, tmp_path, "-e", "trace=sendto", "-e", "inject=sendto:error=ENOBUFS:when=2..90"):
        began = time.monotonic()
        hold = plug.hold(timeout=0.5)
        hold.__enter__()  # the first send
        asked = time.monotonic()
        with pytest.raises(HoldExpired):
            hold.__exit__(None, None, None)
    assert asked - began < 0.5 < time.monotonic() - began
    expect_flow(wire, [])


# -- struck between any two steps


GUARD_STEPS = [
    *(("recvfrom", nth) for nth in (1, 2)),
    *(("recvmmsg", nth) for nth in range(1, 5)),
    *(("sendto", nth) for nth in range(1, 4)),
    *(("sendmsg", nth) for nth in (1, 2)),
    *((name, 1) for name in ("socket", "bind", "listen", "close")),
    *(("ppoll", nth) for nth in (1, 2)),
]


@pytest.mark.parametrize(("call", "nth"), GUARD_STEPS)
def test_a_guard_that_is_killed_at_any_step_is_missed(
    wire: Wire, plug: PlugQdisc, tmp_path, call: str, nth: int
) -> None:
    """SIGKILL with each of its system calls: the holder is told when it leaves, at the latest, and traffic flows."""
    pid = plug.guard().pid
    with Strace(pid, tmp_path, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={nth}") as trace:
        try:
            with plug.hold(timeout=30):
                pass
            survived = True
        except GuardUnavailable:
            survived = False
        eventually(lambda: _times(trace, call) >= nth, "there is such a step")
    expect_flow(wire, [])
    assert marks(wire.near) == []
    if survived:  # it was killed, if at all, when nothing was on
        assert plug.holder() is None
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


@pytest.mark.parametrize(("call", "nth"), GUARD_STEPS)
def test_a_guard_that_is_stopped_at_any_step_goes_on_right(
    wire: Wire, plug: PlugQdisc, tmp_path, call: str, nth: int
) -> None:
    """Stopped for longer than the timeout: leaving raises HoldExpired, or the hold was over; traffic flows."""
    pid, over = plug.guard().pid, threading.Event()
    waker = threading.Thread(target=_wake, args=(pid, over))
    with Strace(pid, tmp_path, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGSTOP:when={nth}") as trace:
        waker.start()
        try:
            with plug.hold(timeout=0.0001) as held:
                pass
        except HoldExpired:
            assert held.expired
        over.set()
        waker.join()
        eventually(lambda: _times(trace, call) >= nth, "there is such a step")
    os.kill(pid, signal.SIGCONT)
    expect_flow(wire, [])
    eventually(lambda: marks(wire.near) == [], "the mark goes")
    assert plug.stats().qlen == 0


def _times(trace: Strace, call: str) -> int:
    """How often the guard has made this system call."""
    return sum(line.startswith(f"{call}(") for line in trace.lines)


def _wake(pid: int, over: threading.Event) -> None:
    """Let it go on 10 ms after each stop."""
    while not over.wait(0.002):
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] in "Tt":
                over.wait(0.01)
                os.kill(pid, signal.SIGCONT)
