# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard's program, spoken to as a holder speaks to it: what it answers, when it ends, and what confuses it not.

The kernel needs no sch_plug here: the guard's requests are refused, and what it does then is what is looked at.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libnlplug import GuardUnavailable, NotPermitted
from libnlplug.guard import client as guard
from libnlplug.guard import holders
from libnlplug.guard.client import Guard
from libnlplug.guard.holders import end_detached_guard, holder_of, mark_name
from libnlplug.guard.start import listening, send_config, start
from libnlplug.netlink.libnl import ffi, lib
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.guard import MARKS, MESSAGES, PLACES
from tests.support.hold import (
    NOBODY,
    Child,
    child,
    named_with_half_a_character,
    needs_root,
    process_status,
    refuse_by_seccomp,
)
from tests.support.netlab import Netns, eventually, in_child, unable, unprivileged

HOLD, RELEASE, END = lib.GUARD_HOLD, lib.GUARD_RELEASE, lib.GUARD_END
NOT_ON, RELEASED, EXPIRED = lib.GUARD_NOT_ON, lib.GUARD_RELEASED, lib.GUARD_EXPIRED
MINUTE = 60_000_000_000


def configuration(messages: list[bytes] = MESSAGES, version: int = lib.GUARD_VERSION) -> bytes:
    return struct.pack("=I", version) + guard.configuration(PLACES, dict(enumerate(messages)), 0)[4:]


class Talk:
    """A guard's program, started with a configuration, and the other end of its conversation."""

    def __init__(self, netns: Netns | None, config: bytes | None = None) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(5)
        self._is_ready = False
        run = netns.run if netns else lambda call, *args: call(*args)
        with theirs, closing(run(listening)) as route:
            config = configuration() if config is None else config
            if len(config) > 16:  # its port's place
                config = config[:12] + struct.pack("=I", route.getsockname()[0]) + config[16:]
            send_config(self.socket, config, route.fileno())
            self.pid = run(start, guard.PATH, theirs.fileno())

    def say(
        self, what: int, hold: int = 0, *, timeout: int = 0, detached: int = 0, drop: int = 0, limit: int = 0
    ) -> None:
        words = ffi.new("struct guard_question *", [what, drop, detached, 0, hold, timeout, limit])
        self.socket.send(ffi.buffer(words)[:])

    def answer(self):
        """The answer, and the errors of plugs."""
        received = self.socket.recv(9999)
        assert received, "the guard has ended"
        answer = ffi.new("struct guard_answer *")
        size = ffi.sizeof("struct guard_answer")
        ffi.buffer(answer)[:] = received[:size]
        errors = [code for (code,) in struct.iter_unpack("=i", received[size:])]
        assert len(errors) == (len(PLACES) if self._is_ready else 0)
        self._is_ready = True
        failures = [(plug, code) for plug, code in enumerate(errors) if code and answer.step == lib.GUARD_PLUG]
        return answer, failures

    def hold(self, hold: int, **how: int) -> tuple[int, int]:
        """error and plug."""
        self.say(HOLD, hold, **how)
        answer, _ = self.answer()
        assert answer.id == hold
        return answer.error, answer.plug

    def release(self, hold: int) -> tuple[int, int]:
        """error and outcome."""
        self.say(RELEASE, hold)
        answer, failures = self.answer()
        assert answer.id == hold
        assert failures == ([(0, answer.error), (1, answer.error)] if answer.error else [])
        return answer.error, answer.outcome

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
    assert made.answer()[0].error == 0
    yield made
    made.socket.close()
    eventually(made.is_over, "the guard ends", 2.0)


def marks(netns: Netns) -> list[str]:
    lines = netns.run(Path("/proc/thread-self/net/unix").read_text)
    return sorted(line.split("@")[-1] for line in lines.splitlines() if "@libnlplug-hold/" in line)


def test_ready_means_that_nothing_is_marked(talk: Talk, netns: Netns) -> None:
    """The answer to the configuration is 0; nothing is marked yet."""
    assert marks(netns) == []


@pytest.mark.parametrize(
    "raw", [b"x", b"x" * 15, b"\xff" * 64, b"\0" * 5000, struct.pack("=IIII", lib.GUARD_VERSION, 0, 0, 0) + bytes(320)]
)
def test_nonsense_is_refused(netns: Netns, raw: bytes) -> None:
    """A configuration of another length than it says, or without a plug: an error, and the end."""
    made = Talk(netns, raw)
    answer, _ = made.answer()
    assert (answer.error, answer.step) == (errno.EPROTO, lib.GUARD_CONFIG)
    made.expect_end()


