# SPDX-License-Identifier: GPL-2.0-or-later
"""What the trials stand on: a flow of numbered packets with the time of each, and holders that are processes.

Every time is of one clock, CLOCK_REALTIME in nanoseconds: the kernel stamps a packet with it on arrival. A packet's
wait after an event is its arrival, less its sending or the event, whichever was later.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import contextmanager

from libnlplug import PlugQdisc, attach
from tests.support.netlab import FRAME, HEADERS, PORT, Wire

SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
PACE = 0.001  # seconds between two packets
PAUSE = 2_500_000  # nanoseconds between two packets that are more than this process takes
PATIENCE = 10.0  # seconds after which a flow is taken for stopped
_librt = ctypes.CDLL("librt.so.1", use_errno=True)  # where glibc before 2.34 has its timers, and with it libc


def now() -> int:
    """The time, by the packets' clock."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


class Flow(Wire):
    """A wire with a plug, and a steady flow through it; sends as long as somebody waits for something.

    Where ``less_pauses`` is set, a time in which this process sent no packet, because it did not run, is no part of a
    delay: for a machine that has other things to do.
    """

    less_pauses = False

    def __init__(self) -> None:
        super().__init__()
        self._sink.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.plug = attach(self.device, netns=self.near)
        self.sent_at: dict[int, int] = {}
        self.arrived_at: dict[int, int] = {}
        self._pauses: list[tuple[int, int]] = []  # from when to when no packet could be sent

    def begin(self) -> None:
        """A new trial: what came before counts no more."""
        self._collect()
        self._pauses.clear()
        self.sent_at.clear()
        self.arrived_at.clear()

    def send_one(self) -> int:
        """One packet, now; its number. Its time is taken when it is out of our hands, here or in the plug's."""
        number = self.sent
        self._source.sendto(struct.pack("!I", number).ljust(FRAME - HEADERS, b"."), (self.FAR, PORT))
        self.sent_at[number] = now()
        self.sent += 1
        return number

    def _collect(self) -> None:
        while True:
            try:
                data, controls, _, _ = self._sink.recvmsg(64, 64)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack("@ll", controls[0][2])
            number = struct.unpack_from("!I", data)[0]
            if number in self.sent_at:
                self.arrived_at[number] = seconds * 10**9 + nanoseconds

    def until(self, condition, *, files=(), deadline: int | None = None) -> bool:
        """Keep the flow going until the condition is true; False where the time runs out first."""
        give_up = time.monotonic() + PATIENCE
        began = now()
        while True:
            self._collect()
            if condition():
                return True
            if deadline is not None and now() >= deadline:
                return False
            if time.monotonic() > give_up:
                return False
            self.send_one()
            wait = PACE if deadline is None else min(PACE, max(0.0, (deadline - now()) / 1e9))
            select.select(files, [], [], wait)
            turn, began = began, now()
            if began - turn > PAUSE:
                self._pauses.append((turn, began))

    def flows(self) -> bool:
        """Whether everything arrives, also what is sent from now on; keeps the flow going meanwhile."""
        after = [self.send_one() for _ in range(3)]
        return self.until(lambda: all(number in self.arrived_at for number in (*self.sent_at, *after)))

    def stands_still(self, seconds: float = 0.3) -> bool:
        """Whether nothing arrives."""
        marker = self.send_one()
        return not self.until(lambda: marker in self.arrived_at, deadline=now() + int(seconds * 1e9))

    def worst_wait(self, event: int) -> float:
        """The longest that a packet waited after the event, in milliseconds; infinite where one did not arrive."""
        waits = [0.0]
        for number, sent in self.sent_at.items():
            if number not in self.arrived_at:
                return float("inf")
            waits.append(self.delay(max(sent, event), self.arrived_at[number]))
        return max(waits)

    def delay(self, start: int, end: int) -> float:
        """From one moment to the other, in milliseconds."""
        length = end - start
        if self.less_pauses:
            length -= sum(max(0, min(end, after) - max(start, before)) for before, after in self._pauses)
        return max(0, length) / 1e6

    def first_after(self, event: int) -> float:
        """When the first packet arrived after the event, in milliseconds from it."""
        times = [arrived - event for arrived in self.arrived_at.values() if arrived >= event]
        return min(times) / 1e6 if times else float("inf")

    def close(self) -> None:
        self.plug.close()
        super().close()


