# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmarks of reloads and of lanes, in their short forms: what they say is lost, and that they can fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.netlab import in_guest, unable

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PRIVATE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True, scope="module")
def programs() -> None:
    """haproxy, tc and iptables are there."""
    argv = [sys.executable, "-c", "import ways; print(*ways.missing())"]
    done = subprocess.run(argv, cwd=BENCHMARKS / "reload", capture_output=True, text=True, check=True)
    missing = done.stdout.strip()
    if missing:
        unable(f"not installed: {missing}")


def one_run(directory: Path, *words: str, patience: float = 10) -> subprocess.CompletedProcess[str]:
    """One run of the benchmark: server, way, load, reloads, seed, and what takes the place of the reload command."""
    server, way, load, reloads, seed, *instead = words
    script = BENCHMARKS / "reload" / "one_run.py"
    argv = [*PRIVATE, sys.executable, str(script), server, way, load, reloads, seed, str(directory), *instead]
    environment = {**os.environ, "RELOAD_PATIENCE": str(patience)}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)


def short(output: Path, *rows: str) -> subprocess.CompletedProcess[str]:
    """The short form of some rows, 2 reloads of each. On an emulated machine with two busy processors a reload takes
    longer than the 10 s that a client waits."""
    argv = [sys.executable, str(BENCHMARKS / "reload" / "run.py"), "--short", "--output", str(output), "--rows", *rows]
    environment = {**os.environ, "RELOAD_PATIENCE": "40" if in_guest() and os.cpu_count() != 1 else "10"}
    longest = 600 * len(rows) + 60  # run.py ends a run that takes longer than 600 s, and what it has started
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=longest)


def lost(directory: Path) -> dict[str, int]:
    """How the connections of a run ended."""
    ends = [line.split(",")[2] for line in (directory / "connections.csv").read_text().splitlines()]
    return {end: ends.count(end) for end in set(ends)}


def test_a_handover_loses_no_connection(tmp_path: Path) -> None:
    """The short form ends well: every reload takes place, and 'libnlplug hold --handover' loses none of the
    connections, with haproxy, quiet and busy, and with a server that closes a full queue."""
    rows = ["haproxy:handover:quiet", "haproxy:handover:busy", "slow-at-once:handover:quiet"]
    done = short(tmp_path / "results", *rows)
    assert done.returncode == 0, done.stdout + done.stderr
    held = [
        line.split("|")[2:-1] for line in done.stdout.splitlines() if line.startswith("| `libnlplug hold --handover`")
    ]
    assert len(held) == len(rows)
    for tried, without, reloads, *_times in held:
        assert int(tried) > 0
        assert (without.strip(), reloads.strip()) == ("0", "0 of 2")


def test_what_is_lost_is_counted(tmp_path: Path) -> None:
    """Connections that the old process had in its queue when it was killed are counted as reset, nearly all of the 24
    clients'."""
    script = 'kill -STOP $(cat "$0") && sleep 0.5 && kill -KILL $(cat "$0") && exec haproxy -D -f "$1" -p "$0"'
    kill = ["sh", "-c", script, f"{tmp_path}/pid", f"{tmp_path}/haproxy.cfg"]
    done = one_run(tmp_path, "haproxy", "plain", "quiet", "1", "1", *kill)
    assert done.returncode == 0, done.stderr
    assert lost(tmp_path)["reset"] >= 12


def test_a_server_that_closes_its_queue_loses_some(tmp_path: Path) -> None:
    """Without a hold, a server that closes a full queue loses connections, and the table says how many."""
    done = short(tmp_path / "results", "slow-at-once:plain:quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = (line.split("|")[2:-1] for line in done.stdout.splitlines() if line.startswith("| plain reload"))
    run = tmp_path / "results" / "slow-at-once-plain-quiet-01"
    assert row[1].strip() == f"{lost(run)['reset']} reset"
    assert int(row[0]) == sum(lost(run).values())


def test_a_run_is_not_made_twice(tmp_path: Path) -> None:
    """What was measured stays, and is not measured again: only what is not there yet."""
    output, rows = tmp_path / "results", ["haproxy:plain:quiet", "haproxy:migrate:quiet"]
    (output / "haproxy-plain-quiet-01").mkdir(parents=True)
    (output / "haproxy-plain-quiet-01" / "connections.csv").write_text("1.0,0.1,ok,7\n2.0,0.1,reset,\n")
    (output / "haproxy-plain-quiet-01" / "reloads.csv").write_text("1.5,1.6,,7\n")
    program = [sys.executable, str(BENCHMARKS / "reload" / "run.py"), "--reloads", "1", "--output", str(output)]
    for more in (["--minutes", "0"], []):
        done = subprocess.run([*program, *more, "--rows", *rows], capture_output=True, text=True, timeout=120)
        assert done.returncode == bool(more)
        assert ("1 of 2 runs are done" in done.stderr) == bool(more)
    assert "| plain reload | 2 | 1 reset | 1 of 1 |" in done.stdout


def test_a_loss_by_a_handover_is_a_failure(tmp_path: Path) -> None:
    """One connection that a hold with --handover lost: status 1, and a sentence that says so."""
    place = tmp_path / "nginx-handover-busy-01"
    place.mkdir()
    (place / "connections.csv").write_text("1.0,0.1,ok,7\n2.0,0.1,reset,\n")
    (place / "reloads.csv").write_text("1.5,1.6,0.1,7\n")
    program = [sys.executable, str(BENCHMARKS / "reload" / "run.py"), "--again", "--output", str(tmp_path)]
    done = subprocess.run([*program, "--rows", "nginx:handover:busy"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "nginx:handover:busy must lose nothing, and lost 1\n")
    assert "| 2 | 1 reset | 1 of 1 |" in done.stdout


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [("false", "false: status 1"), ("true", r"after reload 1 process \d+ serves, as before")],
)
@pytest.mark.parametrize("way", ["plain", "hold"])
def test_no_reload_is_a_failure(tmp_path: Path, way: str, instead: str, sentence: str) -> None:
    """A reload command that fails, and one that does nothing, fail the benchmark, with a sentence that says so."""
    done = one_run(tmp_path, "haproxy", way, "quiet", "1", "1", instead)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)


def test_a_new_process_that_does_not_serve_is_a_failure(tmp_path: Path) -> None:
    """A reload that writes another process's number, but puts nobody in the server's place, fails the benchmark."""
    instead = ["sh", "-c", f"echo 99999 >{tmp_path}/pid"]
    done = one_run(tmp_path, "haproxy", "plain", "quiet", "1", "1", *instead, patience=1)
    assert done.returncode == 1
    assert "process 99999 should serve, and does not answer" in done.stderr


def test_the_cost_of_a_lane_is_measured() -> None:
    """The short form of the lane's benchmark measures each of its cases on both kinds of device."""
    argv = ["unshare", "--net", sys.executable, str(BENCHMARKS / "lane" / "run.py"), "--short"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]]
    lanes = ["1 lane", "2 lanes"]
    several = [f"{hook}, {count}" for hook in ("leaving", "arriving") for count in lanes]
    u32 = [f"leaving, {count} of u32 filters" for count in lanes]
    cases = ["no lane, once more", *several, "leaving, 2 lanes, all different", *u32]
    assert rows == [f"{device}, {case}" for device in ("lo", "veth") for case in cases]
