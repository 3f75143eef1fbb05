# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests stand on: network namespaces and links of their own, numbered packets, and a second witness.

A namespace made here has no name and no mount: it is an open file that a short-lived thread has made, and is entered
for one call. So nothing is left behind however a test ends, and the machine's own links are never touched.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import pytest

CLONE_NEWNET = 0x40000000
CAP_NET_ADMIN = 12  # linux/capability.h
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP
FRAME = 100  # bytes of a packet, where its size does not matter
PORT = 7009
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h; the socket module lacks them
FALLBACK_TUNNELS = ("tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0")
AUTOLOAD = Path("/proc/sys/kernel/modprobe")  # the program by which the kernel loads modules
_libc = ctypes.CDLL(None, use_errno=True)


def required() -> bool:
    """Whether a test that cannot run is a failure: in CI."""
    return bool(os.environ.get("CI"))


def unable(reason: str) -> None:
    """Skip the test, or fail it where a test that cannot run is a failure."""
    (pytest.fail if required() else pytest.skip)(reason)


def in_guest() -> bool:
    """Whether this is a test kernel: one of the tests' own, whose modules and settings may be changed."""
    return os.path.exists("/run/job/settings")


def need_guest(reason: str) -> None:
    """End a test that changes the whole machine, where this is no test kernel."""
    if not in_guest():
        unable(f"for a test kernel alone (LIBNLPLUG_KERNEL=guest): {reason}")


def random_name() -> str:
    """A link's or a namespace's name that nothing else has."""
    return f"t{secrets.token_hex(5)}"


def ordered(numbers: list[int]) -> list[int]:
    """What packets arrived, to be compared with what was sent: on one processor their order counts. On several, packets
    of a sender that moves between processors overtake each other on a veth pair, plug or not."""
    return numbers if os.cpu_count() == 1 else sorted(numbers)


def eventually(condition, what: str, within: float = 5.0):
    """The condition's value as soon as it is true; a failure where that takes too long."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what}")
        time.sleep(0.001)
    return value


def descriptors() -> int:
    """How many descriptors this process has open, when what is no longer in use is gone."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def in_thread(call, *args, **named):
    """The call's result in a new thread, which may enter a namespace: it ends with the call."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args, **named).result()


def in_child(call) -> None:
    """Fork; the child makes the call, and the test fails where that raises."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = b"no result"
        signal.alarm(20)  # a child that hangs ends, and has said nothing
        try:
            call()
            status = b"ok"
        except BaseException as error:
            status = repr(error).encode()
        finally:
            os.write(write, status)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    os.waitpid(pid, 0)
    assert result == b"ok"


def setns(fd: int) -> None:
    """Enter a network namespace with the calling thread."""
    if _libc.setns(fd, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "setns")


