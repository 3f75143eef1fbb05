# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket migration: net.ipv4.tcp_migrate_req moves a closing listener's connections to another one of its group.

The engine is the kernel's own migration within a SO_REUSEPORT group. A server on the first director is replaced again
and again, under clients that make short connections; the second director is not used.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clients import Population, in_words
from net import PORT, VIP, counters, network, route_to, settings, wait_until_accepted
from programs import Haproxy
from table import Found, Row, Table, milliseconds, scenario

from libnlplug import Match, PlugLane

PLACE = "d1"
EVERYWHERE = "0.0.0.0"
REST = 0.1  # seconds from a server's first answer to its end
PAUSE = 0.1  # a client's mean pause, in seconds
MANY = 32  # clients: so many that haproxy's accept queue is not always empty
COUNTERS = ("TCPMigrateReqSuccess", "TCPMigrateReqFailure")

CONFIG = """\
global
    nbthread 1
    maxconn 4000
    stats socket {socket} mode 600 level admin expose-fd listeners

defaults
    mode http
    timeout client 10s
    timeout http-request 10s

frontend web
    bind {vip}:{port} backlog 1024
    http-request return status 200 content-type text/plain lf-string "%pid"
"""


class Reloaded:
    """haproxy: how it is replaced is in ``replace``."""

    def __init__(self, directory: Path, replace: Callable[[Haproxy], None]) -> None:
        config = CONFIG.format(socket=directory / "haproxy.sock", vip=VIP, port=PORT)
        self._haproxy = Haproxy(directory, config, PLACE)
        self._haproxy.start()
        self._replace = replace

    def replace(self) -> None:
        self._replace(self._haproxy)

    def end(self) -> None:
        self._haproxy.end()


class Queueing:
    """queueing.py, whose processes are started as ``kinds`` say in turn: address, and save-syn or nothing."""

    def __init__(self, how: str, kinds: tuple[str, str] = (VIP, VIP), gap: float | None = None) -> None:
        self._how, self._kinds, self._gap = how, list(kinds), gap
        words = ["ip", "netns", "exec", PLACE, sys.executable, str(Path(__file__).with_name("queueing.py"))]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._start()

    def _order(self, line: str) -> None:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError(f"queueing.py ended at '{line}'")

    def _start(self) -> None:
        address, *more = self._kinds[0].split()
        self._kinds.reverse()
        self._order(" ".join(["start", address, str(PORT), *more]))

    def replace(self) -> None:
        if self._gap is None:
            self._start()
            self._order(f"stop {self._how}")
        else:
            self._order(f"stop {self._how}")
            time.sleep(self._gap)
            self._start()

    def end(self) -> None:
        self._process.communicate(timeout=10)


def reload(haproxy: Haproxy) -> None:
    haproxy.reload()


def hand_over(haproxy: Haproxy) -> None:
    haproxy.reload("-x", str(haproxy.socket))


def stop_and_start(haproxy: Haproxy) -> None:
    haproxy.stop_softly()
    haproxy.start()


ALONE, HELD = "alone", "held"
AWAITED = "held, the queue awaited"  # until all who were in it are accepted; then the server is replaced
ALL = (ALONE, HELD, AWAITED)


class Case(NamedTuple):
    """A row: how a server is replaced, at which value of tcp_migrate_req, and with which servers."""

    what: str
    migrate: int
    server: Callable[[Path], Reloaded | Queueing]
    ways: tuple[str, ...] = (ALONE, HELD)
    short: bool = False
    clients: int = 24


AT_ONCE = "a full accept queue, closed at once"
DRAINED = "a full accept queue, answered before it is closed"
GAP = 0.1  # seconds in which nobody listens
CASES = [
    Case("`haproxy -sf`", 0, lambda place: Reloaded(place, reload), clients=MANY),
    Case("`haproxy -sf`", 1, lambda place: Reloaded(place, reload), clients=MANY),
    Case("`haproxy -x SOCKET -sf`: hands its sockets over", 0, lambda place: Reloaded(place, hand_over), (ALONE,)),
    Case(AT_ONCE, 0, lambda _: Queueing("now"), ALL, short=True),
    Case(AT_ONCE, 1, lambda _: Queueing("now"), short=True),
    Case(DRAINED, 0, lambda _: Queueing("drain")),
    Case(DRAINED, 1, lambda _: Queueing("drain"), (ALONE,)),
    Case("haproxy stops, then starts", 1, lambda place: Reloaded(place, stop_and_start), ALL, short=True),
    Case("the only listener closes, another one comes later", 1, lambda _: Queueing("drain", gap=GAP)),
    Case("old and new listen on different addresses", 1, lambda _: Queueing("drain", (EVERYWHERE, VIP))),
    Case("old without, new with TCP_SAVE_SYN", 1, lambda _: Queueing("now", (VIP, f"{VIP} save-syn")), ALL),
    Case("the same, the queue answered before it is closed", 1, lambda _: Queueing("drain", (VIP, f"{VIP} save-syn"))),
]


class Seen(NamedTuple):
    """What one run of a case came to."""

    connections: int
    lost: Counter[str]
    moved: list[int]  # by COUNTERS
    worst: float
    times: list[float]


def run_case(case: Case, way: str, replacements: int) -> Seen:
    settings(PLACE, tcp_migrate_req=case.migrate)
    match = Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)
    with TemporaryDirectory() as directory, PlugLane("eth0", match, ingress=True, netns=PLACE) as lane:
        server = case.server(Path(directory))
        before, times = counters(PLACE), []
        try:
            with Population(case.clients, pause=PAUSE) as population:
                for number in range(replacements):
                    population.wait_for_servers(number + 1)
                    time.sleep(REST)
                    begun = time.monotonic()
                    with nullcontext() if way == ALONE else lane.hold(timeout=30):
                        if way == AWAITED:
                            wait_until_accepted(PLACE)
                        server.replace()
                    times.append(time.monotonic() - begun)
                population.wait_for_servers(replacements + 1)
        finally:
            server.end()
        after = counters(PLACE)
    moved = [after[name] - before[name] for name in COUNTERS]
    return Seen(population.count("short"), population.lost("short"), moved, population.worst("short"), times)


def migration(short: bool) -> Found:
    rows, lines = [], []
    replacements = 1 if short else 10
    with network(backends=0):
        route_to(PLACE)
        for case in CASES:
            if short and not case.short:
                continue
            seen = {way: run_case(case, way, replacements) for way in case.ways}
            for way, one in seen.items():
                lost = in_words(one.lost), f"{sum(one.lost.values()) / replacements:.1f}"
                times = milliseconds(one.worst), milliseconds(median(one.times))
                lines.append([f"{case.what}; {way}", case.migrate, one.connections, *lost, *one.moved, *times])
                print(*lines[-1], sep=" | ", flush=True)
            what = f"{case.what}; `tcp_migrate_req={case.migrate}`"
            counted = " + ".join(str(one.connections) for one in seen.values())
            lost = [in_words(one.lost) for one in seen.values()] + ["-"]
            held = lost[1] if AWAITED not in seen else f"{lost[1]}; the queue awaited: {lost[2]}"
            rows.append(Row(what, counted, lost[0], held, "success {}, failure {}".format(*seen[ALONE].moved)))
    head = ["replaced how", "`tcp_migrate_req`", "connections", "lost", "each time", *COUNTERS, "longest wait", "takes"]
    return Found(rows, [Table(f"Each server replaced {replacements} times", head, lines)], [])


if __name__ == "__main__":
    scenario(migration)
