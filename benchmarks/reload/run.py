#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reload costs the clients of a server, in each way that there is to get through it.

    make reload-bench                                                               the whole: an hour
    make reload-bench ARGS='--minutes 14'                                           a part of it; say it again to go on
    tools/testkernel/run --pin 1 -- .venv/bin/python benchmarks/reload/run.py --short     a look, a minute

Needs root on a kernel with sch_plug, and haproxy, tc, iptables; the whole also what engines.py fetches. Each run has
namespaces of its own. The runs of the different ways are interleaved, and each is kept in build/reload as soon as it is
done: what is there is not measured again. A reload that fails, or does not take place, ends everything with status 1;
so does a connection that is lost through libnlplug hold --handover, and a worst latency of libnlplug hold, its lane
kept, above 1.1 of Yelp's (not with --short).

What is measured so far goes as a table into README.md, beside this file, and as docs/img/reload.png where matplotlib is
installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engines
import report
from servers import FETCHED
from ways import missing

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
PRIVATE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
RELOADS = 10  # in a run
FEWER = 5  # the rows that may lose connections have as many times fewer reloads


class RunFailed(Exception):
    """A run did not come to its end."""


class Unfinished(Exception):
    """The time was up before everything was measured."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    more = f"{RELOADS} in a run; a {FEWER}th of that for the others"
    add("--reloads", type=int, default=100, metavar="N", help=f"reloads for each row that must lose none (100), {more}")
    add("--short", action="store_true", help="one run of 2 reloads for some rows; judges only what is lost")
    add("--rows", nargs="+", metavar="SERVER:WAY:LOAD", help="only these rows; writes no README")
    add("--minutes", type=float, metavar="N", help="begin no run after this time")
    add("--part", default="1/1", metavar="K/N", help="only each Nth run, from the Kth: for N machines at a time (1/1)")
    add("--anew", action="store_true", help="forget what was measured before")
    add("--output", type=Path, default=PROJECT / "build/reload", metavar="DIRECTORY", help="for raw results and facts")
    add("--again", action="store_true", help="measure nothing: table and plot once more, from --output")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows = chosen(options)
    unfinished = None
    if not options.again:
        if missing():
            sys.exit(f"not installed: {', '.join(missing())}")
        try:
            measure(rows, options)
        except Unfinished as why:
            unfinished = str(why)
    results = report.read(rows, options.output)
    failures = [unfinished] if unfinished else []
    if results:
        table = report.table(results)
        print(f"\n{table}\n")
        if not options.short and not options.rows:
            report.write(HERE / "README.md", f"{table}\n\n{report.facts_of(options.output)}")
            plot(results)
        failures += report.judge(results, whole=not options.short)
    sys.exit("\n".join(failures) if failures else 0)


def chosen(options: argparse.Namespace) -> list[report.Row]:
    """The rows that are wanted. The short form leaves out what engines.py has not fetched."""
    rows = [row for row in report.ROWS if not options.rows or row.name in options.rows]
    if not rows:
        sys.exit(f"--rows: choose from {' '.join(row.name for row in report.ROWS)}")
    if options.short:
        rows = [row for row in rows if row.short or options.rows]
    if not engines.is_there() and not options.again:
        if options.short:
            rows = [row for row in rows if row.server not in FETCHED]
        elif any(row.server in FETCHED for row in rows):
            sys.exit("haproxy 3.0 and nginx are not there: run benchmarks/reload/engines.py first")
    return rows


def measure(rows: list[report.Row], options: argparse.Namespace) -> None:
    """Measure what is not there yet."""
    wanted = 2 if options.short else options.reloads
    reloads = min(wanted, RELOADS)
    part, parts = map(int, options.part.split("/"))
    if options.anew or options.short:
        shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "facts.json").write_text(json.dumps(report.facts(), indent=2))
    begun = time.monotonic()
    every = [(number, row) for number in range(1, runs_of(wanted) + 1) for row in rows]
    every = [(number, row) for number, row in every if row.safe or number <= runs_of(-(-wanted // FEWER))]
    for number, row in every[part - 1 :: parts]:
        kept = report.place_of(row, number, options.output)
        if kept.exists():
            continue
        if options.minutes is not None and time.monotonic() - begun > 60 * options.minutes:
            done = sum(report.place_of(row, number, options.output).exists() for number, row in every)
            raise Unfinished(f"the time is up: {done} of {len(every)} runs are done; the same command goes on")
        one_run(row, number, reloads, kept)
        print(f"{time.monotonic() - begun:6.0f} s  {number:2} {report.line(row, kept)}", flush=True)


def runs_of(reloads: int) -> int:
    """How many runs have this many reloads."""
    return -(-reloads // RELOADS)


def one_run(row: report.Row, number: int, reloads: int, kept: Path) -> None:
    """Measure one run; ``kept`` is there when it has gone well."""
    with tempfile.TemporaryDirectory() as name:
        words = [sys.executable, HERE / "one_run.py", row.server, row.way, row.load, str(reloads), str(number), name]
        if subprocess.run([*PRIVATE, *words], timeout=600).returncode:
            raise RunFailed(f"{row.name}: run {number} failed")
        unfinished = kept.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for file in ("connections.csv", "reloads.csv"):
            shutil.copyfile(Path(name, file), unfinished / file)
        unfinished.rename(kept)


def plot(results: list[report.Result]) -> None:
    try:
        from plot import draw
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    draw(results, PROJECT / "docs/img/reload.png")


if __name__ == "__main__":
    try:
        main()
    except RunFailed as failure:
        sys.exit(str(failure))
