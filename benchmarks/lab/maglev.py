# SPDX-License-Identifier: GPL-2.0-or-later
"""Maglev: two directors that pick the same backend for a connection without talking to each other.

The engine is the kernel's IPVS with its ``mh`` scheduler, beside ``rr`` and ``sh``. Both directors get the same rules,
and tunnel to the backends (IPIP), which answer the client directly. See net.py for the picture.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Callable, NamedTuple

from clients import Established, Population, in_words, who_answers
from net import (
    BACKENDS,
    DIRECTORS,
    PORT,
    VIP,
    CommandFailed,
    enter,
    kill,
    network,
    renew,
    revive,
    route_to,
    run,
    settings,
    sh,
)
from programs import Haproxy, backend_servers
from table import Found, Row, Table, milliseconds, percent, scenario, share

from libnlplug import Match, PlugLane

SERVICE = f"{VIP}:{PORT}"
SCHEDULERS = {"mh": "mh -b mh-port", "sh": "sh -b sh-port", "rr": "rr"}
FIRST_PORT = 20000
SLOTS = 4093  # of the table of mh: net/netfilter/ipvs/ip_vs_mh.c, with Debian's CONFIG_IP_VS_MH_TAB_INDEX of 12
LEAVES = "b3"
CHANCE = random.Random(1)
ALONE, SYNS, ALL, ROUTE = "alone", "SYNs held", "all held", "taken out of the route first"
NOTICES = 0.3  # seconds until the router knows that a director is dead
REST = 0.3  # seconds between two changes
CLIENTS = 24  # that make new connections meanwhile


class Sizes(NamedTuple):
    """How much is done."""

    schedulers: tuple[str, ...] = ("mh", "sh", "rr")
    ports: int = 5000  # connections for evenness and moves
    kills: tuple[tuple[str, int], ...] = (("mh", 0), ("mh", 1), ("sh", 1), ("rr", 1))  # scheduler, sloppy_tcp
    established: int = 400
    cases: int = 3  # of changes, the first ones
    changes: int = 5  # of each


SHORT = Sizes(("mh",), 100, (("mh", 0), ("mh", 1)), 40, 1, 1)


def rules(director: str, scheduler: str, backends: list[str]) -> None:
    """Give a director its rules, in the place of those it has: what 'systemctl restart ipvsadm' does on Debian."""
    sh(director, "ipvsadm -C")
    lines = [f"-A -t {SERVICE} -s {SCHEDULERS[scheduler]}"]
    lines += [f"-a -t {SERVICE} -r {BACKENDS[name]}:{PORT} -i" for name in backends]
    words = ["ip", "netns", "exec", director, "ipvsadm", "-R"]
    done = subprocess.run(words, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60)
    if done.returncode or done.stderr:
        raise CommandFailed(f"ipvsadm -R: {done.stderr}")


def fresh(scheduler: str, backends: list[str], sloppy: int = 1) -> None:
    """Both directors new, with the same rules."""
    renew()
    for name in DIRECTORS:
        rules(name, scheduler, backends)
        settings(name, vs__sloppy_tcp=sloppy)


def answers(ports: range) -> dict[int, str]:
    """Who answers a connection from each of these ports. Each time in another order: rr would repeat itself."""
    return {port: who_answers(port) for port in CHANCE.sample(ports, len(ports))}


class Load(NamedTuple):
    """Where the connections of the same ports went, with one scheduler."""

    most: float  # max/average
    least: float  # min/average
    agreed: tuple[int, int]  # through d2 to the same backend as through d1, of how many
    moved: tuple[int, int]  # when a backend had left: went to another one although theirs was there, of how many


def load(scheduler: str, count: int, backends: list[str]) -> Load:
    """The same ports through d1, through d2, and through a new d2 without one of the backends."""
    ports = range(FIRST_PORT, FIRST_PORT + count)
    fresh(scheduler, backends)
    route_to("d1")
    before = answers(ports)
    route_to("d2")
    again = answers(ports[::5])
    fresh(scheduler, [name for name in backends if name != LEAVES])
    route_to("d2")
    after = answers(ports)
    loads = Counter(before.values())
    stay = [port for port, name in before.items() if name != LEAVES]
    return Load(
        max(loads.values()) * len(backends) / count,
        min(loads[name] for name in backends) * len(backends) / count,
        (sum(before[port] == name for port, name in again.items()), len(again)),
        (sum(before[port] != after[port] for port in stay), len(stay)),
    )


def by_chance(count: int, backends: int) -> tuple[float, float]:
    """max/average and min/average where each connection is given to any backend: medians of 50 times."""
    chance = random.Random(1)
    loads = [Counter(chance.choices(range(backends), k=count)) for _ in range(50)]
    return tuple(median(end(one.values()) for one in loads) * backends / count for end in (max, min))


def evenness_and_moves(sizes: Sizes, backends: list[str]) -> tuple[list[Row], Table, str]:
    found = {scheduler: load(scheduler, sizes.ports, backends) for scheduler in sizes.schedulers}
    lines = [
        [f"`{SCHEDULERS[name]}`", f"{one.most:.3f}", f"{one.least:.3f}", share(*one.agreed), share(*one.moved)]
        for name, one in found.items()
    ]
    head = ["scheduler", "max/average", "min/average", "both directors agree", "moved without need"]
    title = f"{sizes.ports} connections to {len(backends)} backends; what moves when one backend of them leaves"
    most, least = by_chance(sizes.ports, len(backends))
    note = (
        f"Evenness: each connection given to any backend by chance alone would make max/average {most:.3f} and"
        f" min/average {least:.3f} of so many connections. The kernel's table has {SLOTS} slots"
        f" (CONFIG_IP_VS_MH_TAB_INDEX=12), {SLOTS // len(backends)} for each backend; the paper's 65537 and 655373."
        " The paper (section 3.4) asks for more than 100 slots for each backend, so that their shares of the table"
        " differ by at most 1 %. In its figure 12, of 1000 backends, Maglev's shares are almost equal; Karger's and"
        " rendezvous hashing need 29.7 % and 49.5 % of reserve with the small table, 10.3 % and 12.3 % with the large."
    )
    rows = [
        Row(
            "the load on the backends, through one director",
            f"{sizes.ports} new",
            "0",
            "-",
            f"max/average {found['mh'].most:.3f}, min/average {found['mh'].least:.3f}; by chance alone {most:.3f} and"
            f" {least:.3f}",
        ),
        Row(
            "a backend leaves: moved without need",
            f"{found['mh'].moved[1]} that could stay",
            "-",
            "-",
            ", ".join(f"`{name}` {percent(*one.moved)}" for name, one in found.items()),
        ),
    ]
    return rows, Table(title, head, lines), note


def connections_of(director: str) -> set[int]:
    """The client's ports of the connections that a director knows."""
    found = set()
    for line in sh(director, "ipvsadm -Lnc").splitlines():
        words = line.split()
        if words[:1] == ["TCP"]:
            found.add(int(words[3].rpartition(":")[2]))
    return found


