#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What libnlplug costs beside its peers: 'make bench'. Ends with 1 where a bound is missed.

Most of it runs on the test kernel, which is kept on one processor; the import is measured on the host. The table and
the picture go into README.md of this folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import report
import starting
from sections import Bench

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute, to see that it works: nothing is judged")
    parser.add_argument("--pin", default="1", metavar="CPU", help="the test kernel's processor (1)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep the figures, as JSON")
    parser.add_argument("--again", type=Path, metavar="FILE", help="make table and picture of kept figures")
    parser.add_argument("sections", nargs="*", metavar="SECTION")
    options = parser.parse_args()
    found = json.loads(options.again.read_text()) if options.again else measure(options)
    if options.keep:
        options.keep.write_text(json.dumps(found, indent=1))
    if options.short:
        for row in found["rows"]:
            row["bound"] = None
    print(report.table(found["rows"]))
    if not options.sections and not options.short:
        report.put_into(HERE / "README.md", report.text(found, report.plot(found["figures"], HERE)))
    missed = [row["what"] for row in found["rows"] if report.is_met(row) is False]
    for what in missed:
        print(f"missed: {what}", file=sys.stderr)
    return 1 if missed else 0


def measure(options: argparse.Namespace) -> dict:
    """The rows, figures and notes of both parts."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "inside.json"
        guest = [HERE.parent / "tools/testkernel/run", "--pin", options.pin, "--mem", "3G", "--timeout", "3000", "--"]
        words = [sys.executable, HERE / "inside.py", "--output", output, *options.sections]
        subprocess.run([*guest, *words, *(["--short"] if options.short else [])], check=True)
        found = json.loads(output.read_text())
        if not options.sections:
            bench = Bench(Path(directory), short=options.short)
            found["rows"] += starting.importing(bench)
            found["figures"] |= bench.figures
    found["where"] = f"{found['where']} The host: Linux {platform.release()}."
    return found


if __name__ == "__main__":
    sys.exit(main())
