# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the hold stand on: holders that are processes of their own, and what /proc says of guards."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import platform
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from libnlplug import PlugQdisc
from libnlplug.guard import client as guard
from libnlplug.guard.holders import Holder, mark_name
from tests.support.netlab import Netns, Wire, eventually, setns, unable

PATIENCE = 10.0
NOBODY = 65534
CAP_NET_ADMIN = 12
PR_SET_KEEPCAPS = 8


class Child:
    """A forked process that runs ``work(child, ...)``. It says values, the test hears them in their order.

    Its exit status is 0, or what SystemExit says, or 99 where the work raised something else.
    """

    def __init__(self, work, *args) -> None:
        read, self._write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._run(work, args))
        os.close(self._write)
        self._said = os.fdopen(read)
        self._status: int | None = None

    def _run(self, work, args) -> int:
        try:
            faulthandler.disable()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work(self, *args)
        except SystemExit as end:
            return int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            return 99
        return 0

    def say(self, value: object) -> None:
        """In the child: tell the test something."""
        os.write(self._write, json.dumps(value).encode() + b"\n")

    def hear(self) -> object:
        """In the test: what the child says next."""
        if not select.select([self._said], [], [], PATIENCE)[0]:
            pytest.fail("the child says nothing")
        line = self._said.readline()
        if not line:
            pytest.fail(f"the child has ended: {self.status()}")
        return json.loads(line)

    def has_said(self, within: float) -> bool:
        """Whether the child says something in this time; hear() tells what."""
        return bool(select.select([self._said], [], [], within)[0])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def status(self) -> int:
        """Its exit status once it has ended, the negative number of a signal that ended it."""
        if self._status is None:

            def over() -> bool:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
                return bool(pid)

            eventually(over, f"process {self.pid} ends", PATIENCE)
        return self._status

    def close(self) -> None:
        """End it, if it has not ended yet."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._said.close()


@contextmanager
def child(work, *args):
    """A Child that is gone afterwards."""
    made = Child(work, *args)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def holding(wire: Wire, **options):
    """A process that holds the wire's plug until it is ended, with an object of its own."""

    def hold(this: Child) -> None:
        with PlugQdisc.open(wire.device, netns=wire.near).hold(**options):
            this.say("held")
            while True:
                signal.pause()

    with child(hold) as made:
        assert made.hear() == "held"
        yield made


def squatting(wire: Wire, mark: str, *, kind=socket.SOCK_SEQPACKET, uid: int = NOBODY, backlog: int | None = 16):
    """A process of another uid that sits on the mark's name."""
    needs_root()

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        os.setresuid(uid, uid, uid)
        sitting = socket.socket(socket.AF_UNIX, kind)
        sitting.bind("\0" + mark.lstrip("@"))
        if backlog is not None:
            sitting.listen(backlog)
        this.say("sitting")
        time.sleep(60)

    return child(work)


def needs_root() -> None:
    """Skip the test where other users and all rights of root are not to be had, as in a user namespace."""
    with open("/proc/self/uid_map") as uids:
        if os.geteuid() != 0 or uids.read().split() != ["0", "0", str(2**32 - 1)]:
            unable("not the machine's root")


def become_nobody(*, keep: bool) -> None:
    """Another user, with no right but CAP_NET_ADMIN, and that only with ``keep``."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_KEEPCAPS, int(keep), 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if keep:
        words = ctypes.c_uint32 * 2
        sets = (ctypes.c_uint32 * 6)(1 << CAP_NET_ADMIN, 1 << CAP_NET_ADMIN, 0, 0, 0, 0)
        assert libc.capset(words(0x20080522, 0), sets) == 0


@contextmanager
def guard_for_everyone():
    """The guard's program where any user may run it, wherever the package is installed."""
    needs_root()
    before = guard.PATH
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        guard.PATH = shutil.copy(before, place)
        try:
            yield
        finally:
            guard.PATH = before


