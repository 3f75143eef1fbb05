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

from one_run import Connection, Reloaded, connections_of, reloads_of
from ways import IPTABLES, WAYS

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
FAILURES = {"refused": "refused", "reset": "reset", "cut": "cut short", "timeout": "timed out"}
HEADS = ["connections", *FAILURES.values(), "reloads that lost some", "median", "99th", "worst", "SYNs held"]
WORST_RATIO = 1.1


class Row(NamedTuple):
    """A server, reloaded in one way. ``safe``: none may be lost. ``short``: part of the short form."""

    server: str
    way: str
    note: str = ""
    safe: bool = False
    short: bool = False

    @property
    def name(self) -> str:
        return f"{self.server}:{self.way}"

    @property
    def title(self) -> str:
        return WAYS[self.way].title + self.note


FIRST, AT_ONCE = "; answers its queue first", "; closes at once"
FROZEN = "; the old process is stopped for 2 s"
ROWS = [
    Row("haproxy", "nothing"),
    Row("haproxy", "plain", short=True),
    Row("haproxy", "migrate", short=True),
    Row("haproxy", "syn-drop", short=True),
    Row("haproxy", "yelp", short=True),
    Row("haproxy", "hold", short=True),
    Row("haproxy", "lane", short=True),
    Row("haproxy", "handover", safe=True, short=True),
    Row("haproxy", "lane-handover", safe=True, short=True),
    Row("haproxy-frozen", "lane", FROZEN),
    Row("haproxy-frozen", "lane-handover", FROZEN, safe=True, short=True),
    Row("slow", "nothing"),
    Row("slow-at-once", "plain", AT_ONCE, short=True),
    Row("slow", "plain", FIRST),
    Row("slow-at-once", "migrate", AT_ONCE),
    Row("slow", "syn-drop", FIRST),
    Row("slow", "yelp", FIRST),
    Row("slow", "hold", FIRST, short=True),
    Row("slow", "lane", FIRST),
    Row("slow", "handover", FIRST, safe=True),
    Row("slow", "lane-handover", FIRST, safe=True),
    Row("slow-at-once", "hold", AT_ONCE),
    Row("slow-at-once", "lane-handover", AT_ONCE, safe=True, short=True),
]
HEADINGS = {"haproxy": "haproxy, reloaded by `haproxy -D -sf`", "slow": "a Python server with a slow accept loop"}


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
    results = []
    for row in rows:
        places = sorted(output.glob(f"{row.server}-{row.way}-[0-9]"))
        results.append(Result(row, [Run(connections_of(place), reloads_of(place)) for place in places]))
    return results


def line(row: Row, place: Path) -> str:
    """One run in one line."""
    run = Run(connections_of(place), reloads_of(place))
    lost = ", ".join(f"{count} {FAILURES.get(kind, kind)}" for kind, count in run.failures.items()) or "none lost"
    return f"{row.name:22} {len(run.connections):6} connections, {lost}, worst {run.latencies[-1] * 1000:.0f} ms"


def table(results: list[Result]) -> str:
    parts = []
    for server, heading in HEADINGS.items():
        chosen = [result for result in results if result.row.server.startswith(server)]
        if chosen:
            parts += ["", f"**{heading}**", "", *_table(chosen)]
    return "\n".join(parts[1:])


def _table(results: list[Result]) -> list[str]:
    lines = [f"| | {' | '.join(HEADS)} |", f"|---|{'---:|' * len(HEADS)}"]
    for result in results:
        failures = result.failures
        unknown = [f"{count} {kind}" for kind, count in failures.items() if kind not in FAILURES]
        cells = [
            result.row.title + (f" ({', '.join(unknown)})" if unknown else ""),
            str(result.connections),
            *(str(failures[kind]) for kind in FAILURES),
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
    ours, yelps = by_name.get("haproxy:lane"), by_name.get("haproxy:yelp")  # both with all that stays in place
    if whole and ours and yelps:
        ratio = ours.latency(1.0) / yelps.latency(1.0)
        if ratio > WORST_RATIO:
            wrong.append(f"the worst latency of haproxy:lane is {ratio:.2f} of haproxy:yelp's")
    sure = by_name.get("slow-at-once:plain")
    if whole and sure and sure.reloads_that_lost < 0.8 * sure.reloads:
        wrong.append("slow-at-once:plain should lose connections at nearly every reload, so the comparison may be luck")
    return wrong


def facts() -> dict[str, str]:
    """The machine, without a date and without its name."""
    with open("/proc/cpuinfo") as text:
        guest = ", User-Mode Linux" if "User Mode Linux" in text.read() else ""
    return {
        "kernel": f"Linux {platform.release()}{guest}, {os.cpu_count()} processor{'s' * (os.cpu_count() != 1)}",
        "haproxy": _version(["haproxy", "-v"]),
        "iproute2": _version(["tc", "-V"]),
        "iptables": _version([IPTABLES, "-V"]),
        "Python": platform.python_version(),
    }


def _version(words: list[str]) -> str:
    said = subprocess.run(words, capture_output=True, text=True).stdout
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
