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
    """Errors, and leaks, in whose stack is libnl, the compiled module or cffi, beyond what importing them alone shows
    (cffi makes its types then, for good). What else valgrind says of the interpreter is Python's."""
    program = shutil.which("valgrind")
    if program is None:
        raise Missing("valgrind, which is not installed")
    with tempfile.TemporaryDirectory() as directory:
        _words, nothing = _errors(program, Path(directory), 0)
        words, errors = _errors(program, Path(directory), bench.size(2000, 100))
    known = {_stack(error) for error in nothing}
    ours = [error for error in errors if _is_ours(error) and _stack(error) not in known]
    what = f"valgrind: errors and leaks that are ours, in {words}"
    yield Row(7, what, str(len(ours)), "Python's own", str(len(errors) - len(ours)), len(ours), 0)
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