class Cgroup:
    """A cgroup of its own, with a controller; OSError where there is none."""

    def __init__(self, controller: str) -> None:
        root = Path("/sys/fs/cgroup")
        if controller not in (root / "cgroup.controllers").read_text().split():
            raise OSError(errno.ENOENT, f"no cgroup controller {controller}")
        (root / "cgroup.subtree_control").write_text(f"+{controller}")
        self.path = Path(tempfile.mkdtemp(dir=root, prefix="hold-"))

    def write(self, name: str, value: object) -> None:
        """Set one of its files."""
        (self.path / name).write_text(str(value))

    def close(self) -> None:
        """Remove it, with what still runs in it."""

        def removed() -> bool:
            for pid in (self.path / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.path.rmdir()
            except OSError:
                return False
            return True

        eventually(removed, "the cgroup is empty")


def mark_of(plug: PlugQdisc) -> str:
    """The name of the plug's mark, as /proc/net/unix shows it."""
    return f"@{mark_name(plug._ifindex, plug._parent)}"


def marks(netns: Netns) -> list[str]:
    """The marks of all plugs of the namespace that are being held, or that nobody may hold because their lane is being
    closed. (A connection to one has its name too: it is not unconnected, SS_UNCONNECTED of linux/net.h.)"""
    text = netns.run(Path("/proc/thread-self/net/unix").read_text)
    lines = [line.split() for line in text.splitlines() if "@libnlplug-hold/" in line]
    return [name for *_, state, _, name in lines if int(state, 16) == 1]


def holder_of(plug: PlugQdisc) -> Holder:
    """Who holds the plug; a failure where nobody does."""
    holder = plug.holder()
    assert holder is not None, "nobody holds the plug"
    return holder


def expect_flow(wire: Wire, held: list[int]) -> None:
    """What was held arrives, and what is sent from now on does, all in order."""
    wire.expect(held + wire.send(3))


def expect_held(wire: Wire, plug: PlugQdisc, count: int = 5) -> list[int]:
    """Packets sent now wait in the plug; their numbers."""
    before = plug.stats().qlen
    numbers = wire.send(count)
    assert plug.stats().qlen == before + count
    assert wire.arrived() == []
    return numbers


def expect_ended(pid: int) -> None:
    """The process ends, and whoever is its parent takes note of that."""
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), f"process {pid} ends", 2.0)


def process_status(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as lines:
        return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def descriptors(pid: int | str = "self") -> dict[int, str]:
    """What each descriptor of a process is."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:  # the one that listed the directory
            pass
    return found


def named_with_half_a_character() -> None:
    """Give this process a name that is no UTF-8."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"server-of-caf\xc3", 0, 0, 0)


def wait_until(moment: float) -> None:
    """Let time pass until this moment of the monotonic clock: for what happens when time is up."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(left)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


SYSCALLS = {  # of x86-64
    "recvmmsg": (299,),
    "pidfd_open": (434,),
    "close_range": (436,),
    "unix sockets": (41, 53),
}
PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_RET_ERRNO = 15, 38, 22, 2, 0x50000


def refuse_by_seccomp(what: str, code: int) -> None:
    """From now on, a seccomp filter answers one of SYSCALLS with this errno, here and in what is started from here."""
    if platform.machine() != "x86_64":
        unable("the numbers of the system calls are not known here")
    load, equal, give = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0)]
    if what == "unix sockets":
        socket_call, pair_call = SYSCALLS[what]
        lines += [(equal, 1, 0, socket_call), (equal, 0, 3, pair_call), (load, 0, 0, 16)]  # the first argument
        lines += [(equal, 0, 1, socket.AF_UNIX)]
    else:
        lines += [(equal, 0, 1, SYSCALLS[what][0])]
    lines += [(give, 0, 0, SECCOMP_RET_ERRNO | code), (give, 0, 0, 0x7FFF0000)]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _Program(len(lines), b"".join(struct.pack("HBBI", *line) for line in lines))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
        unable(f"seccomp: {os.strerror(ctypes.get_errno())}")
