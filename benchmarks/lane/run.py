#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What lanes cost the traffic that they do not choose: the same traffic with 1, 10 and 100 of them and without.

    tools/testkernel/run --pin 1 -- .venv/bin/python benchmarks/lane/run.py [--short]

The first lane chooses new TCP connections to the port that the traffic goes to, the others those to the ports after it.
Of all packets that do not match, those of established connections to that port are compared the longest. "u32" are the
same lanes, as u32 filters that tc adds: two of each, for IPv4 and IPv6. In each round every case is measured once, in
changing order. A measurement sends many small pieces and takes the time that a fifth of them took at most: a busy
machine makes some pieces longer. The table has the medians of the rounds' ratios; it goes into README.md beside this
file, unless --short is given. Needs root on a kernel with sch_plug.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from far import PORT, ROOM

from libnlplug import Match, PlugLane
from libnlplug.lane.remove import delete_lanes
from libnlplug.netlink.route_socket import RouteSocket

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ROUNDS, SHORT_ROUNDS = 7, 1
IFB = "ifbu32"  # where the u32 filters lead
ADDRESSES = {"lo": "127.0.0.1", "wire0": "192.0.2.2"}


class Case(NamedTuple):
    """What is at the device's hooks while the traffic is measured."""

    name: str
    lanes: int = 0
    ingress: bool = False
    u32: bool = False


CASES = [
    Case("no lane"),
    Case("no lane, once more"),
    *(Case(f"{count} leaving", count) for count in (1, 10, 100)),
    *(Case(f"{count} arriving", count, ingress=True) for count in (1, 10, 100)),
    *(Case(f"{count} leaving, u32", count, u32=True) for count in (1, 10, 100)),
]


class Sizes(NamedTuple):
    """How many pieces of each kind are sent for one measurement."""

    blocks: int = 64
    bursts: int = 64
    echoes: int = 400


Round = dict[tuple[str, str], float]  # seconds, by case and measure


def bulk(address: tuple[str, int], sizes: Sizes) -> Iterator[float]:
    """Seconds for each of many megabytes through one TCP connection."""
    block = bytes(1 << 20)
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        sock.sendall(b"s" + block)
        for _ in range(sizes.blocks):
            begun = time.perf_counter()
            sock.sendall(block)
            yield time.perf_counter() - begun
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)


def datagrams(address: tuple[str, int], sizes: Sizes) -> Iterator[float]:
    """Seconds for sending each of many bursts of 50 UDP packets of 64 bytes."""
    payload = bytes(64)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        for _ in range(sizes.bursts):
            begun = time.perf_counter()
            for _ in range(50):
                sock.send(payload)
            yield time.perf_counter() - begun


def echo(address: tuple[str, int], sizes: Sizes) -> Iterator[float]:
    """Seconds for each of many round trips of one byte in an established TCP connection."""
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"e")
        for _ in range(sizes.echoes):
            begun = time.perf_counter()
            sock.send(b"x")
            sock.recv(1)
            yield time.perf_counter() - begun


MEASURES: dict[str, Callable[[tuple[str, int], Sizes], Iterator[float]]] = {
    "a megabyte by TCP": bulk,
    "50 UDP packets": datagrams,
    "a round trip by TCP": echo,
}


def undisturbed(times: Iterator[float]) -> float:
    """The time that a fifth of the pieces took at most: what else the machine does makes some of them longer."""
    return quantiles(times, n=5)[0]


@contextmanager
def far(device: str) -> Iterator[None]:
    """The other end: on lo beside us, else in a namespace of its own, at the other end of a wire."""
    address, remote = ADDRESSES[device], device != "lo"
    words = [*(["unshare", "--net"] if remote else []), sys.executable, str(HERE / "far.py"), address]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin
    assert process.stdout
    try:
        if remote:
            _ip(f"link add {device} type veth peer name far0 netns {_in_its_namespace(process.pid)}")
            _ip(f"addr add 192.0.2.1/24 dev {device}")
            _ip(f"link set {device} up")
            process.stdin.write(f"addr add {address}/24 dev far0\nlink set far0 up\n")
        process.stdin.write("\n")
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the other end does not start")
        yield
    finally:
        process.stdin.close()
        process.wait(10)


