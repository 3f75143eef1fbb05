# SPDX-License-Identifier: GPL-2.0-or-later
"""valgrind over the port and the toggles. Its pidfd_open fails, so a hold is refused: the guard is not in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from peers import HERE, Missing
from rounds import Row
from sections import Bench

OURS = ("_libnl.abi3.so", "libnl-3.so", "libnl-route-3.so", "_cffi_backend")


def checked(bench: Bench) -> Iterator[Row]:
    """Errors, and leaks that grow with the work, in whose stack is libnl, the compiled module or cffi.

    The work is done once and many times, and what both show is not counted: cffi makes its types and functions when
    they are first used, for good. What valgrind says of the interpreter besides is Python's.
    """
    program = shutil.which("valgrind")
    if program is None:
        raise Missing("valgrind, which is not installed")
    with tempfile.TemporaryDirectory() as directory:
        _words, once = _errors(program, Path(directory), 1)
        words, many = _errors(program, Path(directory), bench.size(40, 3))
    known = {_stack(error): _blocks(error) for error in once}
    ours = [error for error in many if _is_ours(error) and _blocks(error) > known.get(_stack(error), 0)]
    what = f"valgrind: errors and leaks that are ours, in {words}"
    yield Row(7, what, str(len(ours)), "Python's own", str(len(many) - len(ours)), len(ours), 0)
    for error in ours[:5]:
        bench.notes.append(f"valgrind: {error.findtext('kind')}: {' < '.join(_stack(error)[1:9])}")


def _errors(program: str, directory: Path, times: int) -> tuple[str, list[ET.Element]]:
    """What the work says of itself, and what valgrind says of it."""
    output = directory / f"{times}.xml"
    argv = [program, "--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible", "--num-callers=40"]
    argv += ["--xml=yes", f"--xml-file={output}", sys.executable, str(HERE / "valgrind_work.py"), str(times)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"PYTHONMALLOC": "malloc"})
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip(), list(ET.parse(output).getroot().iter("error"))


def _is_ours(error: ET.Element) -> bool:
    return any((frame.findtext("obj") or "").split("/")[-1].startswith(OURS) for frame in error.iter("frame"))


def _stack(error: ET.Element) -> tuple[str, ...]:
    return error.findtext("kind") or "", *(frame.findtext("fn") or "?" for frame in error.iter("frame"))


def _blocks(error: ET.Element) -> int:
    """How many blocks leak here; an error that is no leak counts as one."""
    return int(error.findtext("xwhat/leakedblocks") or 1)
