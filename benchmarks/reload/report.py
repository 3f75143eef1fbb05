# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of the table, what the runs of each amount to, and what must be true of them."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

import engines
from one_run import Connection, Reloaded, connections_of, reloads_of
from ways import IPTABLES, WAYS

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
FAILURES = {"refused": "refused", "reset": "reset", "cut": "cut short", "timeout": "timed out"}
LOADS = {"quiet": "machine quiet", "busy": "every processor busy"}
HEADS = ["connections", "lost", "reloads that lost some", "median", "99th", "worst", "SYNs held"]
WORST_RATIO = 1.1


class Row(NamedTuple):
    """A server, reloaded in one way, on a quiet or a busy machine. ``short``: part of the short form."""

    server: str
    way: str
    load: str = "quiet"
    short: bool = False

    @property
    def name(self) -> str:
        return f"{self.server}:{self.way}:{self.load}"

    @property
    def safe(self) -> bool:
        """Whether none may be lost."""
        return self.way == "handover"

    @property
    def place(self) -> str:
        """How the directories of the row's runs begin."""
        return self.name.replace(":", "-")


HEADINGS = {
    "haproxy": "haproxy 2.6, reloaded by `haproxy -D -sf`",
    "haproxy-frozen": "haproxy 2.6, whose old process is stopped for 2 s when the reload begins",
    "haproxy3": "haproxy 3.0, reloaded by `haproxy -D -sf`",
    "nginx": "nginx, stopped and started",
    "slow-at-once": "a Python server with a slow accept loop, which closes a full queue",
    "slow": "a Python server with a slow accept loop, which answers its queue, then closes it",
}
COMPARED = ["plain", "migrate", "yelp", "hold", "handover"]
WAYS_OF = {
    ("haproxy", "quiet"): ["nothing", "plain", "migrate", "syn-drop", "yelp", "hold", "lane", "handover"],
    ("haproxy-frozen", "quiet"): ["plain", "hold", "handover"],
    ("haproxy-frozen", "busy"): ["plain", "hold", "handover"],
}
SHORT = {
    "haproxy": ["plain", "migrate", "syn-drop", "yelp", "hold", "lane", "handover"],
    "haproxy-frozen": ["handover"],
    "haproxy3": ["handover"],
    "nginx": ["plain", "handover"],
    "slow-at-once": ["plain", "handover"],
    "slow": ["handover"],
}
ROWS = [
    Row(server, way, load, way in SHORT[server] and (load == "quiet" or (server, way) == ("haproxy", "handover")))
    for load in LOADS
    for server in HEADINGS
    for way in WAYS_OF.get((server, load), COMPARED)
]


class Run(NamedTuple):
    """What one run recorded."""

    connections: list[Connection]
    reloads: list[Reloaded]

    @property
    def latencies(self) -> list[float]:
        """Of the connections that were answered, the shortest first."""
        return sorted(one.latency for one in self.connections if one.ended == "ok")

    @property
    def failures(self) -> Counter[str]:
        return Counter(one.ended for one in self.connections if one.ended != "ok")

    def reloads_that_lost(self) -> int:
        """A failure counts for the last reload that had begun."""
        ends = [one.due + one.latency for one in self.connections if one.ended != "ok"]
        nexts = [reload.begun for reload in self.reloads[1:]] + [float("inf")]
        return sum(
            any(reload.begun <= end < following for end in ends) for reload, following in zip(self.reloads, nexts)
        )


class Result(NamedTuple):
    """A row and its runs. Counts are sums; times, in seconds, are medians of the runs'."""

    row: Row
    runs: list[Run]

    @property
    def connections(self) -> int:
        return sum(len(run.connections) for run in self.runs)

    @property
    def failures(self) -> Counter[str]:
        return sum((run.failures for run in self.runs), Counter())

    @property
    def reloads(self) -> int:
        return sum(len(run.reloads) for run in self.runs)

    @property
    def reloads_that_lost(self) -> int:
        return sum(run.reloads_that_lost() for run in self.runs)

    def latency(self, part: float) -> float:
        """The latency that this part of the connections did not exceed; 1.0 for the worst."""
        return median(run.latencies[min(int(len(run.latencies) * part), len(run.latencies) - 1)] for run in self.runs)

    @property
    def held(self) -> float | None:
        held = [reload.held for run in self.runs for reload in run.reloads if reload.held is not None]
        return median(held) if held else None


