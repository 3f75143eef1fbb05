#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What libnlplug costs beside its peers: 'make bench'. Ends with 1 where a bound is missed.

Most of it runs on the test kernel, which is kept on one processor. The import is measured on the host, and a toggle
there once more. The table and the picture go into README.md of this folder.
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
PRIVATE = ["unshare", "--map-root-user", "--net"]


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
    """The rows, figures and notes of the parts: on the test kernel, on the host's, and of the import."""
    with tempfile.TemporaryDirectory() as directory:
        guest = [HERE.parent / "tools/testkernel/run", "--pin", options.pin, "--mem", "3G", "--timeout", "3000", "--"]
        found = inside(guest, Path(directory), options, options.sections)
        if not options.sections:
            try:
                more = inside(PRIVATE, Path(directory), options, [starting.on_the_host.__name__])
                found["notes"] += more["notes"]
                add(found, more)
            except subprocess.CalledProcessError:
                found["notes"].append("Not measured: a toggle on the host's kernel, which allows no namespaces here.")
            bench = Bench(Path(directory), short=options.short)
            add(found, {"rows": [*starting.importing(bench)], "figures": bench.figures})
    found["where"] = f"{found['where']} The host: Linux {platform.release()}."
    return found


def inside(start: list, directory: Path, options: argparse.Namespace, sections: list[str]) -> dict:
    """What inside.py finds, started in this way."""
    output = directory / "inside.json"
    words = [sys.executable, HERE / "inside.py", "--output", output, *sections]
    subprocess.run([*start, *words, *(["--short"] if options.short else [])], check=True)
    return json.loads(output.read_text())


def add(found: dict, more: dict) -> None:
    """Add rows and figures."""
    found["rows"] += more["rows"]
    found["figures"] |= more["figures"]


if __name__ == "__main__":
    sys.exit(main())
