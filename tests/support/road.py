# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of lanes stand on: every kind of device, and numbered packets that a lane matches."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress

from libnlplug import PlugLane
from tests.support.lane import marks
from tests.support.netlab import (
    PORT,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    Netns,
    eventually,
    in_guest,
    ordered,
    random_name,
    unable,
    up,
)

NEAR, FAR = "192.0.2.1", "192.0.2.2"
NEAR6, FAR6 = "2001:db8::1", "2001:db8::2"


class Flow:
    """Numbered UDP packets from one namespace to an address in another, all of which UDP matches. ``by`` and ``at`` are
    devices that the sockets of the two are bound to."""

    def __init__(
        self, source: Netns, sink: Netns, address: str = FAR, port: int = PORT, by: str = "", at: str = ""
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._to = (address, port)
        self._source = source.run(_udp_socket, family, by)
        self._sink = sink.run(_udp_socket, family, at)
        self._sink.bind(self._to)
        self._poll = select.poll()
        self._poll.register(self._sink, select.POLLIN)
        self.sent = 0

    def send(self, count: int = 5) -> list[int]:
        """Send packets, and return their numbers."""
        numbers = list(range(self.sent, self.sent + count))
        for number in numbers:
            self._source.sendto(struct.pack("!I", number).ljust(58, b"."), self._to)
        self.sent += count
        return numbers

    def begin(self) -> None:
        """Send packets until one arrives, each after the time that the one before may take: none arrives later."""

        def one_arrives() -> bool:
            (number,), deadline = self.send(1), time.monotonic() + 0.5
            while (left := deadline - time.monotonic()) > 0:
                if number in self.arrived(within=left):
                    return True
            return False

        eventually(one_arrives, "packets arrive at all")

    def arrived(self, within: float = 0) -> list[int]:
        """The numbers of the packets that have arrived since this was last asked; it waits so long for the first."""
        numbers = []
        self._poll.poll(1000 * within)
        with suppress(BlockingIOError):
            while True:
                numbers.append(struct.unpack_from("!I", self._sink.recv(2048))[0])
        return numbers

    def expect(self, numbers: list[int]) -> None:
        """Wait until these packets have arrived; exactly these, ordered()."""
        got: list[int] = []
        deadline = time.monotonic() + 5
        while len(got) < len(numbers) and (left := deadline - time.monotonic()) > 0:
            got += self.arrived(within=left)
        got += self.arrived()
        missing, others = sorted(set(numbers) - set(got)), sorted(set(got) - set(numbers))
        assert not missing, f"{len(missing)} packets are missing of {len(numbers)}: {missing[:20]}"
        assert not others, f"{len(others)} packets have arrived too: {others[:20]}"
        swapped = [one for one, other in zip(got, numbers) if one != other]
        assert ordered(got) == ordered(numbers), f"not in their order: {swapped[:20]}"

    def expect_held(self, lane: PlugLane, count: int = 5) -> list[int]:
        """Packets sent now wait in the lane; their numbers."""
        before = lane.plug.stats().qlen
        numbers = self.send(count)
        eventually(lambda: lane.plug.stats().qlen == before + count, f"{count} packets wait in {lane!r}")
        assert self.arrived() == []
        return numbers

    @contextmanager
    def running(self):
        """Send without a pause from a thread of its own; every packet must arrive in the end, and in its order."""
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                self.send(1)
                over.wait(0.0002)

        thread = threading.Thread(target=go_on)
        before = self.sent
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert self.sent > before
        self.expect(list(range(before, self.sent)))

    def close(self) -> None:
        self._source.close()
        self._sink.close()


def _udp_socket(family: int, device: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.setblocking(False)
    for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):  # what is held counts as unsent
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 25)
    return sock


def carry(ends: list[int]) -> None:
    """Carry packets between two tun or tap devices, in threads that end when a device goes."""

    def one_way(read: int, write: int) -> None:
        with suppress(OSError):  # a device that is gone
            while packet := os.read(read, 4096):
                os.write(write, packet)

    for read, write in (ends, ends[::-1]):
        threading.Thread(target=one_way, args=(read, write), daemon=True).start()


