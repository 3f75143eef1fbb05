# SPDX-License-Identifier: GPL-2.0-or-later
"""Fragments: do all fragments of a datagram reach one director, and do they reach the backend of small datagrams?

Clients of several addresses send datagrams by UDP, from each port one that fits into a packet and one that does not.
The router chooses the director by the kernel's ECMP hash policies, which read the ports of no fragment, not even of the
first one.

Other routers do read the ports of first fragments. tc makes the lab's router one of those: the source port's lowest bit
chooses the director of packets that have ports. The directors can then do what the Maglev paper describes: give each
fragment to the director that the addresses and the protocol name (here the lowest bit of the client's address), wrapped
in GRE, and only once.
"""

from __future__ import annotations

import select
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

from directors import even, fresh, load_modules, rules
from net import DIRECTORS, PORT, VIP, enter, ip, join_two_by_gre, network, route_to, settings, sh, tc
from packets import Watch, sinks
from repeat import Case, Seen, program, some

SMALL, LARGE = 100, 4000  # bytes: one packet; three fragments
CLIENTS = [f"10.0.0.{10 + number}" for number in range(8)]
PORTS = 12  # of each client
PATIENCE = 2.0  # seconds for the answers
SERVICE = f"-u {VIP}:{PORT}"
ADDRESSES_AND_PROTOCOL = 0x7  # of fib_multipath_hash_fields
LARGER = 1524
OFFSET, MORE = range(13), 13  # the bits of an IP header's fragment field
POLICY_1, ALONE, SENT_ON = "policy 1 (ports too)", "alone", "the directors send fragments on, by addresses and protocol"
SHORT = {"F1": [POLICY_1], "F2": [ALONE, SENT_ON]}
MARK = 7  # of packets for the first director; the next number is the second one's


class Way(NamedTuple):
    """The router's hash policy, the directors' scheduler, and who does what Linux does not do."""

    policy: int
    scheduler: str = "mh"
    reads_ports: bool = False  # the router, in first fragments
    sends_on: bool = False  # the directors


def arriving(device: str, pref: int, action: str, *matches: str) -> str:
    """A line of tc: do something with the packets that arrive at a device and match all of these."""
    words = " ".join(f"match {match}" for match in matches)
    return f"filter add dev {device} ingress protocol ip pref {pref} u32 {words} action {action}"


def bit(number: int) -> str:
    """In u32's words: a bit of the fragment field is set."""
    return f"u16 {1 << number:#x} {1 << number:#x} at 6"


@contextmanager
def reading_ports() -> Iterator[None]:
    """Let the router choose the director by the source port, where a packet has one."""
    lines = ["qdisc add dev client clsact", *(arriving("client", 1, "ok", bit(number)) for number in OFFSET)]
    tables = {MARK + number: name for number, name in enumerate(DIRECTORS)}
    for table, name in tables.items():
        lines.append(arriving("client", 2, f"skbedit mark {table}", f"u16 {table - MARK} 1 at 20"))
        ip("router", f"rule add pref {table} fwmark {table} lookup {table}",
           f"route add {VIP}/32 via {DIRECTORS[name]} table {table}")  # fmt: skip
    tc("router", lines)
    try:
        yield
    finally:
        sh("router", "tc qdisc del dev client clsact")
        for table in tables:
            ip("router", f"rule del pref {table}", f"route flush table {table}")


def send_on() -> None:
    """Let each director give fragments to the other one, where the client's address names that one.

    tc does that before IPVS can wait for a datagram's other fragments. What comes out of the tunnel stays.
    """
    (one, address), (other, others) = DIRECTORS.items()
    join_two_by_gre(one, "gre-other", address, other, "gre-other", others)
    for name, odd in ((one, 1), (other, 0)):
        ip("router", f"link set {name} mtu {LARGER}")  # room for a full packet and the headers of IP and GRE
        ip(name, f"link set eth0 mtu {LARGER}", "link set gre-other mtu 1500")
        to_other = "mirred egress redirect dev gre-other"
        its = (arriving("eth0", 1, to_other, bit(number), f"u8 {odd} 1 at 15") for number in (*OFFSET, MORE))
        tc(name, ["qdisc add dev eth0 clsact", *its])


