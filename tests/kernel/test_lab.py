# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's scenarios in their short forms, on the real engines: what each loses alone, and what with a hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab.repeat import Line, read

from tests.support.netlab import unable

LAB = Path(__file__).resolve().parents[2] / "benchmarks/lab"
IPVS = ("ip_vs_mh", "ip_vs_sh", "ip_vs_rr", "ip_vs_wrr", "ipip", "ip_gre")
NEEDED = {
    "splicing": (("haproxy", "busybox"), ()),
    "migration": (("haproxy",), ()),
    "maglev": (("haproxy", "ipvsadm"), IPVS),
    "changes": (("haproxy", "ipvsadm"), IPVS),
    "tunnels": (("haproxy", "ipvsadm"), (*IPVS, "cls_u32")),
    "fragments": (("haproxy", "ipvsadm"), (*IPVS, "cls_u32", "act_mirred", "act_skbedit")),
}


def found(name: str, tmp_path: Path) -> dict[tuple[str, str], Line]:
    """What the scenario measured, by row and way."""
    programs, modules = NEEDED[name]
    missing = [program for program in programs if not shutil.which(program)]
    missing += [module for module in modules if subprocess.run(["modprobe", "-q", module]).returncode]
    if missing:
        unable(f"the lab needs {', '.join(missing)}")
    argv = [sys.executable, str(LAB / f"{name}.py"), str(tmp_path / "found"), "--short"]
    environment = {**os.environ, "PYTHONPATH": str(LAB.parent)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return {(line.row, line.way): line for line in read(tmp_path / "found")}


def test_splicing(tmp_path: Path) -> None:
    """haproxy splices nearly all of a large object, and a reload under a hold cuts no transfer that is on its way."""
    lines = found("splicing", tmp_path)
    (spliced,) = (line for (row, _), line in lines.items() if row == "S4")
    (share,) = (value for name, value in spliced.figures.items() if name.endswith("% of the bytes"))
    assert share > 90
    (held,) = (line for (row, _), line in lines.items() if row == "S7")
    assert held.figures["still on their way after the last reload"] == 2
    assert held.lost == {}


def test_migration(tmp_path: Path) -> None:
    """Migration saves a closed accept queue if there is another listener, and a hold if there is none.

    A server loses no connection either if BPF gives it no more SYNs, and it accepts as many as it was given.
    """
    lines = found("migration", tmp_path)
    assert lines["M3", "alone"].lost["reset"] > 0
    migrated = lines["M3", "`tcp_migrate_req=1`"]
    assert migrated.lost == {}
    assert migrated.figures["migrated"] > 0
    assert lines["M5", "`tcp_migrate_req=1`"].lost["refused"] > 0
    for row in ("M3", "M5", "M11"):
        assert lines[row, "held, the queue awaited"].lost == {}
    assert lines["M11", "BPF, as many as counted"].lost == {}


def test_maglev(tmp_path: Path) -> None:
    """Both directors choose the same backends with mh, and one goes on with the other's connections with sloppy_tcp."""
    lines = found("maglev", tmp_path)
    assert lines["L2", "`mh`"].lost == {}
    assert lines["L2", "`rr`"].lost["moved"] > 0
    strict, sloppy = (lines["K1", f"`mh`, `sloppy_tcp={value}`"] for value in (0, 1))
    assert sum(strict.lost.values()) == strict.counted > 0
    assert sloppy.lost == {}
    assert sloppy.counted > 0


def test_changes(tmp_path: Path) -> None:
    """A change behind the router refuses connections; under a hold of the right packets it does not.

    C1 alone loses what comes between two commands: it is tried again where by chance nothing did.
    """
    for attempt in range(5):
        tmp_path.joinpath(str(attempt)).mkdir()
        lines = found("changes", tmp_path / str(attempt))
        assert lines["C1", "all held"].lost == {}
        if "refused" in lines["C1", "alone"].lost:
            break
    assert lines["C1", "alone"].lost["refused"] > 0
    assert lines["C2", "alone"].lost["refused"] > 0
    assert "refused" not in lines["C2", "SYNs held"].lost
    assert lines["C5", "alone"].lost["refused"] > 0


def test_tunnels(tmp_path: Path) -> None:
    """GRE to the director and GRE to the backend carry uploads, and the other director goes on with them."""
    lines = found("tunnels", tmp_path)
    whole = lines["T1", "GRE, then GRE"]
    assert whole.lost == {}
    assert whole.figures["largest packet at a backend, bytes"] == 1500
    assert 0 < whole.figures["connections through d1"] < whole.counted
    assert lines["T2", "GRE, then GRE; `sloppy_tcp=1`"].lost == {}


def test_fragments(tmp_path: Path) -> None:
    """Fragments that take both directors are lost, unless the directors send them to one."""
    lines = found("fragments", tmp_path)
    linux = lines["F1", "policy 1 (ports too)"]
    assert linux.lost == {}
    assert linux.figures["their fragments took both directors"] == 0
    alone = lines["F2", "alone"]
    assert alone.lost["lost"] == alone.figures["their fragments took both directors"] > 0
    assert lines["F2", "the directors send fragments on, by addresses and protocol"].lost == {}


@pytest.mark.parametrize("name", NEEDED)
def test_the_tables_have_this_scenario(name: str) -> None:
    """README.md has a table of each scenario."""
    assert f"\n### {name.capitalize()}\n" in (LAB / "README.md").read_text()