class Road:
    """A device of some kind in ``near``, with flows that leave through it and arrive on it; the other end is far."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.near = Netns.take()
        self.far = self.near if kind == "lo" else Netns.take()
        self.device = "lo" if kind == "lo" else random_name()
        self.peer = random_name()  # ip keeps a memory of names, and this namespace may have been used before
        {"lo": self._lo, "bridge port": self._bridge_port, "vlan": self._vlan, "tun": self._tun}.get(kind, self._veth)()
        near, far = ("127.0.0.1", "127.0.0.1") if kind == "lo" else (NEAR, FAR)
        self.leaving = Flow(self.near, self.far, far)
        self.arriving = self.leaving if kind == "lo" else Flow(self.far, self.near, near)
        for flow in (self.leaving, self.arriving):  # neighbours are found out before anything is counted
            flow.begin()
        for netns in (self.near, self.far):  # and stay known: ARP would ask again, and be counted
            for known in netns.neighbours():
                netns.ip(f"neigh change {known['dst']} dev {known['dev']} nud permanent")

    def flow(self, ingress: bool) -> Flow:
        return self.arriving if ingress else self.leaving

    def _lo(self) -> None:
        self.near.ip("link set lo up")

    def _veth(self) -> None:
        name = self.device.ljust(15, "l") if self.kind == "long name" else self.device
        index = "index 2147483000" if self.kind == "large index" else ""
        queues = "numtxqueues 4 numrxqueues 4" if self.kind == "multi-queue" else "numtxqueues 1 numrxqueues 1"
        self.device = name
        self.near.ip(
            f"link add {name} {index} {queues} type veth peer name {self.peer} {queues} netns {self.far.path}",
            *up(name, NEAR),
        )
        self.far.ip(*up(self.peer, FAR))
        roots = {
            "prio": ["root handle 1: prio bands 3"],
            "fq_codel": ["root handle 1: fq_codel"],
            "htb": ["root handle 1: htb default 1"],
            "multi-queue": ["root handle 1: mq"],
            "plug": ["root handle 1: plug limit 100000"],
        }
        for root in roots.get(self.kind, []):
            self.near.tc(f"qdisc add dev {name} {root}")
        if self.kind == "plug":
            self.near.tc(f"qdisc change dev {name} handle 1: plug release_indefinite")
        if self.kind == "htb":
            self.near.tc(f"class add dev {name} parent 1: classid 1:1 htb rate 1gbit quantum 1500")

    def _bridge_port(self) -> None:
        bridge = random_name()
        self.near.ip(
            f"link add {bridge} type bridge",
            f"link add {self.device} type veth peer name {self.peer} netns {self.far.path}",
            f"link set {self.device} master {bridge}",
            *up(bridge, NEAR),
            f"link set {self.device} up",
        )
        self.far.ip(*up(self.peer, FAR))

    def _vlan(self) -> None:
        under = random_name()
        self.near.ip(f"link add {under} type veth peer name {under} netns {self.far.path}")
        for netns, name, address in ((self.near, self.device, NEAR), (self.far, self.peer, FAR)):
            netns.ip(f"link set {under} up", f"link add {name} link {under} type vlan id 7", *up(name, address))

    def _tun(self) -> None:
        """Two tun devices, which have no Ethernet header, and a thread that carries packets from one to the other."""
        ends = []
        for netns, name, address in ((self.near, self.device, NEAR), (self.far, self.peer, FAR)):
            ends.append(netns.run(_open_tun, name))
            netns.ip(*up(name, address))
        self._ends = ends
        carry(ends)

    def is_as_new(self) -> bool:
        """Whether nothing is left of the test that has used it."""
        self.leaving.arrived(), self.arriving.arrived()
        if [(link["ifname"], link["mtu"]) for link in self.near.links()] != [("lo", 65536), (self.device, 1500)]:
            return False
        for device in ("lo", self.device):
            if "clsact" in self.near.kinds(device):  # which a lane leaves there
                self.near.tc(f"qdisc del dev {device} clsact")
        return self.near.kinds(self.device) == ["noqueue"] and not marks(self.near)

    def close(self) -> None:
        self.leaving.close()
        self.arriving.close()
        if self.kind == "lo" and "clsact" in self.near.kinds("lo"):
            self.near.tc("qdisc del dev lo clsact")
        self.near.give_back()
        if self.far is not self.near:
            self.far.give_back()
        for end in getattr(self, "_ends", []):
            os.close(end)


_idle: list[Road] = []


@contextmanager
def veth():
    """A Road of two veth devices: one that was used before, where that left nothing, or a new one."""
    road = _idle.pop() if _idle else Road("veth")
    try:
        yield road
    finally:
        if road.is_as_new():
            _idle.append(road)
        else:
            road.close()


def _open_tun(name: str) -> int:
    import fcntl

    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
    return fd


KINDS = (
    "lo",
    "veth",
    "bridge port",
    "vlan",
    "tun",
    "multi-queue",
    "prio",
    "fq_codel",
    "htb",
    "plug",
    "long name",
    "large index",
)


def need(*modules: str) -> None:
    """Load modules into the test kernel."""
    if subprocess.run(["modprobe", "-qa", *modules]).returncode and in_guest():
        unable(f"the kernel has not all of {', '.join(modules)}")


def use_ipv6(netns: Netns, device: str, address: str) -> None:
    """An IPv6 address at once, on a device of a namespace where IPv6 is off."""
    set_sysctl(netns, f"ipv6/conf/{device}/disable_ipv6", "0")
    netns.ip(f"addr add {address}/64 dev {device} nodad")


def set_sysctl(netns: Netns, name: str, value: str) -> None:
    """Write a setting of the namespace's network."""

    def write() -> None:
        with open(f"/proc/sys/net/{name}", "w") as file:
            file.write(value)

    netns.run(write)
