# SPDX-License-Identifier: GPL-2.0-or-later
"""One run: a server, a population of clients in a network namespace of their own, and some reloads in one way, in
namespaces that go with the run.

    unshare --net --pid --fork --kill-child --mount-proc
        python one_run.py SERVER WAY LOAD RELOADS SEED DIRECTORY

LOAD is quiet, or busy: then each processor also runs a program that never pauses. DIRECTORY gets connections.csv (see
client.py) and reloads.csv: when each reload began and ended, for how many seconds SYNs were held, and the process that
serves since then. After each reload this process asks until the new process answers, and waits until the old one has
ended. A reload command that fails, or puts no new process in its place, fails the run; so does a new process that
answered none of the clients. More words after DIRECTORY are a command that takes the place of the reload's, to see just
that; RELOAD_PATIENCE in the environment is for how many seconds this process waits for an answer and for an end, and a
client for its connection (10).
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from client import PATIENCE, REQUEST
from servers import SERVERS
from ways import WAYS, CommandFailed, Place, Words, run

HERE = Path(__file__).resolve().parent
DEVICE, ADDRESS, FAR_ADDRESS = "wire", "192.0.2.1", "192.0.2.2"
PORT = 8080
CLIENTS, CLIENT_PAUSE = "24", "0.08"
LOADS = ("quiet", "busy")
SETTLE = 0.5  # seconds before the first reload, and after the last


class Reloaded(NamedTuple):
    """One reload; times of CLOCK_MONOTONIC."""

    begun: float
    ended: float
    held: float | None
    pid: int


class Connection(NamedTuple):
    """One connection of the population."""

    due: float
    latency: float
    ended: str
    pid: int


class NotReloaded(Exception):
    """A reload did not take place."""


def connections_of(directory: Path) -> list[Connection]:
    found = []
    for line in (directory / "connections.csv").read_text().splitlines():
        due, latency, ended, pid = line.split(",")
        found.append(Connection(float(due), float(latency), ended, int(pid or 0)))
    return sorted(found)


def reloads_of(directory: Path) -> list[Reloaded]:
    found = []
    for line in (directory / "reloads.csv").read_text().splitlines():
        begun, ended, held, pid = line.split(",")
        found.append(Reloaded(float(begun), float(ended), float(held) if held else None, int(pid)))
    return found


def wait_for_answer(pid: int) -> None:
    """Ask until this process answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((ADDRESS, PORT), timeout=PATIENCE) as connection:
                connection.sendall(REQUEST)
                if connection.makefile("rb").read().split()[-1:] == [b"%d" % pid]:
                    return
        except OSError:
            pass  # the old process took the question along
    raise NotReloaded(f"process {pid} should serve, and does not answer")


def wait_for_end(pid: int) -> None:
    """Wait until this process has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # nobody has asked for its status yet
        except OSError:
            return
        time.sleep(0.01)
    raise NotReloaded(f"the old process {pid} has not ended")


def clients(seed: str, output: Path) -> tuple[subprocess.Popen[bytes], Words]:
    """The clients, ready to begin, in a network namespace beyond a veth; and the words that run a command there."""
    words = ["unshare", "--net", sys.executable, HERE / "client.py", ADDRESS, str(PORT), CLIENTS, CLIENT_PAUSE, seed]
    client = subprocess.Popen([*words, output], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    if client.stdout.readline() != b"ready\n":
        raise CommandFailed("the clients did not start")
    far = ["nsenter", f"--net=/proc/{client.pid}/ns/net"]
    made = ["link set lo up", f"link add {DEVICE} type veth peer name {DEVICE} netns {client.pid}"]
    for address, where, first in ((ADDRESS, [], made), (FAR_ADDRESS, far, [])):
        lines = [*first, f"address add {address}/24 dev {DEVICE}", f"link set {DEVICE} up"]
        run([*where, "ip", "-batch", "-"], "\n".join(lines))
    return client, far


def begin(client: subprocess.Popen[bytes]) -> None:
    """Let the clients begin."""
    assert client.stdin is not None
    client.stdin.write(b"begin\n")
    client.stdin.flush()


def keep_busy() -> None:
    """A program on each processor that never pauses. It ends with this run."""
    for _ in range(os.cpu_count() or 1):
        subprocess.Popen(["sh", "-c", "while :; do :; done"])


def main() -> None:
    server, way, load, count, seed = sys.argv[1:6]
    directory, instead = Path(sys.argv[6]), sys.argv[7:]
    client, far = clients(seed, directory / "connections.csv")
    served = SERVERS[server](directory, ADDRESS, PORT)
    reload = WAYS[way].prepare(Place(DEVICE, PORT, far))
    served.start()
    begin(client)
    if load == "busy":
        keep_busy()
    chance = random.Random(seed)
    reloads: list[Reloaded] = []
    pids = [served.pid()]
    time.sleep(SETTLE)
    for number in range(1, int(count) + 1):
        time.sleep(chance.uniform(*WAYS[way].pause))
        begun = time.monotonic()
        held = reload(instead or served.reload_command())
        if way == "nothing":
            continue
        pid = served.pid()
        if pid in pids:
            raise NotReloaded(f"after reload {number} process {pid} serves, as before")
        reloads.append(Reloaded(begun, time.monotonic(), held, pid))
        wait_for_answer(pid)
        wait_for_end(pids[-1])
        pids.append(pid)
    time.sleep(SETTLE)
    client.communicate(timeout=60 + PATIENCE)
    with open(directory / "reloads.csv", "w") as file:
        for one in reloads:
            held_text = "" if one.held is None else f"{one.held:.6f}"
            file.write(f"{one.begun:.6f},{one.ended:.6f},{held_text},{one.pid}\n")
    silent = set(pids) - {one.pid for one in connections_of(directory)}
    if silent and way != "syn-drop":  # whose clients may all be waiting to try again
        raise NotReloaded(f"processes {sorted(silent)} served, and answered none of the clients")


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, NotReloaded) as failure:
        sys.exit(f"{' '.join(sys.argv[1:4])}: {failure}")
