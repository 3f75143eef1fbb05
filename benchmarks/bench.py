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
from collections.abc import Iterable
from pathlib import Path

import report
import starting

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
    if options.again:
        found = json.loads(options.again.read_text())
    else:
        found = measure(options)
        if options.sections and options.keep and options.keep.exists():
            found = put_in(json.loads(options.keep.read_text()), found)
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
    """The rows, figures and notes of the wanted sections: on the test kernel, and on the host."""
    for_host = {section.__name__ for section in starting.SECTIONS}
    here = [name for name in options.sections if name in for_host] or for_host
    there = [name for name in options.sections if name not in for_host]
    guest = [HERE.parent / "tools/testkernel/run", "--pin", options.pin, "--mem", "3G", "--timeout", "3000", "--"]
    found: dict = {"rows": [], "figures": {}, "notes": [], "rounds": 0, "where": ""}
    if there or not options.sections:
        found = inside(guest, options, there)
    if len(there) < len(options.sections) or not options.sections:
        try:
            more = inside(PRIVATE, options, here)
            found = put_in(found, more | {"where": f"{found['where']} The host: Linux {platform.release()}."})
        except subprocess.CalledProcessError:
            found["notes"].append("Not measured: what is measured on the host, which allows no namespaces here.")
    return found


def inside(start: list, options: argparse.Namespace, sections: Iterable[str]) -> dict:
    """What inside.py finds, started in this way."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "inside.json"
        words = [sys.executable, HERE / "inside.py", "--output", output, *sections]
        subprocess.run([*start, *words, *(["--short"] if options.short else [])], check=True)
        return json.loads(output.read_text())


def put_in(found: dict, more: dict) -> dict:
    """What was found, with the sections of ``more`` in the place of those that it has."""
    again = {row["section"] for row in more["rows"]}
    return {
        "rows": [row for row in found["rows"] if row["section"] not in again] + more["rows"],
        "figures": found["figures"] | more["figures"],
        "notes": [*dict.fromkeys(found["notes"] + more["notes"])],
        "rounds": max(found["rounds"], more["rounds"]),
        "where": max(found["where"], more["where"], key=len),
    }


if __name__ == "__main__":
    sys.exit(main())
