# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as a process: how it is started, and what it does where its output goes nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import libnlplug

MODULE = [sys.executable, "-m", "libnlplug"]
SCRIPT = Path(sys.executable).parent / "libnlplug"
# Python's own switches, as for unbuffered output, would hide what is looked for.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
PRINTING = ["--help", "--version", "--man", "--bash-completion", "hold --help", "show"]


def run(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT, **options}
    return subprocess.run(argv, text=True, timeout=30, **options)


def test_the_module_runs_as_the_command() -> None:
    """python -m libnlplug is the command, and calls itself libnlplug."""
    done = run(*MODULE, "--version")
    assert (done.returncode, done.stdout) == (0, f"libnlplug {libnlplug.__version__}\n")
    assert run(*MODULE, "nosuch").stderr.startswith("libnlplug: ")


@pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed beside this Python")
def test_the_installed_command_is_the_same() -> None:
    """The installed script says what the module says, and ends as it does."""
    for words in (["--version"], ["nosuch"], ["hold", "lo"]):
        module, script = run(*MODULE, *words), run(str(SCRIPT), *words)
        assert (module.returncode, module.stdout, module.stderr) == (script.returncode, script.stdout, script.stderr)


@pytest.mark.parametrize("words", PRINTING)
def test_a_reader_that_has_gone_is_no_traceback(words: str) -> None:
    """Where nobody reads stdout any more, nothing is said about that, and the status is 1."""
    read, write = os.pipe()
    os.close(read)
    done = run(*MODULE, *words.split(), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("words", PRINTING)
def test_a_full_disk_is_one_line(words: str) -> None:
    """Where stdout cannot be written, one line with the system's words says so, and the status is 1."""
    with open("/dev/full", "w") as full:
        done = run(*MODULE, *words.split(), stdout=full)
    assert (done.returncode, done.stderr) == (1, "libnlplug: failed: No space left on device\n")


@pytest.mark.parametrize("words", ["show", "show --json", "show --watch"])
def test_showing_without_stdout_fails(words: str) -> None:
    """Where stdout is closed, show says so at once and does not go on watching."""
    done = run("sh", "-c", 'exec "$@" >&-', "sh", *MODULE, *words.split())
    assert (done.returncode, done.stderr) == (1, "libnlplug: failed: standard output is closed\n")


def test_a_complaint_that_nobody_reads_keeps_the_status() -> None:
    """Where stderr is closed, full or a broken pipe, the status is the same and stdout stays clean."""
    for redirect in ("2>&-", "2>/dev/full", "2>&1 >/dev/null | exec true"):
        done = run("bash", "-c", f'"$@" {redirect}; exit "${{PIPESTATUS[0]}}"', "bash", *MODULE, "nosuch")
        assert (done.returncode, done.stdout) == (2, "")
