# SPDX-License-Identifier: GPL-2.0-or-later
"""A short form of `make fuzz`: the same targets, a few hundred cases of each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libnlplug import NetlinkError
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.netlab import unable

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"
ROOT = FUZZ.parents[1]
NAMES = [after.partition("(")[0] for after in (FUZZ / "targets.py").read_text().split("\n@target\ndef ")[1:]]
CASES = {"guard_program": 50}  # a process for each

# In a process of its own: it enters a network namespace, and what is looked for may be its death.
PROGRAM = """
import random, sys
from tests.fuzz import targets
from hypothesis import HealthCheck, given, settings, strategies
from tests.fuzz.source import Source

target, count = targets.TARGETS[sys.argv[1]], int(sys.argv[2])
targets.alone()

@settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.binary(max_size=600))
def by_hypothesis(data):
    target(Source(data))

by_hypothesis()
chance = random.Random(count)
for _ in range(count):
    target(Source(chance.randbytes(chance.randrange(600))))
"""


@pytest.mark.parametrize("name", NAMES)
def test_the_target_keeps_its_promise(name: str, tmp_path: Path) -> None:
    """For some hundred cases of hypothesis's, and as many of chance's, the target's promise is kept."""
    command = [sys.executable, "-X", "faulthandler", "-c", PROGRAM, name, str(CASES.get(name, 150))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    if "no network namespace of its own can be had" in done.stderr:
        unable("no right to make a network namespace: run as root, or under 'unshare --map-root-user --net'")
    assert done.returncode == 0, done.stderr[-4000:]


def fuzz(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """tests/fuzz/run in a copy of its own, as what it finds goes beside it."""
    shutil.copytree(FUZZ, directory / "tests/fuzz", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for name in ("libnlplug", "vendor_headers"):
        if (ROOT / name).exists():
            (directory / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "tests.fuzz.run", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=directory)
    if "no network namespace of its own can be had" in done.stderr + done.stdout:
        unable("no right to make a network namespace: run as root, or under 'unshare --map-root-user --net'")
    return done


@pytest.mark.parametrize("name", ["guard_in_c", "exchange_in_c", "hook_in_c"])
def test_the_c_file_reads_only_what_is_there(name: str, tmp_path: Path) -> None:
    """Whatever comes to it, gcc's sanitizers find nothing in the C file in some hundred cases of chance's."""
    if not (ROOT / "libnlplug" / "lane" / "hook.c").exists() or not shutil.which("gcc"):
        pytest.skip("the C files or gcc are not here")
    done = fuzz(tmp_path, "--cases", "400", "--seed", "1", name)
    if "no libasan" in done.stdout:
        pytest.skip("gcc's sanitizers are not here")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert f"{name:<16} |          - |        400 |" in done.stdout


BROKEN = """
import os

def fails(source):
    assert source.below(4) < 3

def leaves(source):
    raise SystemExit(0)

def ends(source):
    os._exit(0)

def dies(source):
    os.abort()

TARGETS = {function.__name__: function for function in (fails, leaves, ends, dies)}

def alone():
    pass
"""


@pytest.mark.parametrize("name", ["fails", "leaves", "ends", "dies"])
def test_a_broken_promise_is_found(name: str, tmp_path: Path) -> None:
    """A target that raises, kills its process, or ends it as if all were well, is a finding, with the case at fault."""
    shutil.copytree(FUZZ, tmp_path / "tests/fuzz")
    (tmp_path / "tests/fuzz/targets.py").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--cases", "100", "--seed", "1", name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert [path for path in (tmp_path / "build" / "fuzz" / "found").glob(f"{name}-*") if not path.suffix]


def test_a_fifo_is_no_namespace(tmp_path: Path) -> None:
    """A path that leads to a FIFO is refused at once: to open it does not wait for somebody who writes."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NetlinkError, match="not a network namespace"):
        RouteSocket(tmp_path / "fifo")
