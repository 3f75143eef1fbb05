# SPDX-License-Identifier: GPL-2.0-or-later
"""Maglev: two directors that pick the same backend for a connection without talking to each other.

The engine is the kernel's IPVS with its ``mh`` scheduler, beside ``rr``, ``wrr`` and ``sh``. Both directors get the
same rules, and tunnel to the backends (IPIP), which answer the client directly. See net.py for the picture.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clients import Established, who_answers
from directors import connections_of, even, fresh, load_modules, rules
from net import enter, kill, network, route_to
from programs import backend_servers
from repeat import Case, Seen, program, some

FIRST_PORT, LAST_PORT = 20000, 32000
LEAVE = ("b3", "b1")
HEAVIER = "b2"
WEIGHTS = (1, 1, 2, 2, 4)
CHANCE = random.Random(1)


class Sizes(NamedTuple):
    """How many connections a measurement makes."""

    backends: int = 5
    ports: int = 1000
    established: int = 200


FULL, SHORT = Sizes(), Sizes(3, 60, 40)
SHORT_WAYS = {"L2": ["`mh`", "`rr`"], "K1": ["`mh`, `sloppy_tcp=0`", "`mh`, `sloppy_tcp=1`"]}


def ports_of(sizes: Sizes) -> list[int]:
    """The client's ports for a measurement: by chance, because sh gives neighbours to different backends."""
    return CHANCE.sample(range(FIRST_PORT, LAST_PORT), sizes.ports)


def answers(ports: list[int]) -> dict[int, str]:
    """Who answers a connection from each of these ports. Each time in another order: rr would repeat itself."""
    return {port: who_answers(port) for port in CHANCE.sample(ports, len(ports))}


def through(director: str, ports: list[int], scheduler: str, weights: dict[str, int]) -> dict[int, str]:
    """Who answers these ports through one new director."""
    fresh(scheduler, weights)
    route_to(director)
    return answers(ports)


def load(scheduler: str, weights: dict[str, int], ports: list[int]) -> Seen:
    """How evenly one director loads the backends, each one's weight considered."""
    loads = Counter(through("d1", ports, scheduler, weights).values())
    fair = {name: len(ports) * weight / sum(weights.values()) for name, weight in weights.items()}
    shares = [loads[name] / fair[name] for name in weights]
    return Seen(len(ports), {}, {"max/fair share": max(shares), "min/fair share": min(shares)})


def by_chance(weights: dict[str, int], ports: list[int]) -> Seen:
    """What load() would find if chance alone gave each connection a backend; computed."""
    loads = Counter(CHANCE.choices(list(weights), k=len(ports)))
    shares = [loads[name] * len(weights) / len(ports) for name in weights]
    return Seen(len(ports), {}, {"max/fair share": max(shares), "min/fair share": min(shares)})


def agreement(scheduler: str, weights: dict[str, int], ports: list[int], reverse: bool = False) -> Seen:
    """How many connections the second director gives to another backend than the first."""
    before = through("d1", ports, scheduler, weights)
    if reverse:
        rules("d2", scheduler, dict(reversed(list(weights.items()))))
    route_to("d2")
    after = answers(ports)
    return Seen(len(ports), moved(before, after))


def moves(scheduler: str, weights: dict[str, int], later: dict[str, int], ports: list[int]) -> Seen:
    """How many ports another new director gives to another backend, of those whose backends neither leave nor get a
    larger weight."""
    before = through("d1", ports, scheduler, weights)
    after = through("d1", ports, scheduler, later)
    heavier = {name for name in later if later[name] > weights[name]}
    stay = [port for port in ports if before[port] in later and after[port] not in heavier]
    return Seen(len(stay), moved({port: before[port] for port in stay}, after))


def moved(before: dict[int, str], after: dict[int, str]) -> dict[str, int]:
    changed = sum(name != after[port] for port, name in before.items())
    return {"moved": changed} if changed else {}


def director_killed(scheduler: str, sloppy: int, weights: dict[str, int], established: int) -> Seen:
    """d1 is killed, the router gives its established connections to d2; who still gets an answer?"""
    fresh(scheduler, weights, sloppy)
    clients = Established(established)
    its = connections_of("d1")
    kill("d1")
    route_to("d2")
    ended = clients.ask()
    clients.close()
    lost = Counter(word for port, word in zip(clients.ports, ended) if port in its and word != "ok")
    others = [word for port, word in zip(clients.ports, ended) if port not in its]
    return Seen(len(its), lost, {"lost through d2": sum(word != "ok" for word in others)})


def without(weights: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: weight for name, weight in weights.items() if name not in names}


def case(row: str, what: str, call, ways: dict[str, tuple], sizes: Sizes) -> Case:
    """A row whose ways are ``call`` with these arguments and the next ports."""

    def measure(arguments: tuple) -> Seen:
        return call(*arguments, ports_of(sizes))

    return Case(row, what, "connections", {f"`{way}`": partial(measure, given) for way, given in ways.items()})


def cases(sizes: Sizes, backends: list[str]) -> list[Case]:
    same = even(backends)
    weights = dict(zip(backends, WEIGHTS))
    fewer, two_fewer = without(same, LEAVE[:1]), without(same, LEAVE)
    heavier = {**same, HEAVIER: 2}
    hashes = ("mh", "sh", "rr")

    def killed(scheduler: str, sloppy: int) -> partial:
        return partial(director_killed, scheduler, sloppy, same, sizes.established)

    ways = {f"`{name}`, `sloppy_tcp={sloppy}`": killed(name, sloppy) for name, sloppy in KILLS}
    evenness = case("L1", "the load on the backends, through one director", load, {s: (s, same) for s in hashes}, sizes)
    evenness.ways["by chance alone, computed"] = lambda: by_chance(same, ports_of(sizes))
    return [
        evenness,
        case("L2", "a connection gets another backend through d2 than through d1", agreement,
             {s: (s, same) for s in hashes}, sizes),
        case("L3", "one backend leaves: ports of the others that a new director gives to another backend", moves,
             {s: (s, same, fewer) for s in hashes}, sizes),
        case("L4", "two backends leave: ports of the others that a new director gives to another backend", moves,
             {s: (s, same, two_fewer) for s in hashes}, sizes),
        case("L5", f"the load, with weights of {', '.join(map(str, WEIGHTS))}", load,
             {s: (s, weights) for s in ("mh", "sh", "wrr")}, sizes),
        case("L6", "one weight is doubled: ports that a new director gives to another backend, but not to that one",
             moves, {s: (s, same, heavier) for s in ("mh", "sh", "wrr")}, sizes),
        case("L7", "d2 has d1's rules in reversed order: connections that get another backend",
             partial(agreement, reverse=True), {"mh": ("mh", same)}, sizes),
        Case("K1", "d1 is killed: its established connections", "connections", ways),
    ]  # fmt: skip


KILLS = (("mh", 0), ("mh", 1), ("sh", 1), ("rr", 1))


@contextmanager
def maglev(short: bool) -> Iterator[list[Case]]:
    sizes = SHORT if short else FULL
    load_modules()
    with TemporaryDirectory() as directory, network(sizes.backends) as backends:
        servers = backend_servers(Path(directory), backends)
        servers.start()
        enter("client")
        try:
            every = cases(sizes, backends)
            yield some(every, SHORT_WAYS) if short else every
        finally:
            servers.end()


if __name__ == "__main__":
    program(maglev)
