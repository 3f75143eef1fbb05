# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's scenarios in their short forms, on the real engines: what each loses alone, and what with a hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.netlab import unable

LAB = Path(__file__).resolve().parents[2] / "benchmarks/lab"
NEEDED = {
    "splicing": (("haproxy", "busybox"), ()),
    "migration": (("haproxy",), ()),
    "maglev": (("haproxy", "ipvsadm"), ("ip_vs_mh", "ip_vs_sh", "ip_vs_rr", "ipip")),
}


def found(name: str, tmp_path: Path) -> dict[str, dict]:
    """What the scenario found: its rows, by what happens."""
    programs, modules = NEEDED[name]
    missing = [program for program in programs if not shutil.which(program)]
    missing += [module for module in modules if subprocess.run(["modprobe", "-q", module]).returncode]
    if missing:
        unable(f"the lab needs {', '.join(missing)}")
    argv = [sys.executable, str(LAB / f"{name}.py"), str(tmp_path / "found"), "--short"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return {row["what"]: row for row in json.loads((tmp_path / "found").read_text())["rows"]}


def lost(text: str) -> int:
    """How many: ``3 refused, 1 reset``, or ``0``."""
    return sum(int(part.split()[0]) for part in text.split(", "))


def test_splicing(tmp_path: Path) -> None:
    """haproxy splices nearly all of a large object, and a reload under a hold cuts no transfer that is on its way."""
    rows = found("splicing", tmp_path)
    figure = rows["objects of 10 MB, `splice-response`"]["figure"]
    assert float(figure.split(" %")[0]) > 90
    reloaded = rows["haproxy is reloaded 1 times in mid-transfer"]
    assert reloaded["figure"].startswith("4 of 4 were still on their way")
    assert reloaded["held"] == "0"


def test_migration(tmp_path: Path) -> None:
    """Migration saves a closed accept queue where another listener is there; where none is, a hold loses nobody."""
    rows = found("migration", tmp_path)
    without, with_ = (rows[f"a full accept queue, closed at once; `tcp_migrate_req={value}`"] for value in (0, 1))
    assert lost(without["alone"]) > 0
    assert without["held"].endswith("; the queue awaited: 0")
    assert (with_["alone"], with_["held"]) == ("0", "0")
    assert int(with_["figure"].split()[1].rstrip(",")) > 0
    stopped = rows["haproxy stops, then starts; `tcp_migrate_req=1`"]
    assert "refused" in stopped["alone"]
    assert stopped["held"].endswith("; the queue awaited: 0")


def test_maglev(tmp_path: Path) -> None:
    """A second director goes on with every connection of a killed one, if sloppy_tcp lets it; a hold refuses nobody."""
    rows = found("maglev", tmp_path)
    strict, sloppy = (rows[f"a director is killed, `mh`, `sloppy_tcp={value}`"] for value in (0, 1))
    assert lost(strict["alone"]) > 0
    assert strict["figure"].startswith("0.0 % ")
    assert sloppy["alone"] == "0"
    assert sloppy["figure"].startswith("100.0 % ")
    changed = rows["d1's rules are cleared and loaded again, 1 times"]
    assert "refused" in changed["alone"]
    assert "refused" not in changed["held"]
    assert changed["held"].endswith("all held: 0")


@pytest.mark.parametrize("name", NEEDED)
def test_the_table_is_of_this_scenario(name: str) -> None:
    """README.md's table has rows of each scenario."""
    assert f"| {name} | " in (LAB / "README.md").read_text()
