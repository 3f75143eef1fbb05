# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the benchmark that runs on the test kernel: inside.py --output FILE [--short] [SECTION...]

The sections on_the_host and importing are measured only where they are named: they are for the host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import starting
import valgrind
from peers import Missing
from sections import SECTIONS, Bench


def main() -> int:
    sections = {section.__name__: section for section in (*SECTIONS, valgrind.checked)}
    every = [*sections]
    sections |= {section.__name__: section for section in starting.SECTIONS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir="/run" if os.access("/run", os.W_OK) else None) as directory:
        bench = Bench(Path(directory), short=options.short)
        for name in options.sections or every:
            begun = time.monotonic()
            try:
                rows += [row | {"section": name} for row in sections[name](bench)]
            except Missing as why:
                bench.without(why)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    where = f"Python {platform.python_version()}, Linux {platform.release()}"
    where += ", User-Mode Linux on one processor." if "User Mode" in Path("/proc/cpuinfo").read_text() else "."
    found = {"rows": rows, "figures": bench.figures, "notes": bench.notes, "rounds": bench.rounds, "where": where}
    options.output.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
