# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure each row of a scenario several times, in turn, and write down each measurement as soon as it is made.

A scenario is a program: ``python benchmarks/lab/migration.py FILE [options]``. It adds a line of JSON to FILE for each
measurement. Called again with the same FILE, it makes only the measurements that FILE lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

REPETITIONS = 5
BROKEN = 4  # measurements that fail one after the other: then something is broken
MARGIN = 20.0  # seconds before the end of the time in which no measurement begins


class Seen(NamedTuple):
    """What one measurement found: of so many, how many were lost, by how; and other figures, by their names."""

    counted: int
    lost: dict[str, int]
    figures: dict[str, float] = {}


class Case(NamedTuple):
    """A row of the table, and the ways in which it is measured. ``unit`` says what is counted."""

    row: str
    what: str
    unit: str
    ways: dict[str, Callable[[], Seen]]


class Line(NamedTuple):
    """A measurement, as it is written down."""

    row: str
    what: str
    unit: str
    way: str
    repetition: int
    counted: int
    lost: dict[str, int]
    figures: dict[str, float]
    where: str


def read(file: Path) -> list[Line]:
    """The measurements of a file. A line that was not written to its end is left out."""
    lines = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(Line(**json.loads(text)))
        except ValueError:
            continue
    return lines


def turns(cases: list[Case], repetitions: int) -> Iterator[tuple[int, Case, str]]:
    """Every way of every case once in each repetition; every other repetition goes backwards."""
    once = [(case, way) for case in cases for way in case.ways]
    for number in range(repetitions):
        for case, way in once if number % 2 == 0 else once[::-1]:
            yield number, case, way


def some(cases: list[Case], ways: dict[str, list[str]]) -> list[Case]:
    """Only these ways of these rows."""
    return [one._replace(ways={way: one.ways[way] for way in ways[one.row]}) for one in cases if one.row in ways]


def measure(cases: list[Case], file: Path, repetitions: int, deadline: float) -> int:
    """Make the measurements that the file lacks, until the deadline; how many are still missing then."""
    done = {(line.row, line.what, line.way, line.repetition) for line in read(file)}
    missing = [one for one in turns(cases, repetitions) if (one[1].row, one[1].what, one[2], one[0]) not in done]
    where_, made, in_a_row = where(), 0, 0
    with open(file, "a") as out:
        if out.tell():
            out.write("\n")  # in case the last line was cut off
        for number, case, way in missing:
            if time.monotonic() > deadline:
                print("the time is over")
                break
            begun = time.monotonic()
            try:
                seen = case.ways[way]()
            except Exception:
                traceback.print_exc()
                in_a_row += 1
                if in_a_row == BROKEN:
                    break
                continue
            made, in_a_row = made + 1, 0
            lost = dict(seen.lost)
            line = Line(case.row, case.what, case.unit, way, number, seen.counted, lost, seen.figures, where_)
            out.write(json.dumps(line._asdict()) + "\n")
            out.flush()
            told = ", ".join(f"{name} {value:.3g}" for name, value in seen.figures.items())
            words = ", ".join(f"{count} {how}" for how, count in lost.items()) or "0"
            took = time.monotonic() - begun
            print(f"{took:5.1f} s  {case.row} {way}: lost {words} of {seen.counted}; {told}", flush=True)
    return len(missing) - made


def program(scenario: Callable[[bool], AbstractContextManager[list[Case]]]) -> None:
    """Run a scenario as a program. ``scenario(short)`` gives the cases for as long as its block lasts."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("file", type=Path, metavar="FILE")
    add("--short", action="store_true", help="a few small measurements, to see that they work")
    add("--repetitions", type=int, default=REPETITIONS, metavar="N", help=f"how often each is made ({REPETITIONS})")
    add("--seconds", type=float, default=float("inf"), metavar="S", help="begin none near the end of this time")
    add("--rows", default="", metavar="REGEX", help="only the rows of these names")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds - MARGIN
    with scenario(options.short) as cases:
        chosen = [case for case in cases if re.fullmatch(options.rows or ".*", case.row)]
        if not chosen:
            parser.error(f"no row has a name like {options.rows!r}")
        missing = measure(chosen, options.file, 1 if options.short else options.repetitions, deadline)
    if missing:
        parser.exit(1, f"{missing} measurements are missing\n")


def where() -> str:
    """The machine and its programs, without their names and places."""
    commands = {"haproxy": "haproxy -v", "ipvsadm": "ipvsadm -v", "busybox": "busybox", "iproute2": "ip -V"}
    versions = []
    for name, command in commands.items():
        if shutil.which(command.split()[0]):
            said = subprocess.run(command.split(), capture_output=True, text=True).stdout
            versions.append(f"{name} {re.search(r'[0-9]+[.][0-9.]*[0-9]', said)[0]}")
    count = os.cpu_count()
    return f"Linux {platform.release()}, {count} processor{'s' if count != 1 else ''}; {', '.join(versions)}"
