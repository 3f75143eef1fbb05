# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's own program, in its short form: every section measures what it says, and a missed bound is seen."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import report
from sections import clean_environment

from tests.support.netlab import unable

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

POINTS = {"toggles": {1, 4}, "attaching": {2}, "groups": {3}, "commands": {5}, "holds": {6}, "endurance": {7}}
POINTS |= {"on_the_wire": {8}, "checked": {7}, "on_the_host": {9}}
COMPILED = {"toggles", "attaching", "groups", "on_the_host"}  # beside a C program


def measured(tmp_path: Path, *sections: str) -> dict:
    """What the short form of these sections finds."""
    output = tmp_path / "found.json"
    program = [sys.executable, str(BENCHMARKS / "inside.py"), "--short", "--output", str(output), *sections]
    done = subprocess.run(["unshare", "--net", *program], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the short form of all sections finds that can be measured here; it leaves no namespace."""
    faulthandler.cancel_dump_traceback_later()  # it has a time limit of its own: an emulated processor takes minutes
    before = subprocess.check_output(["ip", "netns"])
    sections = [section for section in POINTS if has_compiler() or section not in COMPILED]
    everything = measured(tmp_path_factory.mktemp("bench"), *sections)
    assert subprocess.check_output(["ip", "netns"]) == before
    return everything


def has_compiler() -> bool:
    return bool(shutil.which("cc") and shutil.which("pkg-config"))


def needs_compiler() -> None:
    if not has_compiler():
        unable("no C compiler here, or no pkg-config")


@pytest.mark.parametrize("section", POINTS)
def test_a_section_measures(found: dict, section: str) -> None:
    """Each section has rows of its points, with positive figures and texts. What is no time (memory, descriptors,
    zombies, errors of valgrind's) is within its bound; what one time is over another may be less than nothing, where
    each was measured once."""
    if section in COMPILED:
        needs_compiler()
    rows = [row for row in found["rows"] if row["section"] == section]
    if not rows:
        unable(f"no row of {section}. {' '.join(found['notes'])}")
    assert {row["point"] for row in rows} == POINTS[section]
    for row in rows:
        difference = " over " in row["what"]
        assert report.is_met(row) if row["point"] == 7 else difference or row["ratio"] > 0, row
        assert all(row[name] for name in ("what", "ours", "peer", "theirs"))


def row(ratio: float, bound: float | None, sense: str = "at most") -> dict:
    return {"ratio": ratio, "bound": bound, "sense": sense, "point": 1, "what": "w", "ours": "1", "peer": "p"} | {
        "theirs": "2",
        "fails": False,
    }


def test_a_missed_bound_is_seen(tmp_path: Path) -> None:
    """A ratio above its bound, or below one that it must reach, is missed: in the table, and in the exit status."""
    assert [report.is_met(one) for one in (row(0.8, 0.8), row(0.81, 0.8))] == [True, False]
    assert [report.is_met(one) for one in (row(15, 15, "at least"), row(14.9, 15, "at least"))] == [True, False]
    assert report.is_met(row(7, None)) is None
    assert "**missed**" in report.table([row(2, 1)])
    assert "**missed**" not in report.table([row(1, 2), row(9, None)])
    kept = tmp_path / "found.json"
    for ratio, status in ((0.5, 0), (1.5, 1)):
        kept.write_text(json.dumps({"rows": [row(ratio, 1)], "figures": {}, "notes": [], "rounds": 9, "where": ""}))
        argv = [sys.executable, str(BENCHMARKS / "bench.py"), "--again", str(kept), "a section"]
        assert subprocess.run(argv, capture_output=True, timeout=60).returncode == status


def test_a_program_that_fails_meets_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a peer takes that fails is in the table, with the word that it fails, and meets no bound."""
    needs_compiler()
    program = tmp_path / "nl-qdisc-add"
    program.write_text("#!/bin/sh\necho 'no module' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = measured(tmp_path, "toggles")
    (failing,) = (one for one in found["rows"] if one["peer"] == "an nl-qdisc-add process")
    assert (failing["bound"], report.is_met(failing)) == (None, None)
    assert report.table([failing]).splitlines()[-1].endswith("|  | it fails |")
    assert "'no module'" in " ".join(found["notes"])


def test_the_table_goes_between_the_markers(tmp_path: Path) -> None:
    """What stands around the markers stays, what stands between them is replaced."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    for text in ("first\n", "second\n"):
        report.put_into(readme, text)
        assert readme.read_text() == f"before\n{report.BEGIN}\n{text}\n{report.END}after\n"


def test_the_measured_command_is_the_installed_one(tmp_path: Path) -> None:
    """The launcher that is measured runs, by its own interpreter, the copy in an environment that has no more."""
    python, launcher = clean_environment(tmp_path)
    assert launcher.read_text().splitlines()[0] == f"#!{python}"
    assert subprocess.run([launcher, "--version"], capture_output=True, timeout=60).returncode == 0
    program = "import libnlplug, pkgutil; print(libnlplug.__file__, *(one.name for one in pkgutil.iter_modules()))"
    shown = subprocess.check_output([python, "-I", "-c", program], text=True).split()
    assert Path(shown[0]).is_relative_to(tmp_path)
    assert "pytest" not in shown
