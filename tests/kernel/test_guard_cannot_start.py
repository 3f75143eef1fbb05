# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guard cannot be made, nothing is held, the caller is told why, and nothing is left behind."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

import libnlplug
from libnlplug import GuardUnavailable, NotPermitted, PlugBusy, PlugQdisc
from libnlplug.command import main as cli_main
from libnlplug.guard import client as guard
from tests.support.command import Cli
from tests.support.hold import (
    NOBODY,
    Cgroup,
    Child,
    become_nobody,
    child,
    descriptors,
    expect_ended,
    expect_flow,
    expect_held,
    guard_for_everyone,
    holder_of,
    mark_of,
    marks,
    needs_root,
    refuse_by_seccomp,
    wait_until,
)
from tests.support.netlab import Wire, need_guest, setns, unable, unprivileged

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
PR_SET_DUMPABLE = 4


def expect_refusal(wire: Wire, mine: PlugQdisc, error=GuardUnavailable, words: str = "") -> OSError:
    """A hold is refused; nothing was sent to the plug, no descriptor and no mark is left, packets flow."""
    before, last_action = descriptors(), mine.last_action
    with pytest.raises(error, match=f"cannot hold {wire.device}: .*{words}") as caught, mine.hold():
        pytest.fail("entered")
    assert descriptors() == before
    assert mine.last_action == last_action
    assert marks(wire.near) == []
    expect_flow(wire, [])
    return caught.value


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for another program where the guard's is expected."""
    path = tmp_path / "guard"
    monkeypatch.setattr(guard, "PATH", str(path))
    return path


def test_the_program_is_missing(wire: Wire, plug: PlugQdisc, program: Path) -> None:
    """The refusal names the missing file."""
    error = expect_refusal(wire, plug, words=f"No such file or directory; {program} is missing")
    assert error.errno == errno.ENOENT


def test_the_program_may_not_be_run(wire: Wire, plug: PlugQdisc, program: Path) -> None:
    """The refusal says that the file must be executable."""
    shutil.copy(guard.__file__, program)
    error = expect_refusal(wire, plug, words="Permission denied; .* must be executable")
    assert error.errno == errno.EACCES


def test_the_program_is_none(wire: Wire, plug: PlugQdisc, program: Path) -> None:
    """A file that the kernel cannot run is refused with its reason."""
    program.write_text("no program")
    program.chmod(0o755)
    assert expect_refusal(wire, plug).errno == errno.ENOEXEC


@pytest.mark.parametrize("other", ["true", "false"])
def test_the_program_is_another_one(wire: Wire, plug: PlugQdisc, program: Path, other: str) -> None:
    """A program that ends without a word is no guard."""
    shutil.copy(shutil.which(other) or "", program)
    expect_refusal(wire, plug)


def test_the_program_says_nothing(wire: Wire, plug: PlugQdisc, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that neither answers nor ends is given up."""
    program.write_text("#!/bin/sh\nexec sleep 5\n")
    program.chmod(0o755)
    monkeypatch.setattr(guard, "ANSWER_TIMEOUT", 1)
    expect_refusal(wire, plug, words="the guard did not start within 1 s")


def test_a_hold_works_again_afterwards(wire: Wire, plug: PlugQdisc) -> None:
    """A refusal is not remembered: with the program back in place, the same object holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "PATH", "/nonexistent")
        expect_refusal(wire, plug)
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


@pytest.mark.parametrize("free", [0, 1, 2])
def test_out_of_descriptors(wire: Wire, plug: PlugQdisc, free: int) -> None:
    """With so many descriptors left, a hold is refused and leaves as many; with enough it works."""
    before, limits = marks(wire.near), resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 20, limits[1]))
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(free):
            os.close(taken.pop())
        with pytest.raises(OSError) as caught, plug.hold():
            pytest.fail("entered")
        assert caught.value.errno == errno.EMFILE
        for _ in range(free):
            taken.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(OSError):
            os.open("/dev/null", os.O_RDONLY)
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert marks(wire.near) == before
    expect_flow(wire, [])
    with plug.hold():
        numbers = expect_held(wire, plug)
    expect_flow(wire, numbers)