def director_killed(sizes: Sizes, backends: list[str]) -> tuple[list[Row], Table]:
    """Established connections; d1 is killed, the router gives them all to d2; who still gets an answer?"""
    rows, lines = [], []
    for scheduler, sloppy in sizes.kills:
        fresh(scheduler, backends, sloppy)
        established = Established(sizes.established)
        its = connections_of("d1")
        kill("d1")
        route_to("d2")
        ended = established.ask()
        established.close()
        lost = Counter(word for word in ended if word != "ok")
        on = sum(word == "ok" for port, word in zip(established.ports, ended) if port in its)
        how, counted = f"`{scheduler}`, `sloppy_tcp={sloppy}`", f"{sizes.established} established"
        figure = f"{percent(on, len(its))} of d1's {len(its)} go on through d2"
        lines.append([how, sizes.established, len(its), share(on, len(its)), in_words(lost)])
        rows.append(Row(f"a director is killed, {how}", counted, in_words(lost), "-", figure))
    head = ["", "established", "of them through d1", "of these go on through d2", "lost of all"]
    return rows, Table("Director d1 is killed, and the router gives its connections to d2", head, lines)


def changed(
    way: str, change: Callable[[], None], undo: Callable[[], None], long: int, often: int
) -> tuple[Population, list[float]]:
    """Clients while something changes and is undone ``often`` times, and how long each change took."""
    match = Match(ip_proto="tcp", dst_ip=VIP, dst_port=PORT, tcp_syn=way == SYNS)
    lane = PlugLane("client", match, ingress=True, netns="router")
    times = []
    with lane, Population(CLIENTS, long) as population:
        for _ in range(often):
            time.sleep(REST)
            if way == ROUTE:
                route_to("d2")
            with lane.hold(timeout=30) if way in (SYNS, ALL) else nullcontext():
                begun = time.monotonic()
                change()
                times.append(time.monotonic() - begun)
            if way == ROUTE:
                route_to(*DIRECTORS)
            time.sleep(REST)
            undo()
    return population, times


