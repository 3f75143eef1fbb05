# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket migration: net.ipv4.tcp_migrate_req moves a closing listener's connections to another one of its group.

The engine is the kernel's own migration within a SO_REUSEPORT group, beside what servers did before: a BPF program that
gives no more SYNs to the old listener. A server on the first director is replaced again and again, under clients that
make short connections; the second director is not used.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clients import Population
from net import PORT, VIP, counters, delay, network, route_to, settings, wait_until_accepted
from programs import Haproxy, haproxies
from repeat import Case, Seen, program, some

from libnlplug import Match, PlugLane

PLACE = "d1"
EVERYWHERE = "0.0.0.0"
REST = 0.1  # seconds from a server's first answer to its end
PAUSE = 0.1  # a client's mean pause, in seconds
REPLACEMENTS = 3  # in each measurement
GAP = 0.1  # seconds in which nobody listens
SLOW = 40  # milliseconds that each packet of a client takes: so long are handshakes in progress
COUNTERS = {"TCPMigrateReqSuccess": "migrated", "TCPMigrateReqFailure": "failed to migrate"}

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

    def __init__(
        self, replace: Callable[[Haproxy], None], directory: Path, program: tuple[str, ...] = ("haproxy",)
    ) -> None:
        config = CONFIG.format(socket=directory / "haproxy.sock", vip=VIP, port=PORT)
        self._haproxy = Haproxy(directory, config, PLACE, program=program)
        self._haproxy.start()
        self._replace = replace

    def replace(self) -> None:
        self._replace(self._haproxy)

    def end(self) -> None:
        self._haproxy.end()


class Queueing:
    """queueing.py, whose processes are started as ``kinds`` say in turn: address, and an option or nothing."""

    def __init__(
        self, how: str, _directory: Path, kinds: tuple[str, str] = (VIP, VIP), gap: float | None = None
    ) -> None:
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
COUNTED = "BPF, as many as counted"
MIGRATES = "`tcp_migrate_req=1`"


class Way(NamedTuple):
    """How a server is replaced, at which value of tcp_migrate_req, under which hold."""

    server: Callable[[Path], Reloaded | Queueing]
    migrate: int = 0
    hold: str = ALONE
    clients: int = 24
    delay: int = 0


def replace(way: Way, replacements: int) -> Seen:
    """Replace the server under its clients."""
    settings(PLACE, tcp_migrate_req=way.migrate)
    match = Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)
    lane = PlugLane("eth0", match, ingress=True, netns=PLACE)
    with TemporaryDirectory() as directory, lane, delay("client", way.delay):
        server = way.server(Path(directory))
        before = counters(PLACE)
        try:
            with Population(way.clients, pause=PAUSE) as population:
                for number in range(replacements):
                    population.wait_for_servers(number + 1)
                    time.sleep(REST)
                    with nullcontext() if way.hold == ALONE else lane.hold(timeout=30):
                        if way.hold == AWAITED:
                            wait_until_accepted(PLACE)
                        server.replace()
                population.wait_for_servers(replacements + 1)
        finally:
            server.end()
        after = counters(PLACE)
    figures = {word: after[name] - before[name] for name, word in COUNTERS.items() if way.migrate}
    figures["longest wait, ms"] = round(1000 * population.worst("short"))
    return Seen(population.count("short"), population.lost("short"), figures)


def ways(server: Callable[[Path], Reloaded | Queueing], *names: str, migrate: int = 0, **more: int) -> dict[str, Way]:
    """These ways of replacing one server."""
    found = {}
    for name in names:
        hold = name if name in (HELD, AWAITED) else ALONE
        found[name] = Way(server, 1 if name == MIGRATES else migrate, hold, **more)
    return found


def draining(slow: int) -> dict[str, Way]:
    """A server that accepts until EAGAIN before it closes, and what was tried against what it still loses."""
    plain, steered = (VIP, VIP), (f"{VIP} steered",) * 2
    more = {"clients": 40, "delay": slow}
    return {
        ALONE: Way(partial(Queueing, "eagain", kinds=plain), **more),
        "BPF, until EAGAIN": Way(partial(Queueing, "eagain", kinds=steered), **more),
        COUNTED: Way(partial(Queueing, "counted", kinds=steered), **more),
        MIGRATES: Way(partial(Queueing, "eagain", kinds=plain), 1, **more),
        HELD: Way(partial(Queueing, "eagain", kinds=plain), 0, HELD, **more),
        AWAITED: Way(partial(Queueing, "eagain", kinds=plain), 0, AWAITED, **more),
    }


def rows() -> dict[tuple[str, str], dict[str, Way]]:
    """The ways of each row, by its name and what happens."""
    now, drain = (partial(Queueing, how) for how in ("now", "drain"))
    reloaded, stopped = partial(Reloaded, reload), partial(Reloaded, stop_and_start)
    many = {"clients": 32}  # so many that haproxy's accept queue is not always empty
    save_syn = {"kinds": (VIP, f"{VIP} save-syn")}
    elsewhere = partial(Queueing, "drain", kinds=(EVERYWHERE, VIP))
    found = {
        ("M1", "`haproxy -sf`"): ways(reloaded, ALONE, MIGRATES, HELD, **many),
        ("M2", "`haproxy -x SOCKET -sf`: hands its sockets over"): ways(partial(Reloaded, hand_over), ALONE),
        ("M3", "connections in the accept queue, which is closed at once"): ways(now, ALONE, MIGRATES, HELD, AWAITED),
        ("M4", "connections in the accept queue, answered before it is closed"): ways(drain, ALONE, MIGRATES, HELD),
        ("M5", "haproxy stops, then starts"): ways(stopped, MIGRATES, HELD, AWAITED),
        ("M6", "the only listener closes, another one comes later"): ways(
            partial(Queueing, "drain", gap=GAP), MIGRATES, HELD
        ),
        ("M7", "old and new listen on different addresses"): ways(elsewhere, MIGRATES, HELD),
        ("M8", "old without, new with TCP_SAVE_SYN, closed at once"): ways(
            partial(now, **save_syn), MIGRATES, HELD, AWAITED, migrate=1
        ),
        ("M9", "the same, the queue answered before it is closed"): ways(
            partial(drain, **save_syn), MIGRATES, HELD, migrate=1
        ),
        ("M10", "the server accepts until EAGAIN, then closes"): draining(0),
        ("M11", f"the same, while handshakes take {SLOW} ms"): draining(SLOW),
    }
    for version, words in list(haproxies().items())[1:]:
        newer = partial(Reloaded, reload, program=words)
        found["M12", f"`haproxy -sf`, {version}"] = ways(newer, ALONE, MIGRATES, HELD, **many)
    return found


SHORT = {
    "M3": [ALONE, MIGRATES, AWAITED],
    "M5": [MIGRATES, AWAITED],
    "M11": [COUNTED, AWAITED],
}


@contextmanager
def migration(short: bool) -> Iterator[list[Case]]:
    replacements = 1 if short else REPLACEMENTS
    with network(backends=0):
        route_to(PLACE)
        cases = [
            Case(row, what, "connections", {name: partial(replace, way, replacements) for name, way in named.items()})
            for (row, what), named in rows().items()
        ]
        yield some(cases, SHORT) if short else cases


if __name__ == "__main__":
    program(migration)