def _in_its_namespace(pid: int) -> int:
    """The process, as soon as unshare has made its namespace."""
    ours = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/net") == ours:
        if time.monotonic() > deadline:
            raise RuntimeError("no right to make a network namespace")
        time.sleep(0.01)
    return pid


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def matches(device: str, case: Case) -> list[Match]:
    """New connections to the port and to those after it. The port is the source of what arrives from the other end of a
    wire."""
    side = "src_port" if case.ingress and device != "lo" else "dst_port"
    return [Match(ip_proto="tcp", tcp_syn=True, **{side: PORT + number}) for number in range(case.lanes)]


@contextmanager
def lanes(device: str, case: Case) -> Iterator[None]:
    """The lanes of the case; where it has none, the device keeps its clsact qdisc, empty."""
    if case.u32:
        _tc(*u32(device, case.lanes))
        yield
        _tc(f"filter del dev {device} egress")
        return
    for match in matches(device, case):
        PlugLane.keep(device, match, ingress=case.ingress).close()
    yield
    delete_lanes(RouteSocket(), device, None, None)


def u32(device: str, count: int) -> Iterator[str]:
    """Lines of tc(8) for filters that choose what the lanes choose, but packets with IP options."""
    action = f"action mirred egress redirect dev {IFB}"
    for port in range(PORT, PORT + count):
        yield (
            f"filter add dev {device} egress pref 1 protocol ip u32 match u8 0x05 0x0f at 0 match ip protocol 6 0xff"
            f" match u16 0 0x1fff at 6 match u16 {port} 0xffff at 22 match u8 0x02 0x17 at 33 {action}"
        )
        yield (
            f"filter add dev {device} egress pref 2 protocol ipv6 u32 match u8 6 0xff at 6"
            f" match u16 {port} 0xffff at 42 match u8 0x02 0x17 at 53 {action}"
        )


def _tc(*lines: str) -> None:
    subprocess.run(["tc", "-batch", "-"], input="\n".join([*lines, ""]), text=True, check=True)


def one_round(device: str, number: int, sizes: Sizes) -> Round:
    """Every measure in every case, beginning with another one each time."""
    values = {}
    turn = number % len(CASES)
    for case in CASES[turn:] + CASES[:turn]:
        with lanes(device, case):
            for name, measure in MEASURES.items():
                values[case.name, name] = undisturbed(measure((ADDRESSES[device], PORT), sizes))
    return values


def table(rounds: dict[str, list[Round]]) -> str:
    lines = [f"| time, as a ratio to no lane | {' | '.join(MEASURES)} |", f"|---|{'---:|' * len(MEASURES)}"]
    for device, found in rounds.items():
        for case in CASES[1:]:
            cells = [ratios([one[case.name, name] / one[CASES[0].name, name] for one in found]) for name in MEASURES]
            lines.append(f"| {'lo' if device == 'lo' else 'veth'}, {case.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(values: list[float]) -> str:
    """The median, the smallest and the largest."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"{SHORT_ROUNDS} rounds of little; writes no README")
    options = parser.parse_args()
    sizes, count = (Sizes(4, 4, 10), SHORT_ROUNDS) if options.short else (Sizes(), ROUNDS)
    for line in ("link set lo up", f"link add {IFB} type ifb", f"link set {IFB} up"):
        _ip(line)
    rounds = {}
    for device in ADDRESSES:
        with far(device):
            one_round(device, 0, Sizes(4, 4, 10))  # to warm up
            rounds[device] = [one_round(device, number, sizes) for number in range(count)]
    text = table(rounds)
    print(text)
    if not options.short:
        write(f"{text}\n\nMedian, smallest and largest of {count} rounds. {facts()}")


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