def changes(sizes: Sizes, backends: list[str], servers: Haproxy) -> tuple[list[Row], Table]:
    """New and established connections while something changes, without a hold and with one at the router."""

    def rules_again() -> None:
        rules("d1", "mh", backends)

    def backend_leaves() -> None:
        servers.say(f"disable frontend {LEAVES}")  # it listens no more
        for name in DIRECTORS:
            sh(name, f"ipvsadm -d -t {SERVICE} -r {BACKENDS[LEAVES]}:{PORT}")

    def backend_returns() -> None:
        servers.say(f"enable frontend {LEAVES}")
        for name in DIRECTORS:
            sh(name, f"ipvsadm -a -t {SERVICE} -r {BACKENDS[LEAVES]}:{PORT} -i")

    def director_dies() -> None:
        kill("d1")
        time.sleep(NOTICES)
        route_to("d2")

    def director_is_back() -> None:
        revive("d1")
        route_to(*DIRECTORS)

    def nothing() -> None:
        pass

    cases = [
        ("d1's rules are cleared and loaded again", rules_again, nothing, 8, (ALONE, SYNS, ALL, ROUTE)),
        ("a backend stops, then the directors are told", backend_leaves, backend_returns, 0, (ALONE, SYNS)),
        (f"d1 is killed, the router told {NOTICES} s later", director_dies, director_is_back, 8, (ALONE, SYNS)),
    ]
    rows, lines = [], []
    for what, change, undo, long, ways in cases[: sizes.cases]:
        lost, new, waits = {}, [], []
        fresh("mh", backends)
        for way in ways:
            population, times = changed(way, change, undo, long, sizes.changes)
            short_lost, long_lost = population.lost("short"), population.lost("long")
            lost[way] = in_words(short_lost + long_lost)
            new.append(str(population.count("short")))
            waits.append(milliseconds(population.worst("short")))
            words = in_words(short_lost), in_words(long_lost) if long else "-"
            lines.append([f"{what}; {way}", int(new[-1]), *words, waits[-1], milliseconds(median(times))])
        held = "; ".join(f"{way}: {words}" for way, words in lost.items() if way in (SYNS, ALL))
        counted = f"{' + '.join(new)} new" + (f", {long} that stay" if long else "")
        figure = f"longest wait of a new connection {waits[0]}; SYNs held {waits[1]}"
        if ROUTE in lost:
            figure += f". Lost without a hold, if d1 is {ROUTE}: {lost[ROUTE]}"
        rows.append(Row(f"{what}, {sizes.changes} times", counted, lost[ALONE], held, figure))
    head = ["change", "new connections", "of them lost", "of those that stay", "longest wait", "a change takes"]
    return rows, Table(f"Changes while the router holds or not, each {sizes.changes} times", head, lines)


def maglev(short: bool) -> Found:
    sizes = SHORT if short else Sizes()
    run(["modprobe", "-a", "ip_vs", "ip_vs_mh", "ip_vs_sh", "ip_vs_rr", "ipip"])
    with TemporaryDirectory() as directory, network(backends=3 if short else 5) as backends:
        servers = backend_servers(Path(directory), backends)
        servers.start()
        enter("client")
        try:
            load_rows, load_table, note = evenness_and_moves(sizes, backends)
            kill_rows, kill_table = director_killed(sizes, backends)
            change_rows, change_table = changes(sizes, backends, servers)
        finally:
            servers.end()
    return Found([*load_rows, *kill_rows, *change_rows], [load_table, kill_table, change_table], [note])


if __name__ == "__main__":
    scenario(maglev)
