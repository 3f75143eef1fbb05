#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What lanes cost the traffic that they do not choose: the same traffic with 1, 10 and 100 lanes and without.

    tools/testkernel/run --pin 1 -- .venv/bin/python benchmarks/lane/run.py [--short]

Each lane chooses new TCP connections to another port, the first one to the port that the traffic goes to: of all that
does not match, established connections to that port are looked at the longest. One case has lanes that compare
different fields. The last ones have no lanes, but the u32 filters that as many lanes would take. Each case has a device
of its own, with its lanes in place. In each round every case is measured once, in changing order; the table has the
medians of the rounds' ratios. The whole writes it into README.md beside this file. Needs root on a kernel with
sch_plug.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple, TextIO

from far import PORT, ROOM

from libnlplug import Match, PlugLane

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ROUNDS, SHORT_ROUNDS = 41, 2
_libc = ctypes.CDLL(None, use_errno=True)
KINDS = ["lo", "veth"]
CLONE_NEWNET = 0x40000000


class Sizes(NamedTuple):
    """How much is sent for one measurement."""

    bulk: int = 64 << 20  # bytes
    datagrams: int = 3000
    echoes: int = 500


class Case(NamedTuple):
    """How many lanes a device has, at which hook; ``what`` is 'different' if each compares other fields, 'u32' if there
    are only such filters."""

    lanes: int = 0
    ingress: bool = False
    what: str = ""

    def __str__(self) -> str:
        if not self.lanes:
            return f"no lane{self.what}"
        count = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        more = {"different": ", all different", "u32": " of u32 filters"}.get(self.what, "")
        return f"{'arriving' if self.ingress else 'leaving'}, {count}{more}"

    def matches(self, kind: str) -> list[Match]:
        """What its lanes choose. What arrives from the other end of a wire has the port as its source."""
        if self.what == "u32":
            return []
        if self.what == "different":  # the kernel compares prefixes of each length by a look-up of its own
            return [Match(dst_ip=f"10.{number}.0.0/{16 + number}", tcp_syn=True) for number in range(self.lanes)]
        side = "src_port" if self.ingress and kind == "veth" else "dst_port"
        return [Match(tcp_syn=True, **{side: PORT + number}) for number in range(self.lanes)]


NONE = Case()


def cases_of(*counts: int) -> list[Case]:
    """The cases with so many lanes."""
    return [
        NONE,
        Case(what=", once more"),
        *(Case(count, ingress) for ingress in (False, True) for count in counts),
        Case(counts[1], what="different"),
        *(Case(count, what="u32") for count in counts),
    ]


class Road(NamedTuple):
    """Where a case is measured: the address to send to, and the network namespace of the sender, an open file."""

    address: tuple[str, int]
    sender: TextIO


Round = dict[tuple[Case, str], float]  # by case and measure


def bulk(address: tuple[str, int], sizes: Sizes) -> float:
    """Bytes a second through one TCP connection."""
    block = bytes(ROOM)
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        sock.sendall(b"s")
        begun = time.perf_counter()
        for _ in range(sizes.bulk // len(block)):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
        return sizes.bulk / (time.perf_counter() - begun)


def datagrams(address: tuple[str, int], sizes: Sizes) -> float:
    """UDP packets of 64 bytes that can be sent in a second."""
    payload = bytes(64)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        begun = time.perf_counter()
        for _ in range(sizes.datagrams):
            sock.send(payload)
        return sizes.datagrams / (time.perf_counter() - begun)


def echo(address: tuple[str, int], sizes: Sizes) -> float:
    """Seconds for the middle one of many round trips of one byte in an established TCP connection."""
    taken = []
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"e")
        for _ in range(sizes.echoes):
            begun = time.perf_counter()
            sock.send(b"x")
            sock.recv(1)
            taken.append(time.perf_counter() - begun)
    return median(taken)


MEASURES: dict[str, Callable[[tuple[str, int], Sizes], float]] = {
    "bytes a second, one TCP stream": bulk,
    "64-byte UDP packets a second": datagrams,
    "round trip, one byte by TCP": echo,
}


