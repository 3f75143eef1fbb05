# SPDX-License-Identifier: GPL-2.0-or-later
"""The second test kernel, seen from the host: the statuses and bounds of the first one. Each test starts it once."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "tools/testkernel/run"


def guest(*words: str, timeout: int = 300) -> tuple[int, str, str]:
    """The status of a command there, and both outputs."""
    argv = [str(RUN), "--kernel", "debian", "--timeout", str(timeout), "--", *words]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout + 60)
    return done.returncode, done.stdout, done.stderr


def test_the_commands_own_status_and_output() -> None:
    """A command is root on two processors, in this directory; both its streams come out, and its status comes back."""
    script = "id -u; nproc; pwd; echo problem >&2; exit 7"
    assert guest("sh", "-c", script) == (7, f"0\n2\n{Path.cwd()}\nproblem\n", "")


def test_a_command_that_a_signal_ended() -> None:
    """128 and the signal's number."""
    assert guest("sh", "-c", "kill -TERM $$")[0] == 128 + 15


@pytest.mark.parametrize("how", ["c", "o"], ids=["panics", "goes away"])
def test_a_guest_that_ends_badly(how: str) -> None:
    """125, and one line that says what happened."""
    status, _, said = guest("sh", "-c", f"echo {how} >/proc/sysrq-trigger; sleep 60")
    assert status == 125
    assert said.startswith("tools/testkernel/run: the guest ")
    assert said.count("\n") == 1


def test_a_guest_that_hangs() -> None:
    """It is killed when its time is over: 124."""
    began = time.monotonic()
    assert guest("sleep", "1000", timeout=40)[0] == 124
    assert time.monotonic() - began < 60
