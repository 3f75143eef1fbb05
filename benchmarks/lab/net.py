# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's one network: a namespace each for the client, the router, two directors and five backends.

                             .--- d1 10.0.1.2 ---.
    client ---- router ------|                   |   to VIP by ECMP, then as IPIP to a backend;
    10.0.0.2      |          '--- d2 10.0.2.2 ---'   every line is a veth pair, the router is in the middle of all
                  |
                  '--- b1 10.1.1.2 ... b5 10.1.5.2   answer the client directly, from VIP

Every director and every backend has VIP on a device of its own. The router alone decides which director gets a
connection (a hash of addresses and ports). The namespaces have names: ``ip netns exec router ip route`` works.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

VIP, PORT = "198.51.100.1", 80
DIRECTORS = {"d1": "10.0.1.2", "d2": "10.0.2.2"}
BACKENDS = {f"b{number}": f"10.1.{number}.2" for number in range(1, 6)}
FAR = "far"  # a backend in another network, behind the namespace 'wan'
ADDRESSES = {"client": "10.0.0.2", "wan": "10.8.0.2", **DIRECTORS, **BACKENDS, FAR: "10.9.0.2"}
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(Exception):
    """A command that must not fail did."""


def run(words: list[str]) -> str:
    """Run a command; what it printed."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise CommandFailed(f"{' '.join(words)}: status {done.returncode}: {said}")
    return done.stdout


def sh(place: str, line: str) -> str:
    """Run a command of plain words in a namespace; what it printed."""
    return inside(place, run, line.split())


def ip(place: str, *lines: str) -> None:
    """Run lines of ip(8) in a namespace, all in one process."""
    inside(place, batch, "ip", lines)


def tc(place: str, lines: list[str]) -> None:
    """Run lines of tc(8) in a namespace, all in one process."""
    inside(place, batch, "tc", lines)


def batch(program: str, lines: Iterable[str]) -> None:
    """Run lines of ip(8) or tc(8), all in one process."""
    text = "\n".join(lines) + "\n"
    done = subprocess.run([program, "-batch", "-"], input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise CommandFailed(f"{program}: {done.stderr.strip()}")


def netns(verb: str, names: Iterable[str]) -> None:
    """Add or delete namespaces."""
    batch("ip", [f"netns {verb} {name}" for name in names])


def enter(place: str) -> None:
    """Enter a namespace with the calling thread: for sockets, counters and settings."""
    with open(f"/run/netns/{place}") as file:
        if _libc.setns(file.fileno(), CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), f"setns {place}")


def inside(place: str, call, *args):
    """The call's result in a thread that has entered the namespace."""

    def visit():
        enter(place)
        return call(*args)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(visit).result()


def settings(place: str, **values: int) -> None:
    """Set sysctls under net.ipv4: ``settings("d1", ip_forward=1)``; a double underscore stands for a dot."""

    def write() -> None:
        for name, value in values.items():
            Path("/proc/sys/net/ipv4", name.replace("__", "/")).write_text(str(value))

    inside(place, write)


def counters(place: str) -> dict[str, int]:
    """The kernel's TcpExt counters of a namespace, by their names."""

    def read() -> dict[str, int]:
        lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
        names, values = (line.split()[1:] for line in lines if line.startswith("TcpExt:"))
        return dict(zip(names, map(int, values)))

    return inside(place, read)


def wait_until_accepted(place: str) -> None:
    """Wait until nobody is in an accept queue or on the way into it: while new connections are held, that comes."""
    deadline = time.monotonic() + 10
    while True:
        rows = [line.split()[:2] for line in sh(place, f"ss -Htna sport = :{PORT}").splitlines()]
        if not any(state == "SYN-RECV" or (state == "LISTEN" and queue != "0") for state, queue in rows):
            return
        if time.monotonic() > deadline:
            raise CommandFailed(f"{place}: the accept queue does not become empty")


@contextmanager
def delay(place: str, milliseconds: int) -> Iterator[None]:
    """Let each packet that leaves the namespace wait so long, for as long as the block lasts."""
    if milliseconds:
        sh(place, f"tc qdisc add dev eth0 root netem delay {milliseconds}ms limit 10000")
    try:
        yield
    finally:
        if milliseconds:
            sh(place, "tc qdisc del dev eth0 root")


def gateway(address: str) -> str:
    """The router's end of the link to this address."""
    return address.rpartition(".")[0] + ".1"


