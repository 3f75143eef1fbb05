# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario found: rows for the one table, tables of its own, notes; and README.md's text made of them.

A scenario is a program: ``python benchmarks/lab/maglev.py FILE [--short]`` writes what it found into FILE.
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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
TABLE_ENDS = "<!-- end of the table -->"
SCENARIOS = ("splicing", "migration", "maglev")


class Row(NamedTuple):
    """A row of the one table. ``alone`` and ``held``: what was lost without a hold and with one."""

    what: str
    counted: str
    alone: str
    held: str
    figure: str


class Table(NamedTuple):
    """A table of a scenario's own."""

    title: str
    head: list[str]
    rows: list[list]


class Found(NamedTuple):
    """All that a scenario found."""

    rows: list[Row]
    tables: list[Table]
    notes: list[str]


def share(part: int, whole: int) -> str:
    """``12 of 200 (6.0 %)``"""
    return f"{part} of {whole} ({percent(part, whole)})"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def milliseconds(time_: float) -> str:
    return f"{1000 * time_:.0f} ms"


def lines_of(head: list[str], rows: list) -> list[str]:
    marks = ["---", *["---:" if isinstance(cell, (int, float)) else "---" for cell in rows[0][1:]]]
    return [f"| {' | '.join(map(str, line))} |" for line in (head, marks, *rows)]


def in_words(found: Found) -> str:
    """A scenario's own tables and notes."""
    parts = []
    for table in found.tables:
        parts += [f"**{table.title}**", "", *lines_of(table.head, table.rows), ""]
    return "\n".join([*parts, *(f"- {note}" for note in found.notes)])


def scenario(call: Callable[[bool], Found]) -> None:
    """Run a scenario as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--short", action="store_true", help="a small one, to see that it works")
    options = parser.parse_args()
    begun = time.monotonic()
    found = call(options.short)
    took = time.monotonic() - begun
    rows = [row._asdict() for row in found.rows]
    tables = [table._asdict() for table in found.tables]
    facts = {"rows": rows, "tables": tables, "notes": found.notes, "seconds": round(took), "where": where()}
    options.file.write_text(json.dumps(facts, indent=1) + "\n")
    print("\n".join(lines_of(list(Row._fields), found.rows)))
    print(f"\n{in_words(found)}\n{took:.0f} s")


def where() -> str:
    """The machine and its programs, without their names and places."""
    commands = {"haproxy": "haproxy -v", "ipvsadm": "ipvsadm -v", "busybox": "busybox", "iproute2": "ip -V"}
    versions = []
    for name, command in commands.items():
        if shutil.which(command.split()[0]):
            said = subprocess.run(command.split(), capture_output=True, text=True).stdout
            versions.append(f"{name} {re.search(r'[0-9]+[.][0-9.]*[0-9]', said)[0]}")
    return f"Linux {platform.release()}, {os.cpu_count()} processor; {', '.join(versions)}"


def read(file: Path) -> tuple[Found, str]:
    """What was found, and where."""
    facts = json.loads(file.read_text())
    found = Found([Row(**row) for row in facts["rows"]], [Table(**one) for one in facts["tables"]], facts["notes"])
    return found, facts["where"]


def write(readme: Path, files: dict[str, Path]) -> None:
    """Put what the scenarios found between README.md's marks."""
    read_ = {name: read(file) for name, file in files.items()}
    rows = [[name, *row] for name, (found, _) in read_.items() for row in found.rows]
    head = ["", "what happens", "counted", "lost, alone", "lost, with a hold", "the engine's own figures"]
    parts = [*lines_of(head, rows), TABLE_ENDS]
    for name, (found, _) in read_.items():
        parts += ["", f"### {name.capitalize()}", "", in_words(found)]
    parts += ["", " ".join(sorted({f"{where_}." for _, where_ in read_.values()}))]
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n" + "\n".join(parts) + f"\n{END}{after}")
