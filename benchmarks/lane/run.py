#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lane costs the traffic that it does not choose: the same traffic with it and without, side by side.

    tools/testkernel/run --pin 1 -- .venv/bin/python benchmarks/lane/run.py [--short]

The lane chooses new TCP connections to the port that the traffic goes to: of all that does not match, established
connections to that port are looked at the longest. In each round every case is measured without a lane and with it,
in changing order; the table has the medians of the rounds' ratios. The whole writes it into README.md beside this file.
Needs root on a kernel with sch_plug.
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

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ROUNDS, SHORT_ROUNDS = 41, 3
ADDRESSES = {"lo": "127.0.0.1", "wire0": "192.0.2.2"}
CASES = ["no lane", "no lane, once more", "leaving", "arriving"]


class Sizes(NamedTuple):
    """How much is sent for one measurement."""

    bulk: int = 64 << 20  # bytes
    datagrams: int = 3000
    echoes: int = 500


Round = dict[tuple[str, str], float]  # by case and measure


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


def match(device: str, case: str) -> Match:
    """New connections of the port's, which is the source of what arrives from the other end of a wire."""
    if case == "arriving" and device != "lo":
        return Match(ip_proto="tcp", src_port=PORT, tcp_syn=True)
    return Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)


def one_round(device: str, number: int, sizes: Sizes) -> Round:
    """Every measure in every case, beginning with another one each time."""
    values = {}
    turn = number % len(CASES)
    for case in CASES[turn:] + CASES[:turn]:
        lane = PlugLane(device, match(device, case), ingress=case == "arriving") if "no" not in case else None
        for name, measure in MEASURES.items():
            values[case, name] = measure((ADDRESSES[device], PORT), sizes)
        if lane is not None:
            lane.close()
    return values


def table(rounds: dict[str, list[Round]]) -> str:
    lines = [f"| ratio to no lane | {' | '.join(MEASURES)} |", f"|---|{'---:|' * len(MEASURES)}"]
    for device, found in rounds.items():
        for case in CASES[1:]:
            cells = [ratios([one[case, name] / one[CASES[0], name] for one in found]) for name in MEASURES]
            lines.append(f"| {'lo' if device == 'lo' else 'veth'}, {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(values: list[float]) -> str:
    """The median, and between which values the middle half lies."""
    lower, middle, upper = quantiles(values, n=4)
    return f"{middle:.2f} ({lower:.2f} to {upper:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"{SHORT_ROUNDS} rounds of little; writes no README")
    options = parser.parse_args()
    sizes, count = (Sizes(1 << 20, 200, 50), SHORT_ROUNDS) if options.short else (Sizes(), ROUNDS)
    _ip("link set lo up")
    rounds = {}
    for device in ADDRESSES:
        with far(device):
            one_round(device, 0, Sizes(1 << 20, 100, 100))  # to warm up
            rounds[device] = [one_round(device, number, sizes) for number in range(count)]
    text = table(rounds)
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