@contextmanager
def road(kind: str, case: Case, number: int) -> Iterator[Road]:
    """The device of a case with its lanes, and the other end: on lo in the same namespace, else at the other end of a
    wire, in a namespace of its own."""
    here, address = f"192.0.2.{2 * number}", f"192.0.2.{2 * number + 1}" if kind == "veth" else "127.0.0.1"
    words = ["unshare", "--net", sys.executable, str(HERE / "far.py"), address]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin
    assert process.stdout
    try:
        pid, device = _in_its_namespace(process.pid), kind
        process.stdin.write("link set lo up\n")
        if kind == "veth":
            device = f"wire{number}"
            _ip(
                f"link add {device} type veth peer name far0 netns {pid}",
                f"addr add {here}/31 dev {device}",
                f"link set {device} up",
            )
            process.stdin.write(f"addr add {address}/31 dev far0\nlink set far0 up\n")
        process.stdin.write("\n")
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the other end does not start")
        with open("/proc/self/ns/net" if kind == "veth" else f"/proc/{pid}/ns/net") as sender:
            for match in case.matches(kind):
                PlugLane.keep(device, match, ingress=case.ingress, netns=sender).close()
            if case.what == "u32":
                enter(sender)
                lines = [f"qdisc add dev {device} clsact", *u32_filters(device, case.lanes)]
                subprocess.run(["tc", "-batch", "-"], input="\n".join(lines), text=True, check=True)
            yield Road((address, PORT), sender)
    finally:
        process.stdin.close()
        process.wait(10)


def u32_filters(device: str, lanes: int) -> Iterator[str]:
    """Lines of tc: what lanes for new connections would take of u32, which compares bytes at fixed places. The header
    of IPv4 has one of eleven lengths."""
    for number in range(lanes):
        port, pref = PORT + number, 1 + 2 * number
        add = f"filter add dev {device} egress pref"
        for words in range(5, 16):
            ports, flags = 4 * words, 4 * words + 13
            yield (
                f"{add} {pref} protocol ip u32 match u8 {words} 0x0f at 0 match u16 0 0x1fff at 6 match u8 6 0xff at 9"
                f" match u16 {port} 0xffff at {ports + 2} match u8 0x02 0x17 at {flags} flowid 1:1"
            )
        yield (
            f"{add} {pref + 1} protocol ipv6 u32 match u8 6 0xff at 6 match u16 {port} 0xffff at 42"
            " match u8 0x02 0x17 at 53 flowid 1:1"
        )


def _in_its_namespace(pid: int) -> int:
    """The process, as soon as unshare has made its namespace."""
    ours = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/net") == ours:
        if time.monotonic() > deadline:
            raise RuntimeError("no right to make a network namespace")
        time.sleep(0.01)
    return pid


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def enter(namespace: TextIO) -> None:
    """Enter a network namespace with the calling thread."""
    if _libc.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def one_round(roads: dict[Case, Road], number: int, sizes: Sizes) -> Round:
    """Every measure in every case, beginning with another one each time."""
    values = {}
    cases = list(roads)
    turn = number % len(cases)
    for case in cases[turn:] + cases[:turn]:
        enter(roads[case].sender)
        for name, measure in MEASURES.items():
            values[case, name] = measure(roads[case].address, sizes)
    return values


def table(rounds: dict[str, list[Round]], cases: list[Case]) -> str:
    lines = [f"| ratio to no lane | {' | '.join(MEASURES)} |", f"|---|{'---:|' * len(MEASURES)}"]
    for kind, found in rounds.items():
        for case in cases[1:]:
            cells = [ratios([one[case, name] / one[NONE, name] for one in found]) for name in MEASURES]
            lines.append(f"| {kind}, {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(values: list[float]) -> str:
    """The median, and between which values the middle half lies."""
    lower, middle, upper = quantiles(values, n=4)
    return f"{middle:.2f} ({lower:.2f} to {upper:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few rounds, with 1 and 2 lanes; writes no README")
    options = parser.parse_args()
    sizes, count = (Sizes(1 << 20, 50, 10), SHORT_ROUNDS) if options.short else (Sizes(), ROUNDS)
    cases = cases_of(1, 2) if options.short else cases_of(1, 10, 100)
    rounds = {}
    for kind in KINDS:
        with open("/proc/self/ns/net") as home, ExitStack() as stack:
            roads = {case: stack.enter_context(road(kind, case, number)) for number, case in enumerate(cases)}
            if not options.short:
                one_round(roads, 0, Sizes(1 << 20, 100, 100))  # to warm up
            rounds[kind] = [one_round(roads, number, sizes) for number in range(count)]
            enter(home)
    text = table(rounds, cases)
    print(text)
    if not options.short:
        write(f"{text}\n\nMedian, and the middle half, of {count} rounds. {facts()}")


def facts() -> str:
    with open("/proc/cpuinfo") as cpuinfo:
        guest = ", User-Mode Linux" if "User Mode Linux" in cpuinfo.read() else ""
    return f"Linux {platform.release()}{guest}, {os.cpu_count()} processor{'s' * (os.cpu_count() != 1)}."


def write(text: str) -> None:
    """Put the text between the page's marks."""
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
