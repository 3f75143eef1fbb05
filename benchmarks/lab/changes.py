# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes behind the router: rules, backends and directors that come and go, with a hold and without.

The engine is IPVS with ``mh`` on two directors, as in maglev.py. The lane is on the router's device to the client,
where the router has not yet chosen a director.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clients import Population
from directors import IPIP, SERVICE, even, fresh, load_modules, rules, server, tell
from net import DIRECTORS, FAR, PORT, VIP, enter, kill, network, revive, route_to
from programs import Haproxy, backend_servers
from repeat import Case, Seen, program, some

from libnlplug import Match, PlugLane

ALONE, SYNS, ALL = "alone", "SYNs held", "all held"
NOTICES = 0.3  # seconds until the router, or a director, knows that something is dead
REST = 0.3  # seconds before a change, and before it is undone
CLIENTS = 24  # that make new connections meanwhile
STAY = 8  # connections that are established before the change, and stay
LEAVE = ["b3", "b1"]
SHORT = {"C1": [ALONE, ALL], "C2": [ALONE, SYNS], "C5": [ALONE]}


def nothing() -> None:
    pass


class Change(NamedTuple):
    """What changes, and how it is undone. The router holds during ``change`` alone."""

    change: Callable[[], None]
    undo: Callable[[], None] = nothing
    hold: str = ALONE
    long: int = 0
    scheduler: str = "mh-fallback"
    before: Callable[[], None] = nothing


class Stage:
    """The backends and their server, and what can be done with them."""

    def __init__(self, backends: list[str], servers: Haproxy) -> None:
        self.backends, self._servers = backends, servers

    def rules_again(self) -> None:
        rules("d1", "mh-fallback", even(self.backends))

    def rules_in_place(self) -> None:
        tell("d1", [f"-e {SERVICE} {server(name)} {IPIP} -w 1" for name in self.backends])

    def stop(self, names: list[str]) -> None:
        for name in names:
            self._servers.say(f"disable frontend {name}")  # it listens no more

    def remove(self, names: list[str]) -> None:
        for director in DIRECTORS:
            tell(director, [f"-d {SERVICE} {server(name)}" for name in names])

    def drain(self, names: list[str]) -> None:
        for director in DIRECTORS:
            tell(director, [f"-e {SERVICE} {server(name)} {IPIP} -w 0" for name in names])

    def start(self, names: list[str]) -> None:
        for name in names:
            self._servers.say(f"enable frontend {name}")

    def add(self, names: list[str]) -> None:
        for director in DIRECTORS:
            tell(director, [f"-a {SERVICE} {server(name)} {IPIP} -w 1" for name in names])

    def fill(self, names: list[str]) -> None:
        """Give drained backends new connections again."""
        for director in DIRECTORS:
            tell(director, [f"-e {SERVICE} {server(name)} {IPIP} -w 1" for name in names])


def measure(stage: Stage, change: Change) -> Seen:
    """Clients while something changes and is undone."""
    stage.start(stage.backends)  # an earlier measurement that failed may have left some stopped
    fresh(change.scheduler, even(stage.backends))
    match = Match(ip_proto="tcp", dst_ip=VIP, dst_port=PORT, tcp_syn=change.hold == SYNS)
    lane = PlugLane("client", match, ingress=True, netns="router")
    with lane, Population(CLIENTS, change.long) as population:
        time.sleep(REST)
        change.before()
        with lane.hold(timeout=30) if change.hold != ALONE else nullcontext():
            change.change()
        time.sleep(REST)
        change.undo()
    counted = population.count("short") + population.count("long")
    lost = population.lost("short") + population.lost("long")
    figures = {"longest wait, ms": round(1000 * population.worst("short"))}
    if change.long:
        figures["lost of those that stay"] = sum(population.lost("long").values())
    return Seen(counted, lost, figures)


def route_back() -> None:
    route_to(*DIRECTORS)


