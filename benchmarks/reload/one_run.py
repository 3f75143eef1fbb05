# SPDX-License-Identifier: GPL-2.0-or-later
"""One run: a server, a population of clients, and some reloads in one way, in namespaces that go with the run.

    unshare --net --pid --fork --kill-child --mount-proc  python one_run.py SERVER WAY RELOADS SEED DIRECTORY

DIRECTORY gets connections.csv (see client.py) and reloads.csv: when each reload began and ended, for how many seconds
SYNs were held, and the process that serves since then. After each reload this process asks until the new process
answers; a reload command that fails, or puts no new process in its place, fails the run. More words after DIRECTORY are
a command that takes the place of the reload's, to see just that.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from client import REQUEST
from servers import SERVERS
from ways import WAYS, CommandFailed, sh

HERE = Path(__file__).resolve().parent
PORT = 8080
CLIENTS, CLIENT_PAUSE = "24", "0.08"
SETTLE = 0.5  # seconds before the first reload, and after the last
PATIENCE = 5.0  # seconds for the new process to answer


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
            with socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE) as connection:
                connection.sendall(REQUEST)
                if connection.makefile("rb").read().split()[-1:] == [b"%d" % pid]:
                    return
        except OSError:
            pass  # the old process took the question along
    raise NotReloaded(f"process {pid} should serve, and does not answer")


def main() -> None:
    server, way, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    directory, instead = Path(sys.argv[5]), sys.argv[6:]
    sh("ip link set lo up")
    served = SERVERS[server](directory, PORT)
    reload = WAYS[way].prepare(PORT)
    served.start()
    population = [sys.executable, HERE / "client.py", str(PORT), CLIENTS, CLIENT_PAUSE, str(seed)]
    client = subprocess.Popen([*population, directory / "connections.csv"], stdin=subprocess.PIPE)
    chance = random.Random(seed)
    reloads: list[Reloaded] = []
    pids = {served.pid()}
    time.sleep(SETTLE)
    for number in range(1, count + 1):
        time.sleep(chance.uniform(*WAYS[way].pause))
        begun = time.monotonic()
        held = reload(instead or served.reload_command())
        if way == "nothing":
            continue
        pid = served.pid()
        if pid in pids:
            raise NotReloaded(f"after reload {number} process {pid} serves, as before")
        pids.add(pid)
        reloads.append(Reloaded(begun, time.monotonic(), held, pid))
        wait_for_answer(pid)
    time.sleep(SETTLE)
    client.communicate(timeout=60)
    with open(directory / "reloads.csv", "w") as file:
        for one in reloads:
            held_text = "" if one.held is None else f"{one.held:.6f}"
            file.write(f"{one.begun:.6f},{one.ended:.6f},{held_text},{one.pid}\n")


if __name__ == "__main__":
    try:
        main()
    except (CommandFailed, NotReloaded) as failure:
        sys.exit(f"{' '.join(sys.argv[1:3])}: {failure}")
