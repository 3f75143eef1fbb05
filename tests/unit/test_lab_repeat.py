# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab keeps what it has measured, goes on where it stopped, and its page names rows that exist."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from lab import repeat, table
from lab.repeat import Case, Line, Seen

from tests.support.doc_blocks import ROOT

README = ROOT / "benchmarks/lab/README.md"
PAGE = ROOT / "docs/which-one-when.md"


class Scenario:
    """A case of two ways that says which way is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.fails: set[str] = set()
        self.cases = [Case("X1", "something", "connections", {way: self._measurement(way) for way in ("a", "b")})]
        monkeypatch.setattr(repeat, "where", lambda: "here")

    def _measurement(self, way: str):
        def measure() -> Seen:
            self.made.append(way)
            if way in self.fails:
                raise RuntimeError(way)
            return Seen(10, {"reset": len(self.made)})

        return measure

    def run(self, file: Path, repetitions: int, deadline: float = math.inf) -> int:
        return repeat.measure(self.cases, file, repetitions, deadline)


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    return Scenario(monkeypatch)


def test_ways_take_turns(scenario: Scenario, tmp_path: Path) -> None:
    """Every way is measured once before the first is measured again; every other repetition goes backwards."""
    scenario.run(tmp_path / "found", 3)
    assert "".join(scenario.made) == "abbaab"


def test_a_later_run_makes_what_is_missing(scenario: Scenario, tmp_path: Path) -> None:
    """What a file has is not measured again, and stays as it was; a line that was cut off is measured again."""
    file = tmp_path / "found"
    scenario.run(file, 1)
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second[:-9]}")
    scenario.run(file, 2)
    assert "".join(scenario.made) == "ab" + "bba"
    lines = repeat.read(file)
    assert [(line.way, line.repetition) for line in lines] == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert lines[0].lost == {"reset": 1}


def test_none_begins_after_the_deadline(scenario: Scenario, tmp_path: Path) -> None:
    """When the time is over, no measurement begins, and the file has those that were made."""
    scenario.run(tmp_path / "found", 1, 0.0)
    assert scenario.made == []
    assert repeat.read(tmp_path / "found") == []


def test_one_that_fails_leaves_the_others(scenario: Scenario, tmp_path: Path) -> None:
    """A measurement that fails is counted and left out; the others are made."""
    scenario.fails.add("a")
    assert scenario.run(tmp_path / "found", 2) == 2
    assert [line.way for line in repeat.read(tmp_path / "found")] == ["b", "b"]


def test_it_ends_when_all_fail(scenario: Scenario, tmp_path: Path) -> None:
    """Where every measurement fails, the others are not tried."""
    scenario.fails |= {"a", "b"}
    assert scenario.run(tmp_path / "found", 9) == repeat.BROKEN == len(scenario.made)


def run_of(lost: dict[str, int], counted: int = 100) -> Line:
    return Line("X1", "something", "connections", "a", 0, counted, lost, {}, "here")


def test_the_table_says_median_range_and_runs() -> None:
    """Kinds of loss are told apart; a kind that a run did not see counts as 0 there."""
    runs = [run_of({"reset": 7}), run_of({"reset": 1, "refused": 2}, 90), run_of({"reset": 3})]
    assert table.loss(runs) == "0 (0 to 2) refused, 3 (1 to 7) reset of 100; 3 runs"
    assert table.loss([run_of({})]) == "0 of 100; 1 run"
    assert table.loss([]) == "-"


def test_the_page_names_rows_of_the_tables() -> None:
    """Each row that docs/which-one-when.md names is in README.md's tables."""
    rows = set(re.findall(r"^\| ([A-Z][0-9]+) \|", README.read_text(), re.MULTILINE))
    named = set(re.findall(r"\b[SMLKCTF][0-9]+\b", PAGE.read_text()))
    assert len(named) > 20
    assert named - rows == set()
