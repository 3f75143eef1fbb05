# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as scripts run it, in a namespace, with its status and what it printed."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import _cffi_backend

import libnlplug
from libnlplug.command import main
from tests.support.netlab import Netns
from tests.support.terminal import Terminal

SCRIPT = Path(sys.executable).with_name("libnlplug")  # where pip installs it
# Without the site module: what an editable install adds to Python's start takes longer than the command itself.
COMMAND = (sys.executable, "-S", str(SCRIPT))
PATHS = (os.path.dirname(os.path.dirname(libnlplug.__file__)), os.path.dirname(_cffi_backend.__file__))
# Python's own switches, as for unbuffered output, would make it another command than the one that people run.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(PATHS)
PATIENCE = 30
PROCESSES = {"hold", "buffer", "doctor"}  # they have handlers of signals, a guard, children


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str


class Cli:
    """The command, run inside a namespace."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns

    def __call__(self, *words: str, status: int = 0, **options) -> Printed:
        """Run it to its end, which must have this status; there is no traceback.

        Without options, a verb that ends with its work is run in the test's process: it does and says the same there,
        and starting Python takes ten times longer in User-Mode Linux. The commands of the pages, of jobs and on
        terminals are processes.
        """
        if options or PROCESSES.intersection(words):
            process = self.start(*words, **options)
            printed, ended = Printed(*process.communicate(timeout=PATIENCE)), process.returncode
        else:
            printed, ended = self._within(words)
        assert ended == status, (words, printed)
        assert "Traceback" not in printed.err
        return printed

    def _within(self, words: tuple[str, ...]) -> tuple[Printed, int]:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            status = self._netns.run(main, list(words))
        return Printed(out.getvalue(), err.getvalue()), status

    def complaint(self, *words: str, status: int = 1, **options) -> str:
        """The one line on stderr of a command that fails with this status, without the command's name before it."""
        out, err = self(*words, status=status, **options)
        assert out == ""
        assert err.startswith("libnlplug: ")
        assert err.count("\n") == 1
        return err[len("libnlplug: ") :].rstrip("\n")

    def complaint_of_usage(self, *words: str) -> str:
        """The one line on stderr of a command that was not understood."""
        out, err = self(*words, status=2)
        assert (out, err.count("\n")) == ("", 1)
        return err

    def start(self, *words: str, before: tuple[str, ...] = (), **options) -> subprocess.Popen[str]:
        """Start it, with pipes; by the program ``before``, where there is one."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = {"text": True, "env": ENVIRONMENT, **pipes, **options}
        return self._netns.run(subprocess.Popen, [*before, *COMMAND, *words], **options)

    def holding(
        self, device: str, *options: str, timeout: str | None = "60", script: str = "", **popen
    ) -> subprocess.Popen[str]:
        """Start ``hold`` with a command that ends when a line is typed; it is running when this returns.

        The command's own timeout (``timeout=None``) is shorter than a slow machine takes for a few other commands.
        """
        if timeout and "--timeout" not in options:
            options = ("--timeout", timeout, *options)
        script = f"echo running; read line; {script}"
        words = ("hold", device, *options, "--", "sh", "-c", script)
        process = self.start(*words, stdin=subprocess.PIPE, **popen)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "running\n", process.communicate(timeout=PATIENCE)
        return process

    def terminal(self, *words: str, **options) -> Terminal:
        """Start it on a terminal of its own."""
        return Terminal(*COMMAND, *words, start=self._on_terminal, **options)

    def shell(self) -> Terminal:
        """Start a shell, which has jobs, on a terminal of its own; its prompt is '$ '."""
        return Terminal("bash", "--norc", "--noprofile", "--noediting", "-i", start=self._on_terminal)

    def line(self, *words: str) -> str:
        """The command as it is typed into shell()."""
        return shlex.join([*COMMAND, *words])

    def _on_terminal(self, argv: tuple[str, ...], **popen) -> subprocess.Popen[bytes]:
        return self._netns.run(subprocess.Popen, argv, env={**ENVIRONMENT, "PS1": "$ "}, **popen)


def let_end(process: subprocess.Popen[str], status: int = 0) -> Printed:
    """Type the line that a command of Cli.holding() waits for, and wait for the status."""
    printed = Printed(*process.communicate("go\n", timeout=PATIENCE))
    assert process.returncode == status, printed
    return printed
