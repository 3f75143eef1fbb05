# SPDX-License-Identifier: GPL-2.0-or-later
"""Tunnels as in the Maglev paper: GRE from the router to a director, and GRE from the director to a backend.

ECMP chooses the director: the router's route has a GRE tunnel for each. A director takes the packet out, chooses the
backend (IPVS with ``mh``, ``--tun-type gre``), and wraps it again. Beside that, the lab's other way: the router only
routes to a director, which wraps the packet in IPIP. Clients send to the servers, because answers do not pass a tunnel.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from clients import Cut, connect, reset, word_for
from directors import GRE, IPIP, connections_of, even, load_modules, rules
from net import DIRECTORS, enter, ip, join_by_gre, kill, network, part_by_gre, renew, route_to, settings, sh, take_gre
from packets import Watch, sinks
from repeat import Case, Seen, program, some

SIZE = 100_000  # bytes of an upload: many full packets
UPLOADS = 10
PATIENCE = 2.0  # seconds for one answer
LARGER = 1524  # an MTU that has room for a full packet of the clients and the headers of IP and GRE


SHORT = {"T1": ["GRE, then GRE"], "T2": ["GRE, then GRE; `sloppy_tcp=1`"]}


class Way(NamedTuple):
    """How packets get from the router to the backends."""

    gre: bool = True
    mtu: int = 1500  # of the links behind the router
    told: bool = True  # whether ICMP reaches the client
    killed: bool = False  # whether d1 is killed when half of each upload has been sent
    sloppy: int = 1


def no_offload(backends: list[str]) -> None:
    """Let packets on the wire be as large as they say: no segments that a device would cut up later."""
    ip("client", "link set eth0 gso_max_segs 1")
    ip("router", *(f"link set {name} gso_max_segs 1" for name in ("client", *DIRECTORS, *backends)))


def set_mtu(names: list[str], mtu: int) -> None:
    """The MTU of all the links between the router and these namespaces, and so of the tunnels in them."""
    lines = [f"link set {name} mtu {mtu}" for name in names]
    ip("router", *lines, *(f"link set gre-{name} mtu {mtu - 24}" for name in DIRECTORS))
    for name in names:
        ip(name, f"link set eth0 mtu {mtu}", *([f"link set gre-router mtu {mtu - 24}"] if name in DIRECTORS else []))


def prepare(backends: list[str], way: Way) -> None:
    """New directors, and the tunnels to them and behind them."""
    renew()
    join_by_gre()
    no_offload(backends)
    set_mtu([*DIRECTORS, *backends], way.mtu)
    route_to(*DIRECTORS, gre=way.gre)
    sh("client", "ip route flush cache")  # forget what it learned of the path's MTU
    for name in DIRECTORS:
        rules(name, "mh", even(backends), tunnel=GRE if way.gre else IPIP)
        settings(name, vs__sloppy_tcp=way.sloppy)


def upload(between: Callable[[], None]) -> dict[int, str]:
    """Send SIZE bytes by each of some connections; how each ended, by the client's port. ``between`` is called at half
    of the bytes."""
    ended: dict[socket.socket, str] = {}
    sockets = [connect() for _ in range(UPLOADS)]
    ports = [sock.getsockname()[1] for sock in sockets]

    def each(call: Callable[[socket.socket], None]) -> None:
        for sock in sockets:
            if sock not in ended:
                try:
                    call(sock)
                except (OSError, Cut) as error:
                    ended[sock] = word_for(error)

    def first_half(sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        sock.sendall(bytes(SIZE // 2))

    def second_half(sock: socket.socket) -> None:
        sock.sendall(bytes(SIZE // 2))
        sock.shutdown(socket.SHUT_WR)
        text = sock.recv(100).decode()
        if not text or int(text.split()[1]) != SIZE:
            raise Cut

    each(first_half)
    between()
    each(second_half)
    for sock in sockets:
        reset(sock)  # what one that timed out sent later would teach the client the path's MTU
    return {port: ended.get(sock, "ok") for port, sock in zip(ports, sockets)}


def give_up_d1() -> None:
    kill("d1")
    route_to("d2", gre=True)


@contextmanager
def no_icmp() -> Iterator[None]:
    """Drop ICMP on its way to the client, as some firewalls do."""
    sh("client", "tc qdisc add dev eth0 clsact")
    sh("client", "tc filter add dev eth0 ingress protocol ip u32 match ip protocol 1 0xff action drop")
    try:
        yield
    finally:
        sh("client", "tc qdisc del dev eth0 clsact")


def measure(backends: list[str], way: Way) -> Seen:
    prepare(backends, way)
    watches = {place: Watch(place) for place in (*DIRECTORS, *backends, "client")}
    its: set[int] = set()

    def at_half() -> None:
        its.update(connections_of("d1"))
        if way.killed:
            give_up_d1()

    try:
        with no_icmp() if not way.told else nullcontext():
            ended = upload(at_half)
        seen = {place: watch.packets() for place, watch in watches.items()}
    finally:
        part_by_gre()
    largest = {place: max((one.length for one in packets), default=0) for place, packets in seen.items()}
    figures = {
        "connections through d1": len(its),
        "largest packet at a director, bytes": max(largest[name] for name in DIRECTORS),
        "largest packet at a backend, bytes": max(largest[name] for name in backends),
        "fragments at a backend": sum(one.fragment for name in backends for one in seen[name]),
        "ICMP sent to the client": sum(one.protocol == socket.IPPROTO_ICMP for one in seen["client"]),
    }
    for watch in watches.values():
        watch.close()
    if way.killed and not its:
        raise RuntimeError("chance gave d1 no upload: it is killed for nothing")
    counted = its if way.killed else set(ended)
    others = [port for port in ended if port not in counted]
    if others:
        figures["lost through d2"] = sum(ended[port] != "ok" for port in others)
    return Seen(len(counted), dict(Counter(ended[port] for port in counted if ended[port] != "ok")), figures)


@contextmanager
def tunnels(short: bool) -> Iterator[list[Case]]:
    load_modules()
    with network(3) as backends, sinks(backends):
        for name in backends:
            take_gre(name)
        enter("client")
        sizes = {
            "routed, then IPIP": Way(gre=False),
            "GRE, then GRE": Way(),
            f"GRE, then GRE; MTU {LARGER} behind the router": Way(mtu=LARGER),
            "GRE, then GRE; no ICMP reaches the client": Way(told=False),
        }
        killed = {f"GRE, then GRE; `sloppy_tcp={sloppy}`": Way(killed=True, sloppy=sloppy) for sloppy in (0, 1)}
        what = f"uploads of {SIZE // 1000} KB from a client with an MTU of 1500"
        rows = {("T1", what): sizes, ("T2", "d1 is killed in the middle of such uploads"): killed}
        cases = [
            Case(row, what, "uploads", {name: partial(measure, backends, way) for name, way in ways.items()})
            for (row, what), ways in rows.items()
        ]
        yield some(cases, SHORT) if short else cases


if __name__ == "__main__":
    program(tunnels)