def read(rows: list[Row], output: Path) -> list[Result]:
    """The rows that have runs, with them."""
    return [
        Result(row, [Run(connections_of(place), reloads_of(place)) for place in places(row, output)])
        for row in rows
        if places(row, output)
    ]


def place_of(row: Row, number: int, output: Path) -> Path:
    """The directory of one run."""
    return output / f"{row.place}-{number:02}"


def places(row: Row, output: Path) -> list[Path]:
    """The directories of the row's runs."""
    return sorted(output.glob(f"{row.place}-[0-9][0-9]"))


def line(row: Row, place: Path) -> str:
    """One run in one line."""
    run = Run(connections_of(place), reloads_of(place))
    worst = f"{run.latencies[-1] * 1000:.0f} ms" if run.latencies else "-"
    return f"{row.name:30} {len(run.connections):6} connections, lost {_lost(run.failures)}, worst {worst}"


def _lost(failures: Counter[str]) -> str:
    """What was lost, by kind."""
    kinds = ", ".join(f"{count} {FAILURES.get(kind, kind)}" for kind, count in sorted(failures.items()))
    return kinds or "0"


def table(results: list[Result]) -> str:
    """A table for each server and load."""
    parts = []
    for server, heading in HEADINGS.items():
        for load, words in LOADS.items():
            chosen = [one for one in results if (one.row.server, one.row.load) == (server, load)]
            if chosen:
                parts += ["", f"**{heading}; {words}**", "", *_table(chosen)]
    return "\n".join(parts[1:])


def _table(results: list[Result]) -> list[str]:
    lines = [f"| | {' | '.join(HEADS)} |", f"|---|{'---:|' * len(HEADS)}"]
    for result in results:
        cells = [
            WAYS[result.row.way].title,
            str(result.connections),
            _lost(result.failures),
            f"{result.reloads_that_lost} of {result.reloads}" if result.reloads else "-",
            *(_time(result.latency(part)) for part in (0.5, 0.99, 1.0)),
            "-" if result.held is None else _time(result.held),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def judge(results: list[Result], *, whole: bool) -> list[str]:
    """What is not as it must be."""
    by_name = {result.row.name: result for result in results}
    wrong = [
        f"{result.row.name} must lose nothing, and lost {sum(result.failures.values())}"
        for result in results
        if result.row.safe and result.failures
    ]
    names = "haproxy:lane:quiet", "haproxy:yelp:quiet"  # both with all that stays in place
    if whole and names[0] in by_name and names[1] in by_name:
        ours, yelps = (by_name[name].latency(1.0) for name in names)
        if ours > WORST_RATIO * yelps:
            wrong.append(f"the worst latency of {names[0]} is {ours / yelps:.2f} of {names[1]}'s")
    sure = by_name.get("slow-at-once:plain:quiet")
    if sure and sure.reloads_that_lost < 0.8 * sure.reloads:
        wrong.append(f"{sure.row.name} should lose connections at nearly every reload: is what is lost counted?")
    return wrong


def facts() -> dict[str, str]:
    """The machine, without a date and without its name."""
    with open("/proc/cpuinfo") as text:
        guest = ", User-Mode Linux" if "User Mode Linux" in text.read() else ""
    return {
        "kernel": f"Linux {platform.release()}{guest}, {os.cpu_count()} processor{'s' * (os.cpu_count() != 1)}",
        "haproxy": " and ".join(_version([*program, "-v"]) for program in programs("haproxy")),
        "nginx": _version([*engines.program("nginx"), "-v"]) if engines.is_there() else "none",
        "iproute2": _version(["tc", "-V"]),
        "iptables": _version([IPTABLES, "-V"]),
        "Python": platform.python_version(),
    }


def programs(name: str) -> list[list[str]]:
    """This host's program, and Debian 13's where it is there."""
    return [[name], *([engines.program(name)] if engines.is_there() else [])]


def _version(words: list[str]) -> str:
    said = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    found = re.search(r"\d+\.\d+(\.\d+)*", said)
    return found[0] if found else "of an unknown version"


def facts_of(output: Path) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads((output / "facts.json").read_text()).items()) + "."


def write(page: Path, text: str) -> None:
    """Put the text between the page's marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{page} has no {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
