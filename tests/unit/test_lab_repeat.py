# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab keeps what it has measured, goes on where it stopped, and its page names rows that exist."""

from __future__ import annotations

import json
import math
import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace

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
    """When the time is over, no measurement begins; how many are missing is said."""
    assert scenario.run(tmp_path / "found", 1, 0.0) == 2
    assert scenario.made == []
    assert repeat.read(tmp_path / "found") == []


def test_one_that_fails_leaves_the_others(scenario: Scenario, tmp_path: Path) -> None:
    """A measurement that fails is missing; the others are made."""
    scenario.fails.add("a")
    assert scenario.run(tmp_path / "found", 2) == 2
    assert [line.way for line in repeat.read(tmp_path / "found")] == ["b", "b"]


def test_it_ends_when_all_fail(scenario: Scenario, tmp_path: Path) -> None:
    """Where every measurement fails, the others are not tried."""
    scenario.fails |= {"a", "b"}
    assert scenario.run(tmp_path / "found", 9) == 18
    assert len(scenario.made) == repeat.BROKEN


@pytest.fixture
def lab_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """benchmarks/lab/run, whose results and pages are in a directory of their own."""
    path = str(ROOT / "benchmarks/lab/run")
    loader = SourceFileLoader("lab_run", path)
    module = module_from_spec(spec_from_loader("lab_run", loader))
    loader.exec_module(module)
    monkeypatch.setattr(module.table, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.setattr(module, "LAB", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    return module


def test_rows_are_measured_afresh(lab_run: ModuleType, tmp_path: Path) -> None:
    """--afresh with --rows forgets these rows, and keeps the others."""
    file = tmp_path / "found"
    file.write_text("".join(json.dumps(run_of({}, row=row)._asdict()) + "\n" for row in ("X1", "X10", "X2")))
    lab_run.forget(file, "X1")
    assert [line.row for line in repeat.read(file)] == ["X10", "X2"]
    lab_run.forget(file, "")
    assert repeat.read(file) == []


def test_the_page_keeps_its_tables_until_all_is_measured(
    lab_run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README.md has both kernels and all scenarios: what was measured of some is shown elsewhere."""
    drawn: list[Path] = []
    monkeypatch.setitem(sys.modules, "picture", SimpleNamespace(draw=drawn.append))
    for kernel in table.KERNELS:
        (tmp_path / kernel).mkdir()
        for scenario in table.SCENARIOS:
            lab_run.show()
            assert "\nold\n" in (tmp_path / "README.md").read_text()
            assert f"{table.SCENARIOS[-1]} on two processors" in capsys.readouterr().out
            (tmp_path / kernel / f"{scenario}.jsonl").write_text(json.dumps(run_of({"reset": 7})._asdict()))
    lab_run.show()
    text = (tmp_path / "README.md").read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| a | 7 reset of 100; 1 run | 7 reset of 100; 1 run |" in text
    assert len(drawn) == 1
    assert "7 reset" in (tmp_path / "tables.md").read_text()


def run_of(lost: dict[str, int], counted: int = 100, row: str = "X1") -> Line:
    return Line(row, "something", "connections", "a", 0, counted, lost, {}, "here")


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
