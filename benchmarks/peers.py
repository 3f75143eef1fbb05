# SPDX-License-Identifier: GPL-2.0-or-later
"""The contestants: programs that wait for commands on standard input, and programs that are started for each toggle.

All are timed from here, from the command to its answer, so what the pipe costs is the same for everybody.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REFERENCE = ROOT / "tests" / "parity" / "reference.c"


class Missing(Exception):
    """A contestant cannot take part; why."""


class Program:
    """A program that answers each line with a line, '0' for done."""

    def __init__(self, *argv: object) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> str:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self._process.args[0]} has ended: {self._process.wait()}")  # type: ignore[index]
        return line.strip()

    def ask(self, line: str) -> str:
        print(line, file=self._process.stdin, flush=True)
        return self.hear()

    def timed(self, line: str) -> float:
        """Seconds from the command to its answer, which must be that it was done."""
        begun = time.perf_counter()
        answer = self.ask(line)
        seconds = time.perf_counter() - begun
        if answer != "0":
            raise RuntimeError(f"{self._process.args}: {line}: {answer}")
        return seconds

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()


def worker(script: str, *argv: object, into: str = "") -> Program:
    """A Python program of this folder, perhaps in a network namespace."""
    enter = ("ip", "netns", "exec", into) if into else ()
    return Program(*enter, sys.executable, HERE / script, *argv)


def run(*argv: object, ok: tuple[int, ...] = (0,), environment: dict[str, str] | None = None) -> float:
    """Seconds that a process takes from its start to its end. Its output goes nowhere."""
    program = _found(argv[0])
    begun = time.perf_counter()
    _usage(program, argv, ok, environment)
    return time.perf_counter() - begun


def processor_time(*argv: object) -> float:
    """Seconds of processor time that a process takes: what else the host does in the meantime is not in them."""
    usage = _usage(_found(argv[0]), argv)
    return usage.ru_utime + usage.ru_stime


def _found(name: object) -> str:
    """A program's path: looking for it is no part of what it costs."""
    program = shutil.which(str(name))
    if program is None:
        raise Missing(f"{name} is not installed")
    return program


def _usage(
    program: str, argv: tuple[object, ...], ok: tuple[int, ...] = (0,), environment: dict[str, str] | None = None
) -> resource.struct_rusage:
    words = [str(word) for word in argv]
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    pid = os.posix_spawn(program, words, os.environ | (environment or {}), file_actions=nowhere)
    _pid, ended, usage = os.wait4(pid, 0)
    status = os.waitstatus_to_exitcode(ended)
    if status not in ok:
        raise RuntimeError(f"{' '.join(words)} ended with {status}")
    return usage


def compiled(source: Path, into: Path, *, libraries: str = "") -> Path:
    """The program of a C file, which is compiled once into each directory."""
    target = into / source.stem
    if target.exists():
        return target
    flags = []
    if libraries:
        asked = subprocess.run(["pkg-config", "--cflags", "--libs", *libraries.split()], capture_output=True, text=True)
        if asked.returncode:
            raise Missing(f"no headers of {libraries}: {asked.stderr.strip()}")
        flags = shlex.split(asked.stdout)
    subprocess.run([os.environ.get("CC", "cc"), "-O2", str(source), "-o", str(target), *flags], check=True)
    return target


def reference(into: Path) -> Path:
    """The C original: what haproxy's plug_qdisc.c does, libnl-cli and all."""
    return compiled(REFERENCE, into, libraries="libnl-cli-3.0 libnl-route-3.0")


def ip(*lines: str) -> None:
    """Run lines of ip(8), all in one process."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def tc(line: str) -> None:
    subprocess.run(["tc", *line.split()], check=True)


def nl_qdisc_module() -> Path | None:
    """nl-qdisc-add's module for plugs, where Debian's package has it, which is not where its program looks."""
    return next(iter(Path("/usr/lib").glob("*/libnl-3/cli/qdisc/plug.so")), None)
