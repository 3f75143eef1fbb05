#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device loses when its first lane comes, and what later lanes cost: packets counted under a stream.

    tools/testkernel/run -- .venv/bin/python benchmarks/lane/first.py [ROUNDS]

UDP packets go over a veth pair without a pause. In each round a lane is made and closed on the sender's device: without
a clsact qdisc, which the lane then adds and leaves there; and with the one that is there. Between the rounds the stream
stops and tc deletes the qdisc. Needs root on a kernel with sch_plug.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress

from run import _in_its_namespace, _ip

from libnlplug import Match, PlugLane

PORT = 7000
LANE = Match(ip_proto="tcp", dst_port=9, tcp_syn=True)


class Stream:
    """Packets that are sent as fast as one thread can, and counted as they leave the wire's other end."""

    def __init__(self) -> None:
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect(("192.0.2.2", PORT))
        self.over = threading.Event()
        self.sent = 0

    def go_on(self) -> None:
        while not self.over.is_set():
            with suppress(OSError):
                self.sender.send(struct.pack("!Q", self.sent))
                self.sent += 1
            time.sleep(0.0001)


def arrived() -> int:
    """How many packets the device has given to its peer."""
    with open("/sys/class/net/wire0/statistics/tx_packets") as file:
        return int(file.read())


def one_round() -> tuple[int, int]:
    """Sent and lost while a lane is made and closed."""
    stream, before = Stream(), arrived()
    thread = threading.Thread(target=stream.go_on)
    thread.start()
    time.sleep(0.05)
    with PlugLane("wire0", LANE):
        time.sleep(0.02)
    time.sleep(0.05)
    stream.over.set()
    thread.join()
    time.sleep(0.05)
    return stream.sent, stream.sent - (arrived() - before)


def main() -> None:
    rounds = int(sys.argv[1]) if sys.argv[1:] else 100
    other = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
    try:
        _ip(f"link add wire0 type veth peer name far0 netns {_in_its_namespace(other.pid)}")
        subprocess.run(["nsenter", "-t", str(other.pid), "-n", "ip", "link", "set", "far0", "up"], check=True)
        for line in ("addr add 192.0.2.1/24 dev wire0", "link set wire0 up"):
            _ip(line)
        _ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev wire0 nud permanent")
        with open("/proc/sys/net/ipv6/conf/wire0/disable_ipv6", "w") as file:
            file.write("1")
        subprocess.run(["tc", "qdisc", "add", "dev", "wire0", "root", "pfifo"], check=True)
        time.sleep(0.5)
        for name, first in (("its first lane adds clsact", True), ("clsact is there", False)):
            sent = lost = hit = 0
            for _ in range(rounds):
                if first:
                    subprocess.run(["tc", "qdisc", "del", "dev", "wire0", "clsact"], stderr=subprocess.DEVNULL)
                    time.sleep(0.02)
                more, gone = one_round()
                sent, lost, hit = sent + more, lost + gone, hit + (gone > 0)
            print(f"{name}: lost {lost} of {sent} packets, in {hit} of {rounds} rounds", flush=True)
    finally:
        other.terminate()
        other.wait(10)


if __name__ == "__main__":
    main()
