#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reload costs the clients of a server, in each way that there is to get through it.

    make reload-bench                                                               the whole, 15 to 20 minutes
    tools/testkernel/run --pin 1 -- .venv/bin/python benchmarks/reload/run.py --short     a look, half a minute

Needs root on a kernel with sch_plug, and haproxy, tc, iptables. Each run has namespaces of its own. The runs of the
different ways are interleaved. A reload that fails, or does not take place, ends everything with status 1; so does a
connection that is lost through libnlplug hold, and, where its lane is kept, a worst latency above 1.1 of Yelp's (not
with --short).

The whole writes its table into README.md, beside this file, and docs/img/reload.png where matplotlib is installed; its
raw results stay in build/reload.
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

import report
from ways import missing

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
PRIVATE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
RUNS = 5


class RunFailed(Exception):
    """A run did not come to its end."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--reloads", type=int, default=100, metavar="N", help=f"reloads for each row, in {RUNS} runs (100)")
    add("--short", action="store_true", help="one run of 2 reloads for some rows; judges only what is lost")
    add("--rows", nargs="+", metavar="SERVER:WAY", help="only these rows; writes no README")
    add("--output", type=Path, default=PROJECT / "build/reload", metavar="DIRECTORY", help="for raw results and facts")
    add("--again", action="store_true", help="measure nothing: table and plot once more, from --output")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows = [row for row in report.ROWS if row.name in options.rows] if options.rows else report.ROWS
    if options.short:
        rows = [row for row in rows if row.short or options.rows]
    if not rows:
        sys.exit(f"--rows: choose from {' '.join(row.name for row in report.ROWS)}")
    if not options.again:
        if missing():
            sys.exit(f"not installed: {', '.join(missing())}")
        measure(rows, 1 if options.short else RUNS, 2 if options.short else -(-options.reloads // RUNS), options.output)
    results = report.read(rows, options.output)
    table = report.table(results)
    print(f"\n{table}\n")
    if not options.short and not options.rows:
        report.write(HERE / "README.md", f"{table}\n\n{report.facts_of(options.output)}")
        plot(results)
    failures = report.judge(results, whole=not options.short)
    sys.exit("\n".join(failures) if failures else 0)


def measure(rows: list[report.Row], runs: int, reloads: int, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / "facts.json").write_text(json.dumps(report.facts(), indent=2))
    begun = time.monotonic()
    for number in range(1, runs + 1):
        for row in rows:
            with tempfile.TemporaryDirectory() as name:
                words = [sys.executable, HERE / "one_run.py", row.server, row.way, str(reloads), str(number), name]
                if subprocess.run([*PRIVATE, *words], timeout=600).returncode:
                    raise RunFailed(f"{row.name}: run {number} failed")
                kept = output / f"{row.server}-{row.way}-{number}"
                kept.mkdir()
                for file in ("connections.csv", "reloads.csv"):
                    shutil.copyfile(Path(name, file), kept / file)
            print(f"{time.monotonic() - begun:6.0f} s  {report.line(row, kept)}", flush=True)


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
