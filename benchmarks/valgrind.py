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

OURS = ("_libnl.abi3.so", "libnl-3.so", "libnl-route-3.so")


def checked(bench) -> Iterator[Row]:
    """Every error, and every leak in whose stack is libnl or the compiled module; Python's own leaks are Python's."""
    program = shutil.which("valgrind")
    if program is None:
        raise Missing("valgrind, which is not installed")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "valgrind.xml"
        argv = [program, "--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible", "--xml=yes"]
        argv += [f"--xml-file={output}", "--num-callers=40", sys.executable, str(HERE / "valgrind_work.py")]
        work = [*argv, "200" if bench.short else "2000"]
        done = subprocess.run(work, capture_output=True, text=True, env=os.environ | {"PYTHONMALLOC": "malloc"})
        if done.returncode:
            raise RuntimeError(done.stderr)
        errors = list(ET.parse(output).getroot().iter("error"))
    ours = [error for error in errors if _is_ours(error)]
    what = f"valgrind: errors and leaks that are ours ({done.stdout.strip()})"
    elsewhere = f"{len(errors) - len(ours)} elsewhere"
    yield Row(7, what, str(len(ours)), "in Python itself", elsewhere, len(ours), 0)
    for error in ours[:5]:
        bench.notes.append("valgrind: " + " < ".join(frame.findtext("fn") or "?" for frame in error.iter("frame")))


def _is_ours(error: ET.Element) -> bool:
    kind = error.findtext("kind") or ""
    return any((frame.findtext("obj") or "").split("/")[-1].startswith(OURS) for frame in error.iter("frame")) or (
        not kind.startswith("Leak_")
    )