def udp_socket() -> socket.socket:
    """A socket that never blocks and keeps many packets: what a plug holds counts as unsent."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option, force in ((socket.SO_SNDBUF, SO_SNDBUFFORCE), (socket.SO_RCVBUF, SO_RCVBUFFORCE)):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 25)
        with suppress(PermissionError):  # beyond the system's maximum; on older kernels only for the machine's root
            sock.setsockopt(socket.SOL_SOCKET, force, 1 << 25)
    return sock


class _Batch:
    """ip(8) or tc(8) in batch mode, kept running: starting them takes far longer than what they are asked to do."""

    def __init__(self, netns: Netns, tool: str) -> None:
        argv = [tool, "-force", "-s", "-j", "-batch", "-"]
        pipe = subprocess.PIPE
        self._process = netns.run(subprocess.Popen, argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)
        os.set_blocking(self._process.stderr.fileno(), False)
        self._marker = "link show dev lo" if tool == "ip" else "qdisc show dev lo"

    def __call__(self, line: str) -> str:
        """Run one line, and return the line that it prints, if any."""
        self._process.stdin.write(f"{line}\n{self._marker}\n")
        printed = self._process.stdout.readline()
        with suppress(BlockingIOError):
            complaint = os.read(self._process.stderr.fileno(), 4096).decode()
            raise RuntimeError(f"{line}: {complaint.splitlines()[0] if complaint else 'it ended'}")
        if " show " in f" {line} ":
            self._process.stdout.readline()  # the marker's; a line that shows nothing has only this one
            return printed
        return ""

    def close(self) -> None:
        self._process.communicate()


class Netns:
    """A network namespace without a name. It goes when the last file, socket or process of it does."""

    _idle: ClassVar[list[Netns]] = []

    def __init__(self) -> None:
        self._file = in_thread(self._make)
        self._batches: dict[str, _Batch] = {}

    @staticmethod
    def _make():
        if _libc.unshare(CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "no right to make a network namespace")
        return open("/proc/thread-self/ns/net")

    @classmethod
    def take(cls) -> Netns:
        """An empty namespace: one that was given back, or a new one."""
        return cls._idle.pop() if cls._idle else cls()

    def give_back(self) -> None:
        """Empty the namespace for the next test."""
        for link in self.links():
            if link["ifname"] != "lo":
                with suppress(RuntimeError):  # the other end of a pair has gone with the first
                    self.ip(f"link del {link['ifname']}")
        for shown in self.qdiscs("lo"):
            if shown["kind"] == "clsact":  # which a lane leaves there
                self.tc("qdisc del dev lo clsact")
            elif shown["handle"] != "0:" and shown.get("root"):
                self.tc("qdisc del dev lo root")
        self.ip("link set lo down")
        self._idle.append(self)

    def fileno(self) -> int:
        return self._file.fileno()

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fileno()}"

    def run(self, call, *args, **named):
        """The call's result inside the namespace."""
        with open("/proc/thread-self/ns/net") as here:
            setns(self.fileno())
            try:
                return call(*args, **named)
            finally:
                setns(here.fileno())

    def command(self, *argv: str) -> str:
        """What a command prints that runs inside the namespace."""
        done = self.run(subprocess.run, argv, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def _batch(self, tool: str, line: str) -> str:
        if tool not in self._batches:
            self._batches[tool] = _Batch(self, tool)
        return self._batches[tool](line)

    def ip(self, *lines: str) -> None:
        """Run lines of ip(8)."""
        for line in lines:
            self._batch("ip", line)

    def tc(self, *lines: str) -> None:
        """Run lines of tc(8); the test is skipped where the kernel does not know the qdisc's kind."""
        for line in lines:
            try:
                self._batch("tc", line)
            except RuntimeError as error:
                if "kind is unknown" in str(error):
                    unable(f"this kernel cannot: {error}")
                raise

    def links(self) -> list[dict]:
        """The namespace's links, as ip shows them, without what modules of tunnels put into every namespace."""
        shown = json.loads(self._batch("ip", "link show"))
        return [link for link in shown if link["ifname"] not in FALLBACK_TUNNELS]

    def neighbours(self) -> list[dict]:
        """The neighbours that the namespace knows, as ip shows them."""
        return json.loads(self._batch("ip", "neigh show"))

    def link(self, device: str) -> dict:
        """One of them."""
        return next(link for link in self.links() if link["ifname"] == device)

    def qdiscs(self, device: str) -> list[dict]:
        """The device's qdiscs with their counters, as tc shows them: the second witness."""
        return json.loads(self._batch("tc", f"qdisc show dev {device}"))

    def qdisc(self, device: str, parent: str = "root") -> dict:
        """The qdisc at ``parent``, as tc shows it."""
        for shown in self.qdiscs(device):
            if (shown.get("root") and parent == "root") or shown.get("parent") == parent:
                return shown
        raise LookupError(f"tc shows no qdisc at {parent} of {device}")

    def kinds(self, device: str) -> list[str]:
        """The kinds of the device's qdiscs."""
        return [shown["kind"] for shown in self.qdiscs(device)]

    def close(self) -> None:
        for batch in self._batches.values():
            batch.close()
        self._file.close()


def up(device: str, address: str) -> list[str]:
    """The lines of ip(8) that bring a device up with one IPv4 address and no packets of its own."""
    quiet = [f"link set {device} addrgenmode none"] if os.path.isdir("/proc/sys/net/ipv6") else []
    return [*quiet, f"addr replace {address}/24 dev {device}", f"link set {device} up"]


def shrink(netns: Netns, device: str, frame: int = FRAME) -> None:
    """Let the device have packets of ``frame`` bytes at most, so that a plug's limit may be small."""
    netns.ip(f"link set {device} mtu {frame - 14} gso_max_segs 1")


class Wire:
    """A veth pair: numbered packets leave through ``device`` in ``near``, those that get through arrive in ``far``.

    Addresses and neighbours are set, IPv6 is off: no packet is on it but those that are sent here.
    """

    NEAR, FAR = "192.0.2.1", "192.0.2.2"
    NEAR_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"

    def __init__(self) -> None:
        self.near, self.far = Netns.take(), Netns.take()
        self.device, self.peer = random_name(), random_name()
        self.near.ip(
            f"link add {self.device} numtxqueues 1 numrxqueues 1 address {self.NEAR_MAC} type veth"
            f" peer name {self.peer} numtxqueues 1 numrxqueues 1 address {self.FAR_MAC} netns {self.far.path}",
            *up(self.device, self.NEAR),
            f"neigh replace {self.FAR} lladdr {self.FAR_MAC} dev {self.device} nud permanent",
        )
        self.far.ip(
            *up(self.peer, self.FAR),
            f"neigh replace {self.NEAR} lladdr {self.NEAR_MAC} dev {self.peer} nud permanent",
        )
        self._source = self.near.run(udp_socket)
        self._sink = self.far.run(udp_socket)
        self._sink.bind((self.FAR, PORT))
        self.sent = 0

    def shrink(self, frame: int = FRAME) -> None:
        """Let the device have packets of ``frame`` bytes at most."""
        shrink(self.near, self.device, frame)

    def send(self, count: int, *, frame: int = FRAME, to_class: int = 0) -> list[int]:
        """Send packets of ``frame`` bytes on the link, and return their numbers. ``to_class`` picks a class of prio."""
        self._source.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, to_class)
        numbers = list(range(self.sent, self.sent + count))
        for number in numbers:
            self._source.sendto(struct.pack("!I", number).ljust(frame - HEADERS, b"."), (self.FAR, PORT))
        self.sent += count
        return numbers

    def arrived(self) -> list[int]:
        """The numbers of the packets that have arrived since this was last asked, in their order."""
        numbers = []
        while True:
            try:
                numbers.append(struct.unpack_from("!I", self._sink.recv(2048))[0])
            except BlockingIOError:
                return numbers

    def expect(self, numbers: list[int]) -> None:
        """Wait until these packets have arrived; they must be exactly these, ordered()."""
        got: list[int] = []

        def enough() -> bool:
            got.extend(self.arrived())
            return len(got) >= len(numbers)

        if numbers:
            eventually(enough, f"{len(numbers)} packets arrive, {len(got)} have")
        got.extend(self.arrived())
        assert ordered(got) == ordered(numbers)

    def close(self) -> None:
        self._source.close()
        self._sink.close()
        self.near.give_back()
        self.far.give_back()


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def unprivileged(*but: int):
    """The calling thread without any capability in effect ``but`` these; the others come back afterwards."""
    keep = sum(1 << capability for capability in but)
    header, before, without = _CapHeader(0x20080522, 0), (_CapData * 2)(), (_CapData * 2)()
    assert _libc.capget(ctypes.byref(header), before) == 0
    for index, data in enumerate(before):
        without[index] = _CapData(keep >> 32 * index & 0xFFFF_FFFF, data.permitted, data.inheritable)
    assert _libc.capset(ctypes.byref(header), without) == 0
    try:
        yield
    finally:
        assert _libc.capset(ctypes.byref(header), before) == 0