Flow = tuple[str, int]  # a client's address and port


def ask(sockets: dict[Flow, socket.socket], size: int) -> dict[Flow, str]:
    """Send a datagram of this size from each socket: which backend has answered, where one has."""
    for sock in sockets.values():
        sock.sendto(bytes(size), (VIP, PORT))
    answers, flows = {}, {sock: flow for flow, sock in sockets.items()}
    deadline = time.monotonic() + PATIENCE
    while flows and (left := deadline - time.monotonic()) > 0:
        for sock in select.select(list(flows), [], [], left)[0]:
            name, length = sock.recv(100).decode().split()
            if int(length) == size:
                answers[flows.pop(sock)] = name
    return answers


def took(watches: dict[str, Watch]) -> dict[tuple[str, int], tuple[Flow, set[str]]]:
    """The flow of each datagram, and the directors that its packets took from the router."""
    ports, directors = {}, defaultdict(set)
    for name, watch in watches.items():
        for one in watch.packets():
            if one.protocol == socket.IPPROTO_UDP and one.to == VIP:
                key = one.source, one.number
                directors[key].add(name)
                if one.port >= 0:
                    ports[key] = one.source, one.port
    return {key: (ports[key], names) for key, names in directors.items() if key in ports}


def measure(backends: list[str], way: Way) -> Seen:
    fresh(way.scheduler, even(backends))
    for name in DIRECTORS:
        rules(name, way.scheduler, even(backends), SERVICE)
    if way.sends_on:
        send_on()
    settings("router", fib_multipath_hash_policy=way.policy)
    if way.policy == 3:
        settings("router", fib_multipath_hash_fields=ADDRESSES_AND_PROTOCOL)
    watches = {name: Watch(name) for name in DIRECTORS}
    with reading_ports() if way.reads_ports else nullcontext(), flows() as sockets:
        small = ask(sockets, SMALL)
        whole = {flow: names for flow, names in took(watches).values()}
        large = ask(sockets, LARGE)
        parts = took(watches)
    for watch in watches.values():
        watch.close()
    if len(small) < len(sockets):
        raise RuntimeError(f"only {len(small)} of {len(sockets)} small datagrams were answered")
    lost = len(sockets) - len(large)
    figures = {
        "their fragments took both directors": sum(len(names) > 1 for _, names in parts.values()),
        "another director than small ones": sum(names != whole[flow] for flow, names in parts.values()),
        "another backend than small ones": sum(name != small[flow] for flow, name in large.items()),
    }
    return Seen(len(sockets), {"lost": lost} if lost else {}, figures)


@contextmanager
def flows() -> Iterator[dict[Flow, socket.socket]]:
    """A socket for each port of each client."""
    with ExitStack() as stack:
        sockets = {}
        for address in CLIENTS:
            for _ in range(PORTS):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.bind((address, 0))
                # Not connected: a connected socket gives its packets a hash, which the router would use.
                sockets[sock.getsockname()] = sock
        yield sockets


@contextmanager
def fragments(short: bool) -> Iterator[list[Case]]:
    load_modules()
    with network(3) as backends, sinks(backends):
        ip("client", *(f"addr add {address}/24 dev eth0" for address in CLIENTS))
        route_to(*DIRECTORS)
        enter("client")
        linux = {
            "policy 0 (addresses)": Way(0),
            POLICY_1: Way(1),
            "policy 1, `rr`": Way(1, "rr"),
            "policy 2 (addresses, inner ones in a tunnel)": Way(2),
            "policy 3 (addresses and protocol)": Way(3),
        }
        others = {
            ALONE: Way(0, reads_ports=True),
            SENT_ON: Way(0, reads_ports=True, sends_on=True),
        }
        what = f"datagrams of {LARGE} bytes, in three fragments"
        rows = {
            ("F1", f"{what}; Linux as router"): linux,
            ("F2", f"{what}; a router that reads first fragments' ports"): others,
        }
        cases = [
            Case(row, what, "datagrams", {name: partial(measure, backends, way) for name, way in ways.items()})
            for (row, what), ways in rows.items()
        ]
        yield some(cases, SHORT) if short else cases


if __name__ == "__main__":
    program(fragments)