def test_out_of_descriptors_in_a_running_hold(wire: Wire, plug: PlugQdisc) -> None:
    """A holder that uses up its descriptors in the block can still release, and the report is complete."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 40, limits[1]))
        with plug.hold() as held:
            numbers = expect_held(wire, plug)
            while True:
                try:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert held.packets == len(numbers)
    expect_flow(wire, numbers)


def test_no_memory_for_the_guard(wire: Wire, plug: PlugQdisc, program: Path) -> None:
    """Wherever in its start a guard runs out of memory, it is refused; with enough, it is a guard like any other."""
    real = os.path.join(os.path.dirname(guard.__file__), "libnlplug-guard")
    outcomes = []
    for kilobytes in range(64, 4096, 64):
        program.write_text(f"#!/bin/sh\nulimit -v {kilobytes}\nexec {real}\n")
        program.chmod(0o755)
        try:
            with plug.hold():
                numbers = expect_held(wire, plug)
            expect_flow(wire, numbers)
            outcomes.append("held")
            break
        except GuardUnavailable as error:
            outcomes.append(str(error))
            assert plug.last_action == "release_indefinite"
            assert marks(wire.near) == []
            expect_flow(wire, [])
    assert outcomes[-1] == "held"
    assert len(outcomes) > 2
    assert "it ended at once" in outcomes[0]


def test_no_memory_to_start_it(wire: Wire, plug: PlugQdisc) -> None:
    """Without memory for the start itself (RLIMIT_AS), a hold is refused, and no descriptor is lost."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        mine = PlugQdisc.open(wire.device)
        before = descriptors()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        hold = mine.hold()
        resource.setrlimit(resource.RLIMIT_AS, (0, limits[1]))
        try:
            hold.__enter__()
            refused = None
        except GuardUnavailable as error:
            refused = error.errno
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        this.say([refused, mine.last_action, descriptors() == before])

    with child(work) as holder:
        assert holder.hear() == [errno.ENOMEM, None, True]
    expect_flow(wire, [])


@pytest.fixture
def cgroup():
    """A cgroup in which the number of processes can be limited."""
    needs_root()
    try:
        made = Cgroup("pids")
    except OSError as error:
        unable(f"no cgroup with the pids controller: {error}")
    yield made.path
    made.close()


def test_fork_is_refused(wire: Wire, plug: PlugQdisc, cgroup: Path) -> None:
    """Where no more processes may be made (pids.max), the refusal names that limit."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        (cgroup / "cgroup.procs").write_text("0")
        setns(wire.near.fileno())
        try:
            mine.hold().__enter__()
            this.say("entered")
        except GuardUnavailable as error:
            this.say([error.errno, str(error), mine.last_action])

    for most in ("1", "2"):  # for the first and the second of the two processes that are made
        (cgroup / "pids.max").write_text(most)
        with child(work) as holder:
            number, words, last_action = holder.hear()
            assert holder.status() == 0
        assert number == errno.EAGAIN
        assert "limit of processes" in words
        assert last_action is None
    expect_flow(wire, [])


def test_no_thread_for_another_namespace(wire: Wire, plug: PlugQdisc, cgroup: Path) -> None:
    """The way into another namespace takes a thread: where none may be made, that is the refusal's reason."""

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        (cgroup / "cgroup.procs").write_text("0")
        try:
            mine.hold().__enter__()
            this.say("entered")
        except OSError as error:
            this.say([error.errno, str(error)])

    (cgroup / "pids.max").write_text("1")
    with child(work) as holder:
        number, words = holder.hear()
        assert holder.status() == 0
    assert number == errno.EAGAIN
    assert "it needs a thread" in words


@pytest.fixture
def for_everyone():
    """The guard's program where any user may run it."""
    with guard_for_everyone():
        yield


def test_a_holder_with_one_right_hands_it_on(wire: Wire, plug: PlugQdisc, for_everyone: None) -> None:
    """A user with CAP_NET_ADMIN and nothing else can hold, and the guard can release when he is killed."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        become_nobody(keep=True)
        with PlugQdisc.open(wire.device).hold(timeout=60):
            this.say("held")
            signal.pause()

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        found = holder_of(plug)
        assert (found.pid, found.uid, found.foreign) == (holder.pid, NOBODY, False)  # which root can see
        with pytest.raises(PlugBusy, match=f"process {holder.pid} of uid {NOBODY} holds it"):
            plug.hold().__enter__()
        holder.kill()
        expect_flow(wire, numbers)


def test_root_ends_what_a_user_has_left_held(wire: Wire, plug: PlugQdisc, for_everyone: None) -> None:
    """A user's detached hold: root's show names its guard and uid, root's release ends it, and root can hold then."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        become_nobody(keep=True)
        PlugQdisc.open(wire.device).hold_detached(60)
        this.say("detached")

    cli = Cli(wire.near)
    with child(work) as user:
        assert user.hear() == "detached"
        assert user.status() == 0
    numbers = expect_held(wire, plug)
    found = holder_of(plug)
    assert (found.detached, found.foreign, found.uid, found.timeout) == (True, False, NOBODY, 60.0)
    assert f"guard pid {found.guard} of uid {NOBODY} since " in cli("show", wire.device).out
    assert cli("release", wire.device) == ("", "")
    expect_flow(wire, numbers)
    expect_ended(found.guard)
    with plug.hold():
        pass


def test_a_holder_that_hides_itself_is_not_taken_for_dead(wire: Wire, plug: PlugQdisc, for_everyone: None) -> None:
    """Where /proc hides what a user may not look into, a holder that becomes such still holds, and is still guarded."""

    def work(this: Child) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        assert libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2") == 0
        setns(wire.near.fileno())
        become_nobody(keep=True)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        with PlugQdisc.open(wire.device).hold(timeout=60):
            libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
            this.say("hidden")
            signal.pause()

    with child(work) as holder:
        assert holder.hear() == "hidden"
        numbers = expect_held(wire, plug)
        wait_until(time.monotonic() + 0.1)  # the guard looks every 10 ms
        assert plug.stats().qlen == len(numbers)
        assert marks(wire.near) == [mark_of(plug)]
        holder.kill()
        expect_flow(wire, numbers)


