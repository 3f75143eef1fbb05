# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmarks of reloads and of lanes, in their short forms: what they say is lost, and that they can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.netlab import unable

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PRIVATE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True)
def programs() -> None:
    """haproxy, tc and iptables are there."""
    script = f"import sys; sys.path.insert(0, {str(BENCHMARKS / 'reload')!r}); import ways; print(*ways.missing())"
    missing = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    if missing:
        unable(f"not installed: {missing}")


def one_run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One run of the benchmark: server, way, reloads, seed, and what takes the place of the reload command."""
    server, way, reloads, seed, *instead = words
    script = BENCHMARKS / "reload" / "one_run.py"
    argv = [*PRIVATE, sys.executable, str(script), server, way, reloads, seed, str(directory), *instead]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_a_hold_loses_no_connection(tmp_path: Path) -> None:
    """The short form ends well: every reload takes place, and 'libnlplug hold' loses none of the connections."""
    argv = [sys.executable, str(BENCHMARKS / "reload" / "run.py"), "--short", "--output", str(tmp_path / "results")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in done.stdout.splitlines() if "|" in line}
    held = [title for title in table if title.startswith("`libnlplug hold`")]
    assert len(held) == 3
    for title in held:
        tried, *lost = (int(cell) for cell in table[title][:5])
        assert tried > 0
        assert lost == [0, 0, 0, 0]
        assert table[title][5].strip() == "0 of 2"
    assert "plain reload; closes at once" in table  # which loses some nearly every time, but two reloads may be lucky


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [("false", "false: status 1"), ("true", r"after reload 1 process \d+ serves, as before")],
)
@pytest.mark.parametrize("way", ["plain", "hold"])
def test_no_reload_is_a_failure(tmp_path: Path, way: str, instead: str, sentence: str) -> None:
    """A reload command that fails, and one that does nothing, fail the benchmark, with a sentence that says so."""
    done = one_run(tmp_path, "haproxy", way, "1", "1", instead)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)


def test_a_new_process_that_does_not_serve_is_a_failure(tmp_path: Path) -> None:
    """A reload that writes another process's number, but puts nobody in the server's place, fails the benchmark."""
    done = one_run(tmp_path, "haproxy", "plain", "1", "1", "sh", "-c", f"echo 99999 >{tmp_path}/pid")
    assert done.returncode == 1
    assert "process 99999 should serve, and does not answer" in done.stderr


def test_the_cost_of_a_lane_is_measured() -> None:
    """The short form of the lane's benchmark measures each case on both devices, with a lane that is in place."""
    argv = ["unshare", "--net", sys.executable, str(BENCHMARKS / "lane" / "run.py"), "--short"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    cases = ["no lane, once more", "leaving", "arriving"]
    assert rows == [f"{device}, {case}" for device in ("lo", "veth") for case in cases]