def rules_changed(stage: Stage) -> dict[str, Change]:
    again = partial(Change, stage.rules_again, long=STAY)
    return {
        ALONE: again(),
        SYNS: again(hold=SYNS),
        ALL: again(hold=ALL),
        "taken out of the route first": again(undo=route_back, before=partial(route_to, "d2")),
        "changed in place (`ipvsadm -e`)": Change(stage.rules_in_place, long=STAY),
    }


def backends_leave(stage: Stage, names: list[str]) -> dict[str, Change]:
    def unplanned() -> None:
        stage.stop(names)
        time.sleep(NOTICES)
        stage.remove(names)

    def back() -> None:
        stage.start(names)
        stage.add(names)

    def drained() -> None:
        stage.drain(names)
        time.sleep(NOTICES)
        stage.stop(names)

    def filled() -> None:
        stage.start(names)
        stage.fill(names)

    return {
        ALONE: Change(unplanned, back),
        SYNS: Change(unplanned, back, SYNS),
        "the directors told first: weight 0": Change(drained, filled),
    }


def near_ones_die(stage: Stage) -> dict[str, Change]:
    def unplanned() -> None:
        stage.stop(stage.backends)
        time.sleep(NOTICES)
        stage.add([FAR])
        stage.remove(stage.backends)

    def told_first() -> None:
        stage.add([FAR])
        stage.drain(stage.backends)
        time.sleep(NOTICES)
        stage.stop(stage.backends)
        stage.remove(stage.backends)

    def back() -> None:
        stage.start(stage.backends)
        stage.add(stage.backends)
        stage.drain([FAR])
        time.sleep(NOTICES)  # the far one finishes what it has
        stage.remove([FAR])

    return {
        ALONE: Change(unplanned, back),
        SYNS: Change(unplanned, back, SYNS),
        "the directors told first: weight 0": Change(told_first, back),
    }


def weight_zero(stage: Stage) -> dict[str, Change]:
    def drain() -> None:
        stage.drain(LEAVE[:1])
        time.sleep(NOTICES)

    back = partial(stage.fill, LEAVE[:1])
    return {f"`{name}`": Change(drain, back, scheduler=name) for name in ("mh", "mh-fallback")}


def director_dies() -> dict[str, Change]:
    def dies() -> None:
        kill("d1")
        time.sleep(NOTICES)
        route_to("d2")

    def back() -> None:
        revive("d1")
        route_back()

    def routed_first() -> None:
        route_to("d2")
        kill("d1")

    return {
        ALONE: Change(dies, back, long=STAY),
        SYNS: Change(dies, back, SYNS, STAY),
        "taken out of the route first": Change(routed_first, back, long=STAY),
    }


@contextmanager
def changes(short: bool) -> Iterator[list[Case]]:
    load_modules()
    with TemporaryDirectory() as directory, network(3, far=True) as backends:
        servers = backend_servers(Path(directory), [*backends, FAR])
        servers.start()
        enter("client")
        stage = Stage(backends, servers)
        rows = {
            ("C1", "d1's rules are cleared and loaded again"): rules_changed(stage),
            ("C2", "a backend stops, the directors learn it 0.3 s later"): backends_leave(stage, LEAVE[:1]),
            ("C3", "two backends of three stop, the directors learn it 0.3 s later"): backends_leave(stage, LEAVE),
            ("C4", "a backend gets the weight 0"): weight_zero(stage),
            ("C5", "all near backends stop, one in another network takes over 0.3 s later"): near_ones_die(stage),
            ("C6", "d1 is killed, the router learns it 0.3 s later"): director_dies(),
        }
        try:
            cases = [
                Case(row, what, "connections", {name: partial(measure, stage, one) for name, one in ways.items()})
                for (row, what), ways in rows.items()
            ]
            yield some(cases, SHORT) if short else cases
        finally:
            servers.end()


if __name__ == "__main__":
    program(changes)
