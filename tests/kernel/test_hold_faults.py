# SPDX-License-Identifier: GPL-2.0-or-later
"""benchmarks/faults/run.py: the faults of 'make faults', tried a few times; its figures are not looked at here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hold_helpers import needs_root

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "faults" / "run.py"


def test_traffic_flows_again_after_every_fault() -> None:
    """Every fault ends well, and every stated limit is as it is stated; nothing is passed over."""
    needs_root()
    done = subprocess.run(
        [sys.executable, PROGRAM, "--short", "--bound", "2000"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("0 missed")
    assert len([line for line in lines if line.endswith("  met")]) >= 20
    assert len([line for line in lines if line.endswith("  as stated")]) >= 1
    assert "21 trials, 21 flowed again" in done.stdout
