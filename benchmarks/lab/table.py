# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables, made of what was measured: a table for each scenario, a line for each way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from repeat import Line, read

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
SCENARIOS = ("splicing", "migration", "maglev", "changes", "tunnels", "fragments")
KERNELS = {"uml": "one processor", "debian": "two processors"}
RESULTS = Path(__file__).resolve().parents[2] / "build/lab"
HEAD = ["row", "what happens", "way", *(f"lost, {name}" for name in KERNELS.values()),
        *(f"other figures, {name}" for name in KERNELS.values())]  # fmt: skip


def file_of(scenario: str, kernel: str) -> Path:
    """Where the measurements of a scenario are."""
    return RESULTS / kernel / f"{scenario}.jsonl"


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def spread(values: list[float]) -> str:
    """Median and range: ``14 (11 to 16)``, or ``14`` where all are the same."""
    least, most = number(min(values)), number(max(values))
    return least if least == most else f"{number(median(values))} ({least} to {most})"


def loss(runs: list[Line]) -> str:
    """How many were lost in a run, by how: ``14 (11 to 16) reset of 264; 5 runs``."""
    if not runs:
        return "-"
    kinds = sorted({how for run in runs for how in run.lost})
    lost = ", ".join(f"{spread([run.lost.get(how, 0) for run in runs])} {how}" for how in kinds) or "0"
    counted = number(median([run.counted for run in runs]))
    return f"{lost} of {counted}; {len(runs)} run{'s' if len(runs) > 1 else ''}"


def figures(runs: list[Line]) -> str:
    """The other figures of some runs."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return "; ".join(f"{name}: {spread([run.figures[name] for run in runs if name in run.figures])}" for name in names)


def ways(scenario: str) -> Iterator[tuple[str, str, str, list[list[Line]]]]:
    """Row, what happens, way and runs on each kernel, for every way of a scenario."""
    lines = {kernel: read(file_of(scenario, kernel)) for kernel in KERNELS}
    every = [line for one in lines.values() for line in one]
    last = {line.row: line.what for line in every}  # a row whose text has changed was another one
    keys = dict.fromkeys((line.row, line.what, line.way) for line in every if last[line.row] == line.what)
    for key in sorted(keys, key=lambda key: (key[0][0], int(key[0][1:]))):
        yield (*key, [[line for line in one if (line.row, line.what, line.way) == key] for one in lines.values()])


def table(scenario: str) -> list[str]:
    """A scenario's table, in Markdown."""
    text = [HEAD, ["---"] * len(HEAD)]
    before = ""
    for row, what, way, runs in ways(scenario):
        first = [row, what] if row != before else [row, ""]
        text.append([*first, way, *map(loss, runs), *map(figures, runs)])
        before = row
    return [f"| {' | '.join(line)} |" for line in text]


def not_measured() -> list[str]:
    """The scenarios of which build/lab has no measurement, with the kernel."""
    return [f"{name} on {KERNELS[one]}" for name in SCENARIOS for one in KERNELS if not read(file_of(name, one))]


def page() -> str:
    """All the tables, and where they were measured."""
    parts, where = [], set()
    for scenario in SCENARIOS:
        parts += [f"### {scenario.capitalize()}", "", *table(scenario), ""]
        where |= {line.where for kernel in KERNELS for line in read(file_of(scenario, kernel))}
    return "\n".join([*parts, *(f"{one}." for one in sorted(where))])


def write(readme: Path) -> None:
    """Put the tables between README.md's marks."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{page()}\n{END}{after}")
