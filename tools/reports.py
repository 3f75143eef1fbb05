# SPDX-License-Identifier: GPL-2.0-or-later
"""What pytest's JUnit reports say: for tools/tested and tools/summary."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple


class Broken(Exception):
    """A report that is not there, or is none."""


class Case(NamedTuple):
    """A test that was run, or skipped."""

    file: str  # without its ending, with dots: tests.kernel.test_epochs
    name: str
    end: str  # passed, failed or skipped
    reason: str
    seconds: float


def read(report: Path) -> list[Case]:
    """The tests of a report."""
    try:
        root = ElementTree.parse(report)
    except FileNotFoundError:
        raise Broken(f"{report} was not written: pytest did not come to its end") from None
    except ElementTree.ParseError as error:
        raise Broken(f"{report} is no report: {error}") from None
    return [case_of(element) for element in root.iter("testcase")]


def case_of(element: ElementTree.Element) -> Case:
    ends = {child.tag: child.get("message") or "" for child in element}
    file, name, seconds = element.get("classname", ""), element.get("name", ""), float(element.get("time", 0))
    for tag, end in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if tag in ends:
            return Case(file, name, end, ends[tag], seconds)
    return Case(file, name, "passed", "", seconds)
