# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of 'make faults': the kernel tests that it runs are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SOURCE = "".join((TESTS / "faults" / name).read_text() for name in ("faults.py", "others.py"))
TESTED = re.findall(r'(?:tested\(\s*|name = )"(\w+)\.(\w+)"', SOURCE)


def test_some_are_kernel_tests() -> None:
    assert len(TESTED) > 10


@pytest.mark.parametrize(("file", "function"), TESTED)
def test_the_kernel_test_is_there(file: str, function: str) -> None:
    """A renamed test would be missed only when that fault is tried."""
    assert f"\ndef test_{function}(" in (TESTS / f"kernel/test_{file}.py").read_text()
