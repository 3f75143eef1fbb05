# SPDX-License-Identifier: GPL-2.0-or-later
"""valgrind over the port and the toggles. No hold is in it: valgrind would look for leaks for minutes in the process
that starts the guard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import _cffi_backend
from peers import HERE, ROOT, Missing, ip
from rounds import Row
from sections import Bench

OURS = ("_libnl.abi3.so", "libnl-3.so", "libnl-route-3.so", "_cffi_backend")
DEVICES = ("v0", "v1")


def checked(bench: Bench) -> Iterator[Row]:
    """Errors, and leaks of a block or more each time, in whose stack is libnl, the compiled module or cffi.

    What is made once, when it is first used, and never freed, is not counted: cffi's types and functions, a module's
    constants. What valgrind says of the interpreter besides is Python's.
    """
    program = shutil.which("valgrind")
    if program is None:
        raise Missing("valgrind, which is not installed")
    times = bench.size(200, 80)  # up to 59 blocks are made once, in one place, and never freed
    ip(*(f"link add {device} type dummy" for device in DEVICES))
    try:
        words, errors = _errors(program, bench.directory / "valgrind.xml", times)
    finally:
        ip(*(f"link del {device}" for device in DEVICES))
    ours = [error for error in errors if _is_ours(error) and _blocks(error, times) >= times]
    what = f"valgrind: errors and leaks that are ours, in {words}"
    yield Row(7, what, str(len(ours)), "Python's own", str(len(errors) - len(ours)), len(ours), 0)
    for error in ours[:5]:
        bench.notes.append(f"valgrind: {error.findtext('kind')}: {' < '.join(_stack(error)[:8])}")


def _errors(program: str, output: Path, times: int) -> tuple[str, list[ET.Element]]:
    """What the work says of itself, and what valgrind says of it."""
    argv = [program, "--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible", "--num-callers=40"]
    argv += ["--xml=yes", f"--xml-file={output}", sys.executable, "-S", str(HERE / "valgrind_work.py"), str(times)]
    where = f"{ROOT}:{Path(_cffi_backend.__file__).parent}"  # for site, which finds them, takes longer than the work
    settings = os.environ | {"PYTHONMALLOC": "malloc", "PYTHONPATH": where}
    done = subprocess.run(argv, capture_output=True, text=True, env=settings)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip(), list(ET.parse(output).getroot().iter("error"))


def _is_ours(error: ET.Element) -> bool:
    return any((frame.findtext("obj") or "").split("/")[-1].startswith(OURS) for frame in error.iter("frame"))


def _stack(error: ET.Element) -> list[str]:
    return [frame.findtext("fn") or "?" for frame in error.iter("frame")]


def _blocks(error: ET.Element, otherwise: int) -> int:
    """How many blocks leak here; what an error that is no leak counts as."""
    return int(error.findtext("xwhat/leakedblocks") or otherwise)
