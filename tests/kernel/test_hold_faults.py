# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/faults/run.py: the faults of 'make faults' that are no tests of their own, each tried once, and 20 holders
killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.hold import needs_root

ROOT = Path(__file__).resolve().parents[2]


def test_traffic_flows_again_after_every_fault() -> None:
    """Every fault ends well within the documented 50 ms, and every stated limit is as it is stated. Of each delay, the
    pauses of the machine are left out: whoever runs all tests has other things going on."""
    needs_root()
    command = [sys.executable, "-m", "tests.faults.run", "--short", "--untested"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("0 missed")
    assert len([line for line in lines if line.endswith("  met")]) >= 30
    stated = len([line for line in lines if line.endswith("  as stated")])
    assert stated == (3 if "no cgroup.kill: Linux 5.14 has it" in done.stdout else 4)
    assert "21 trials, 21 flowed again" in done.stdout