def join(*names: str, router: str = "router") -> None:
    """Make namespaces and their links to a router. On the router, a link has its namespace's name."""
    netns("add", names)
    lines = []
    for name in names:
        settings(name, conf__all__rp_filter=0, conf__default__rp_filter=0)
        lines += [f"link add {name} type veth peer name eth0 netns {name}",
                  f"addr add {gateway(ADDRESSES[name])}/24 dev {name}", f"link set {name} up"]  # fmt: skip
    ip(router, *lines)
    for name in names:
        ip(name, *own_lines(name))


def own_lines(name: str) -> list[str]:
    """What makes a namespace what it is. A director has VIP; a backend takes its connections out of the director's
    tunnel, and answers past the director."""
    address = ADDRESSES[name]
    lines = [f"addr add {address}/24 dev eth0", "link set lo up", "link set eth0 up",
             f"route add default via {gateway(address)}"]  # fmt: skip
    if name in DIRECTORS:
        lines += [f"addr add {VIP}/32 dev lo"]
    if name in BACKENDS or name == FAR:
        lines += [f"link add vip type ipip local {address}", f"addr add {VIP}/32 dev vip", "link set vip up"]
    return lines


def make_far() -> None:
    """A backend in another network: a router of its own is between it and the lab's."""
    join("wan")
    settings("wan", ip_forward=1)
    join(FAR, router="wan")
    ip("router", f"route add {ADDRESSES[FAR]}/32 via {ADDRESSES['wan']}")


def join_by_gre() -> None:
    """Make a GRE tunnel from the router to each director, for route_to(..., gre=True)."""
    ip("router", *(line for name, to in DIRECTORS.items() for line in gre_end(f"gre-{name}", gateway(to), to)))
    for name, address in DIRECTORS.items():
        ip(name, *gre_end("gre-router", address, gateway(address)))


def part_by_gre() -> None:
    """Remove the router's ends of these tunnels."""
    ip("router", *(f"link del gre-{name}" for name in DIRECTORS))


def join_two_by_gre(one: str, device: str, address: str, other: str, its_device: str, its_address: str) -> None:
    """Make a GRE tunnel between two namespaces."""
    ip(one, *gre_end(device, address, its_address))
    ip(other, *gre_end(its_device, its_address, address))


def gre_end(device: str, local: str, remote: str) -> list[str]:
    """The lines of ip(8) that make one end of a GRE tunnel."""
    return [f"link add {device} type gre local {local} remote {remote}", f"link set {device} up"]


def take_gre(backend: str) -> None:
    """Let a backend take connections out of GRE tunnels too."""
    ip(backend, f"link add gre type gre local {ADDRESSES[backend]}", "link set gre up")


def route_to(*directors: str, gre: bool = False) -> None:
    """Which directors the router gives the connections for VIP to, as they are or wrapped in GRE."""
    hops = [f"nexthop dev gre-{name}" if gre else f"nexthop via {DIRECTORS[name]} dev {name}" for name in directors]
    ip("router", f"route replace {VIP}/32 {' '.join(hops)}")


def kill(name: str) -> None:
    """A director goes: nothing arrives there any more, and nothing leaves it."""
    ip(name, "link set eth0 down")


def revive(name: str) -> None:
    """A director that was killed is back, with all that it knew, and the router reaches it."""
    ip(name, "link set eth0 up", f"route add default via {gateway(ADDRESSES[name])}")
    sh("router", f"ping -q -c 1 -w 5 {ADDRESSES[name]}")


def renew() -> None:
    """New directors in the old ones' places: they remember nothing."""
    ip("router", *(f"link del {name}" for name in DIRECTORS))
    netns("del", DIRECTORS)
    join(*DIRECTORS)
    route_to(*DIRECTORS)


@contextmanager
def network(backends: int = len(BACKENDS), far: bool = False) -> Iterator[list[str]]:
    """The network, for as long as the block lasts; its backends' names, without the far one's."""
    names = list(BACKENDS)[:backends]
    made = ["router", "client", *DIRECTORS, *names, *(["wan", FAR] if far else [])]
    if others := [name for name in made if os.path.exists(f"/run/netns/{name}")]:
        raise CommandFailed(f"there are namespaces of these names already: {' '.join(others)}")
    try:
        netns("add", ["router"])
        settings("router", ip_forward=1, fib_multipath_hash_policy=1, conf__all__rp_filter=0,
                 conf__default__rp_filter=0)  # fmt: skip
        join("client", *DIRECTORS, *names)
        # A packet carries its socket's hash to the router, which uses that one: let it not change at a retransmission.
        sh("client", "sysctl -qw net.core.txrehash=0")
        if far:
            make_far()
        route_to(*DIRECTORS)
        yield names
    finally:
        netns("del", [name for name in made if os.path.exists(f"/run/netns/{name}")])