class Page:
    """A shared page through which a holder, dead or alive, tells how far it has come."""

    SLOTS = ("phase", "armed", "held", "guard", "leaked", "note")

    def __init__(self, start: int) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.start = start  # the end of a pipe that says when the holder begins, and is closed when the trial is over

    def __getitem__(self, name: str) -> int:
        return struct.unpack_from("q", self._memory, 8 * self.SLOTS.index(name))[0]

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self.SLOTS.index(name), value)

    def wait_for_end(self) -> None:
        """What a holder's child does: live until the trial is over, whatever became of the holder."""
        while os.read(self.start, 1):
            pass


class Holder:
    """A forked process that runs ``work(page)``, from the moment when it is told to."""

    def __init__(self, work) -> None:
        ready, tell_ready = os.pipe()
        start, tell_start = os.pipe()
        self.page = Page(start)
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.close(ready)
                os.close(tell_start)
                status = work(self.page, lambda: (os.write(tell_ready, b"."), os.read(start, 1))) or 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(tell_ready)
        os.close(start)
        self._ready, self._start = ready, tell_start
        self.pidfd = os.pidfd_open(self.pid)
        self.started = self.died = 0
        self.status: int | None = None

    def prepare(self) -> None:
        """Wait until it has prepared what is not to be measured."""
        if os.read(self._ready, 1) != b".":
            raise RuntimeError("a holder ended in its preparation")

    def start(self) -> None:
        """Let it begin."""
        self.started = now()
        os.write(self._start, b".")

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send it a signal; the time just before."""
        moment = now()
        os.kill(self.pid, number)
        return moment

    def dead(self) -> bool:
        """Whether it has died; ``died`` is when waitpid() said so, ``status`` its exit status."""
        if self.died:
            return True
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.died, self.status = now(), os.waitstatus_to_exitcode(status)
        return bool(self.died)

    def close(self) -> None:
        """End it and what it leaked."""
        if not self.dead():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.page["leaked"]:
            try:
                os.kill(self.page["leaked"], signal.SIGKILL)
            except ProcessLookupError:
                pass
        for number in (self._ready, self._start, self.pidfd):
            os.close(number)


@contextmanager
def prepared(flow: Flow, work):
    """A holder that runs ``work(page, wait_for_start)``: it has prepared itself and begun, and so has a new trial."""
    holder = Holder(work)
    try:
        holder.prepare()
        flow.begin()
        holder.start()
        yield holder
    finally:
        holder.close()


def opened(flow: Flow) -> PlugQdisc:
    """An object of the calling process's own for the flow's plug."""
    return PlugQdisc.open(flow.device, netns=flow.near)


def process_gone(pid: int) -> bool:
    """Whether a process has ended, a zombie included."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_int * 12),
    )


def kill_myself_in(nanoseconds: int) -> None:
    """Have the kernel send SIGKILL to this process then: to the microsecond, and whatever it is doing."""
    timer, event = ctypes.c_void_p(), _Sigevent(None, signal.SIGKILL, 0)
    if _librt.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), "timer_create")
    when = (ctypes.c_long * 4)(0, 0, nanoseconds // 10**9, max(1, nanoseconds % 10**9))
    if _librt.timer_settime(timer, 0, ctypes.byref(when), None):
        raise OSError(ctypes.get_errno(), "timer_settime")


def occupy(size: int) -> mmap.mmap:
    """So much memory, touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0x8000)
    try:
        memory = mmap.mmap(-1, size, flags=flags)
    except OSError as error:
        raise MemoryError(os.strerror(error.errno or errno.ENOMEM)) from None
    for at in range(0, size, 1 << 21):
        memory[at] = 1
    return memory
