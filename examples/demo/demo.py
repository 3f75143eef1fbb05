# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job, with numbers: the packets of a running ping are held, and let go again.

    make demo            (as root, on a kernel with sch_plug, also: python examples/demo/demo.py)

    sender namespace                      receiver namespace
    ping, 5/s  ->  [plug] veth0  ------>  veth0, which answers

Three witnesses have to agree: the plug's statistics, `tc -s` and ping. The exit status is 0 only if all adds up.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import libnlplug

COUNT, BEFORE, HELD = 40, 10, 20  # packets
PATIENCE = 15.0  # seconds for any one step
SENDER, RECEIVER = f"sender-{os.getpid()}", f"receiver-{os.getpid()}"


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, text=True, stdout=subprocess.PIPE).stdout


def connect() -> None:
    """Two namespaces, and between them a veth pair that carries the ping and nothing else: no IPv6, no ARP."""
    mac, ipv6 = "02:00:00:00:00:0", "/proc/sys/net/ipv6/conf/default/disable_ipv6"
    for netns in SENDER, RECEIVER:
        sh(f"ip netns add {netns}")
        sh(f"ip netns exec {netns} sh -c '[ ! -e {ipv6} ] || echo 1 >{ipv6}'")
    sh(f"ip -n {SENDER} link add veth0 address {mac}1 type veth peer veth0 address {mac}2 netns {RECEIVER}")
    for netns, here, there in (SENDER, 1, 2), (RECEIVER, 2, 1):
        sh(f"ip -n {netns} address add 10.0.0.{here}/24 dev veth0")
        sh(f"ip -n {netns} link set veth0 up")
        sh(f"ip -n {netns} neighbour replace 10.0.0.{there} lladdr {mac}{there} dev veth0 nud permanent")


class Ping(threading.Thread):
    """A running ping."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[int, float]] = []  # sequence number, round trip in seconds
        self.summary = "no summary"
        # -S: held packets stay on ping's account; its own send buffer is full after a dozen, then it would fall silent
        command = f"ip netns exec {SENDER} ping -n -i 0.2 -c {COUNT} -S 1000000 10.0.0.2"
        self.process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
        self.start()

    def run(self) -> None:
        for line in self.process.stdout or ():
            if answer := re.search(r"icmp_seq=(\d+) .*time=([\d.]+) ms", line):
                self.answers.append((int(answer[1]), float(answer[2]) / 1000))
            elif "transmitted" in line:
                self.summary = line.strip()


def until(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"demo: gave up after {PATIENCE:g} s: {what}")
        time.sleep(0.005)


def demo(ping: Ping) -> bool:
    begin = time.monotonic()

    def show(action: str = "") -> tuple[int, int]:
        stats, answered = plug.stats(), len(ping.answers)
        tc = json.loads(sh(f"tc -n {SENDER} -s -j qdisc show dev veth0"))[0]
        print(
            f"{time.monotonic() - begin:5.1f} s   {action:18}{answered:10}{stats.qlen:10}{stats.backlog:8}"
            f"{tc['qlen']:14}{tc['backlog']:8}",
            flush=True,
        )
        return stats.qlen, tc["qlen"]

    print(f"{'':28}{'answered':>10}{'held':>10}{'bytes':>8}{'held (tc -s)':>14}{'bytes':>8}")
    until("the ping runs", lambda: len(ping.answers) >= BEFORE // 2)
    with libnlplug.attach("veth0", limit=1 << 20, netns=SENDER) as plug:
        show("attach")
        until("the ping runs through the plug", lambda: len(ping.answers) >= BEFORE)
        plug.buffer()
        show("buffer")
        answered = len(ping.answers)
        for step in range(HELD // 4, HELD, HELD // 4):
            until(f"{step} packets are held", lambda step=step: plug.stats().qlen >= step)  # type: ignore[misc]
            show()
        until(f"{HELD} packets are held", lambda: plug.stats().qlen >= HELD)
        ping.process.send_signal(signal.SIGSTOP)  # the numbers stand still while they are compared
        held, held_by_tc = show()
        answered_while_held = len(ping.answers) - answered
        plug.release_indefinite()
        ping.process.send_signal(signal.SIGCONT)
        until("every held packet is answered", lambda: len(ping.answers) >= answered + held)
        show("release_indefinite")
        until("the ping ends", lambda: not ping.is_alive())
        show()
        end = plug.stats()

    print(f"ping: {ping.summary}")
    numbers = [number for number, _ in ping.answers]
    waited = [seconds for number, seconds in ping.answers if answered < number <= answered + held]
    print(f"held packets waited from {max(waited):.2f} s (the first) to {min(waited):.2f} s (the last)")
    claims = {
        "no packet was answered while held": answered_while_held == 0,
        f"{held} packets were held, says the plug; {held_by_tc}, says tc": held == held_by_tc >= HELD,
        f"{len(waited)} of the {held} held packets were delivered after the release": len(waited) == held,
        f"{COUNT} packets sent, {len(numbers)} answered, in order": numbers == list(range(1, COUNT + 1)),
        f"{end.drops} dropped, {end.qlen} left in the plug": end.drops == end.qlen == ping.process.wait() == 0,
    }
    for claim, true in claims.items():
        print(f"{'yes' if true else 'NO':>5}   {claim}")
    return all(claims.values())


if __name__ == "__main__":
    print(f"libnlplug {libnlplug.__version__} on {platform.system()} {platform.release()}")
    ping = None
    try:
        connect()
        ping = Ping()
        add_up = demo(ping)
    finally:
        if ping:
            ping.process.kill()
        for netns in SENDER, RECEIVER:
            subprocess.run(["ip", "netns", "delete", netns], stderr=subprocess.DEVNULL)
    sys.exit(0 if add_up else "demo: the numbers do not add up")