@settings(max_examples=30)
@given(length=st.integers(0, 2**32 - 1).filter(lambda length: not 32 <= length <= 64), which=st.integers(0, 4))
def test_messages_of_a_senseless_length_are_refused(netns: Netns, length: int, which: int) -> None:
    """A message that is shorter than one about a qdisc, or longer than its room: EPROTO, and the end."""
    messages = list(MESSAGES)
    messages[which] = struct.pack("=I", length) + messages[which][4:]
    made = Talk(netns, configuration(messages))
    assert made.answer()[0].error == errno.EPROTO
    made.expect_end()
    made.socket.close()


@pytest.mark.parametrize("version", [0, 1, lib.GUARD_VERSION - 1, lib.GUARD_VERSION + 1])
def test_another_version_is_refused(netns: Netns, version: int) -> None:
    """The guard answers a holder of another version with an error, and ends."""
    made = Talk(netns, configuration(version=version))
    answer, _ = made.answer()
    assert (answer.error, answer.step) == (errno.EPROTO, lib.GUARD_CONFIG)
    made.expect_end()


@pytest.mark.parametrize("size", [16, 60, 500])
def test_a_guard_of_another_version_is_refused(
    netns: Netns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    """An upgrade has put another guard under a running process: the error says to restart it, however that guard's
    answers look after their first 16 bytes."""
    answer = struct.pack("=QiI", 0, errno.EPROTO, lib.GUARD_CONFIG).ljust(size, b"\7")
    program = tmp_path / "guard"
    program.write_text(f"#!{sys.executable} -S\nimport os\nos.read(0, 99999)\nos.write(0, {answer!r})\n")
    program.chmod(0o755)
    monkeypatch.setattr(guard, "PATH", str(program))
    sk = RouteSocket(netns)
    with pytest.raises(GuardUnavailable, match="was upgraded .* restart the process") as caught:
        Guard(sk, "nothing", PLACES[:1], dict(enumerate(MESSAGES)))
    assert caught.value.errno == errno.EPROTO
    sk.close()


def test_a_compiled_module_of_another_version_is_refused() -> None:
    """An upgrade has put another client.py under a process that has loaded the old compiled module: it says so."""
    source = Path(guard.__file__).read_text().replace("lib.GUARD_VERSION != ", "lib.GUARD_VERSION + 1 != ")
    with pytest.raises(ImportError, match="restart the process"):
        exec(source, {name: getattr(guard, name) for name in ("__name__", "__package__", "__file__")})


def test_without_the_right_it_is_refused(netns: Netns) -> None:
    """Whoever may not change qdiscs is told EPERM, and nothing is held."""

    refused = configuration([MESSAGES[1], *MESSAGES[1:]])

    def work() -> Talk:
        with unprivileged():
            return Talk(None, refused)

    made = netns.run(work)
    assert made.answer()[0].error == 0
    made.say(HOLD, 1)
    answer, failures = made.answer()
    assert (answer.error, answer.step) == (errno.EPERM, lib.GUARD_PLUG)
    assert failures == [(0, errno.EPERM), (1, errno.EPERM)]
    assert made.release(1)[1] == NOT_ON
    assert marks(netns) == []
    made.socket.close()


def test_a_right_that_is_missing_is_named(netns: Netns) -> None:
    """hold() without CAP_NET_ADMIN is NotPermitted, and the message names the capability."""

    def work() -> None:
        sk = RouteSocket()
        with unprivileged(), pytest.raises(NotPermitted, match="CAP_NET_ADMIN is missing"):
            Guard(sk, "nothing", PLACES, dict(enumerate([MESSAGES[1], *MESSAGES[1:]]))).hold(sk, 1, None)
        sk.close()

    netns.run(work)
    eventually(lambda: marks(netns) == [], "nothing is marked")


def test_without_a_configuration_it_ends(netns: Netns) -> None:
    """A guard that finds no configuration ends without a word."""
    Talk(netns, b"").expect_end()


def test_a_hold_marks_every_plug(talk: Talk, netns: Netns) -> None:
    """The marks come with the hold and go with the release, whose error is the kernel's."""
    assert talk.hold(1) == (0, 0)
    assert marks(netns) == sorted(MARKS)
    assert talk.release(1) == (errno.ENOENT, RELEASED)
    assert marks(netns) == []


def test_a_buffer_that_is_refused_leaves_nothing(netns: Netns) -> None:
    """The errors of all plugs are told, nothing is marked, and the next hold is not refused as one too many."""
    made = Talk(netns, configuration([MESSAGES[1], *MESSAGES[1:]]))
    made.answer()
    for hold in (1, 2):
        made.say(HOLD, hold)
        answer, failures = made.answer()
        assert (answer.error, answer.step) == (errno.ENOENT, lib.GUARD_PLUG)
        assert failures == [(0, errno.ENOENT), (1, errno.ENOENT)]
        assert made.release(hold)[1] == NOT_ON
        assert marks(netns) == []
    made.socket.close()


@pytest.mark.parametrize("how", [{"hold": 0}, {"hold": 1, "timeout": -1}, {"hold": 1, "detached": 1}])
def test_a_senseless_hold_is_refused(talk: Talk, how: dict[str, int]) -> None:
    """Without an id, with a timeout below 0, or without anything that would ever end it: EINVAL."""
    assert talk.hold(**how)[0] == errno.EINVAL


def test_a_second_hold_is_refused(talk: Talk) -> None:
    """EBUSY; the first one goes on."""
    assert talk.hold(1) == (0, 0)
    assert talk.hold(2)[0] == errno.EBUSY
    assert talk.release(2)[1] == NOT_ON
    assert talk.release(1) == (errno.ENOENT, RELEASED)


def test_a_release_ends_only_its_own_hold(talk: Talk, netns: Netns) -> None:
    """The id of an earlier hold, or of none, ends nothing; who asks again is told the same."""
    assert talk.release(1) == (0, NOT_ON)
    assert talk.hold(2) == (0, 0)
    for other in (0, 1, 3):
        assert talk.release(other) == (0, NOT_ON)
    assert marks(netns) == sorted(MARKS)
    for _ in range(2):
        assert talk.release(2) == (errno.ENOENT, RELEASED)


def test_a_taken_mark_is_named_and_none_is_kept(talk: Talk, netns: Netns) -> None:
    """EADDRINUSE and which of the marks it was; the others are given back."""
    with netns.run(socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(f"\0{MARKS[1]}")
        assert talk.hold(1) == (errno.EADDRINUSE, 1)
        assert marks(netns) == [MARKS[1]]
    assert talk.hold(2) == (0, 0)
    assert talk.release(2)[1] == RELEASED


def test_an_expiry_is_told_with_what_came_of_it(talk: Talk, netns: Netns) -> None:
    """After the time is up the marks are gone; the release is then told that it expired, and the kernel's error."""
    assert talk.hold(5, timeout=20_000_000) == (0, 0)
    eventually(lambda: marks(netns) == [], "the time is up", 2.0)
    assert talk.release(5) == (errno.ENOENT, EXPIRED)
    assert talk.hold(6) == (0, 0)
    assert talk.release(5) == (0, NOT_ON)
    assert talk.release(6) == (errno.ENOENT, RELEASED)


def test_a_release_after_the_time_is_an_expiry(talk: Talk) -> None:
    """A guard that was stopped past the timeout, and asked to release meanwhile, says that the time was not kept."""
    assert talk.hold(5, timeout=50_000_000) == (0, 0)
    os.kill(talk.pid, signal.SIGSTOP)
    time.sleep(0.1)
    talk.say(RELEASE, 5)
    os.kill(talk.pid, signal.SIGCONT)
    assert talk.answer()[0].outcome == EXPIRED


def test_who_connects_to_a_mark_is_told_the_holder(talk: Talk, netns: Netns) -> None:
    """holder_of() knows pid, guard, timeout, since and limit from the guard's answer."""
    before = time.time()
    assert talk.hold(1, timeout=MINUTE, limit=77) == (0, 0)
    sk = RouteSocket(netns)
    for mark in MARKS:
        found = holder_of(sk, mark)
        assert found is not None
        assert (found.pid, found.guard, found.timeout, found.limit) == (os.getpid(), talk.pid, 60.0, 77)
        assert before - 0.1 <= found.since <= time.time()
        assert not found.foreign
        assert not found.detached
    assert holder_of(sk, mark_name(1, 1)) is None
    sk.close()


def test_a_stopped_guard_says_nothing_and_its_holder_is_known(talk: Talk, netns: Netns) -> None:
    """What the guard cannot tell, /proc tells of its pidfd: the refusal still names the holder's pid."""
    assert talk.hold(1) == (0, 0)
    os.kill(talk.pid, signal.SIGSTOP)
    sk = RouteSocket(netns)
    try:
        found = holder_of(sk, MARKS[0])
        assert (found.pid, found.guard, found.foreign) == (os.getpid(), talk.pid, False)
    finally:
        os.kill(talk.pid, signal.SIGCONT)
        sk.close()


def test_root_checks_a_guard_whose_holders_name_is_cut(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of another user's process may be no UTF-8: root still sees whether its guard is one."""
    needs_root()

    def work(this: Child) -> None:
        named_with_half_a_character()
        os.setresuid(NOBODY, NOBODY, NOBODY)
        this.say(os.getpid())
        signal.pause()

    with child(work) as holder:
        pid = holder.hear()
        monkeypatch.setattr(holders, "_watched_by", lambda guard: pid)
        assert holders._is_guard_of(NOBODY, talk.pid)
        assert not holders._is_guard_of(NOBODY + 1, talk.pid)


def test_a_detached_hold_goes_on_alone(talk: Talk, netns: Netns) -> None:
    """The end of the conversation means nothing to it; its time does."""
    assert talk.hold(1, detached=1, timeout=300_000_000) == (0, 0)
    talk.socket.close()
    time.sleep(0.1)
    assert marks(netns) == sorted(MARKS)
    eventually(talk.is_over, "it ends at its time", 2.0)
    assert marks(netns) == []


@pytest.mark.parametrize("alone", [True, False])
def test_a_detached_guard_can_be_told_to_end(talk: Talk, netns: Netns, alone: bool) -> None:
    """SIGTERM ends it, whether or not the conversation goes on; a guard of a living holder does not hear it."""
    os.kill(talk.pid, signal.SIGTERM)
    assert talk.hold(1, detached=1, timeout=MINUTE) == (0, 0)
    if alone:
        talk.socket.close()
    os.kill(talk.pid, signal.SIGTERM)
    eventually(talk.is_over, "the guard ends", 2.0)
    assert marks(netns) == []


@pytest.mark.parametrize("detached", [0, 1])
def test_a_visitor_may_end_a_detached_hold(talk: Talk, netns: Netns, detached: int) -> None:
    """Who asks at the mark for the end of a detached hold is heard; no other hold ends by that."""
    assert talk.hold(1, detached=detached, timeout=MINUTE) == (0, 0)
    sk = RouteSocket(netns)
    assert end_detached_guard(sk, MARKS[1]) is bool(detached)
    sk.close()
    eventually(lambda: marks(netns) == ([] if detached else sorted(MARKS)), "the visitor has gone, the marks stay")


def test_a_visitor_without_the_right_ends_nothing(talk: Talk, netns: Netns) -> None:
    """Who asks who holds, and another user who asks for the end, are told the holder; the detached hold goes on."""
    needs_root()
    assert talk.hold(1, detached=1, timeout=MINUTE) == (0, 0)

    def visit() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as visitor:
            visitor.bind("\0libnlplug-end/nobody")
            visitor.connect("\0" + MARKS[0])
            assert visitor.recv(64)
            assert visitor.recv(64) == b""

    netns.run(in_child, visit)
    sk = RouteSocket(netns)
    assert holder_of(sk, MARKS[0]) is not None
    assert marks(netns) == sorted(MARKS)
    assert end_detached_guard(sk, MARKS[0])
    sk.close()


def test_a_guard_that_stands_still_before_it_waits_ends_a_detached_hold_at_once(talk: Talk, netns: Netns) -> None:
    """Its time ends while the guard cannot run, here in its answer: the guard does not wait for what was left."""
    argv = ["strace", "-qq", "-o", os.devnull, "-e", "inject=sendmsg:delay_enter=1500000:when=1", "-p", str(talk.pid)]
    try:
        tracer = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        unable("strace is not installed")
    try:
        eventually(lambda: process_status(talk.pid)["TracerPid"] != "0", "it is traced")
        talk.say(HOLD, 1, detached=1, timeout=1_200_000_000)
        assert talk.answer()[0].error == 0
        eventually(lambda: marks(netns) == [], "the hold has ended", 0.6)
    finally:
        tracer.terminate()
        tracer.wait()


def test_a_guard_that_may_not_read_answers_says_so(netns: Netns) -> None:
    """A filter that refuses recvmmsg: the hold fails with its errno, and the guard goes on to hear its holder."""

    def work(this: Child) -> None:
        refuse_by_seccomp("recvmmsg", errno.ENOSYS)
        made = Talk(netns)
        assert made.answer()[0].error == 0
        made.say(HOLD, 1)
        answer, failures = made.answer()
        made.say(END)
        made.expect_end()
        this.say([answer.step, failures])

    with child(work) as holder:
        assert holder.hear() == [lib.GUARD_PLUG, [[0, errno.ENOSYS], [1, errno.ENOSYS]]]


@pytest.mark.parametrize("goodbye", [True, False])
def test_it_ends_with_the_conversation(talk: Talk, netns: Netns, goodbye: bool) -> None:
    """END, or the closed socket: the marks go and the process ends, in a hold too."""
    assert talk.hold(1) == (0, 0)
    if goodbye:
        talk.say(END)
        talk.expect_end()
    else:
        talk.socket.close()
        eventually(talk.is_over, "it ends", 2.0)
    assert marks(netns) == []


@pytest.mark.parametrize("words", [b"release", b"x" * 40, b"x" * 99])
def test_a_datagram_that_is_no_question_ends_it(talk: Talk, words: bytes) -> None:
    """Who speaks another language is no holder of ours."""
    talk.socket.send(words)
    talk.expect_end()