def test_fork_is_refused_to_a_user(wire: Wire, plug: PlugQdisc, for_everyone: None) -> None:
    """RLIMIT_NPROC, which does not bind root, refuses a user's guard: EAGAIN, nothing held."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        become_nobody(keep=True)
        mine = PlugQdisc.open(wire.device)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        before = descriptors()
        try:
            mine.hold().__enter__()
            this.say("entered")
        except GuardUnavailable as error:
            this.say([error.errno, mine.last_action, descriptors() == before])

    with child(work) as holder:
        assert holder.hear() == [errno.EAGAIN, None, True]
    expect_flow(wire, [])


def test_without_the_right_nothing_is_held(wire: Wire, plug: PlugQdisc, for_everyone: None) -> None:
    """A user without CAP_NET_ADMIN is refused and told what is missing, before anything is sent to the plug."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        become_nobody(keep=False)
        mine = PlugQdisc.open(wire.device)
        try:
            mine.hold().__enter__()
            this.say("entered")
        except NotPermitted as error:
            this.say([str(error), mine.last_action])

    with child(work) as holder:
        words, last_action = holder.hear()
    assert "CAP_NET_ADMIN" in words
    assert last_action is None
    expect_flow(wire, [])


def test_a_right_that_was_given_up_is_missed(wire: Wire, plug: PlugQdisc) -> None:
    """The socket was opened by root, but the rights are gone when the hold begins: refused, nothing is held."""

    def try_it() -> None:
        setns(wire.near.fileno())
        mine = PlugQdisc.open(wire.device)
        before = descriptors()
        words = f"cannot (hold|buffer on) {wire.device}: .*CAP_NET_ADMIN"
        with unprivileged(), pytest.raises(NotPermitted, match=words):
            mine.hold().__enter__()
        assert mine.holder() is None
        assert mine.last_action != "buffer"
        mine.close()
        assert len(descriptors()) == len(before) - 1

    wire.near.run(try_it)
    expect_flow(wire, [])


# -- filters of system calls


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("pidfd_open", errno.EPERM, "pidfd_open: Operation not permitted; a seccomp filter"),
        ("pidfd_open", errno.ENOSYS, "pidfd_open: Function not implemented; .* no seccomp filter that refuses it"),
        ("unix sockets", errno.EPERM, "a unix socket: Operation not permitted; a seccomp filter"),
        ("unix sockets", errno.EAFNOSUPPORT, "must allow AF_NETLINK and AF_UNIX"),
    ],
)
def test_a_filter_of_system_calls_is_named(wire: Wire, what: str, code: int, words: str) -> None:
    """hold says what was refused and by what, not that a right is missing; the plug that it has made is removed."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        refuse_by_seccomp(what, code)
        with redirect_stderr(io.StringIO()) as said:
            status = cli_main(["hold", wire.device, "--", "true"])
        this.say([status, said.getvalue()])

    with child(work) as holder:
        status, said = holder.hear()
    assert status == 125
    assert re.search(words, said), said
    assert "CAP_NET_ADMIN" not in said
    assert wire.near.kinds(wire.device) == ["noqueue"]


def test_many_descriptors_to_close_take_no_time(wire: Wire, plug: PlugQdisc) -> None:
    """A limit of 10^9 open files, and no close_range: the guard closes what is open, not what could be."""
    need_guest("it raises the system's limit of open files")
    limit = Path("/proc/sys/fs/nr_open")
    before = limit.read_text()

    def work(this: Child) -> None:
        mine = PlugQdisc.open(wire.device, netns=wire.near)
        resource.setrlimit(resource.RLIMIT_NOFILE, (10**9, 10**9))
        refuse_by_seccomp("close_range", errno.ENOSYS)
        os.dup2(1, 100_000)
        with mine.hold():
            this.say(mine.guard().pid)
            signal.pause()

    try:
        limit.write_text("1000000000")
        with child(work) as holder:
            assert 100_000 not in descriptors(holder.hear())
            holder.kill()
    finally:
        limit.write_text(before)
    expect_flow(wire, [])


@pytest.mark.parametrize("kilobytes", [36, 48])
def test_a_thread_with_a_small_stack_may_hold(wire: Wire, plug: PlugQdisc, kilobytes: int) -> None:
    """36 KiB are enough for a hold, and for a lane; or the least that Python takes, which is more since 3.14."""
    done: list[str] = []

    def hold() -> None:
        setns(wire.near.fileno())
        with PlugQdisc.open(wire.device).hold():
            pass
        with libnlplug.PlugLane(wire.device, libnlplug.Match(ip_proto="udp"), ingress=True) as lane, lane.hold():
            done.append("held")

    def work(this: Child) -> None:
        for size in (kilobytes, 52):
            try:
                threading.stack_size(size << 10)
                break
            except ValueError:
                continue
        thread = threading.Thread(target=hold)
        thread.start()
        thread.join()
        this.say(done)

    with child(work) as holder:
        assert holder.hear() == ["held"]
