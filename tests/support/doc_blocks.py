# SPDX-License-Identifier: GPL-2.0-or-later
"""The blocks of README.md and docs/: which there are, in what language, and what the comment before each says of it.

A block of ``sh`` or ``python`` is run by tests/kernel/test_docs_commands.py. A comment on the line before it may say:

    <!-- file: NAME -->                  it is not run but written to this file, for the blocks after it
    <!-- stand-in: NAME NAME -->         these programs, or functions in Python, are not the real ones in the test
    <!-- stand-in if absent: NAME -->    the same, on a machine that does not have the program
    <!-- first: COMMAND -->              this is run first, and brings about what the block is for
    <!-- not run: REASON -->             it is not run

A block of ``text`` is what something prints, or a file. A block without a language is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("sh", "python")
SHOWN = ("text",)
MARKS = ("file", "stand-in", "stand-in if absent", "first", "not run")


class Block(NamedTuple):
    """One fenced block. ``mark`` and ``words`` are those of the comment before it, both "" without one."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    words: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The page's blocks, in their order; directives of the docs' builder are none."""
    found = []
    lines = page.read_text().split("\n")
    begin = None
    for at, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if begin is None:
            begin = at
            continue
        language = lines[begin][3:].strip()
        if not language.startswith("{"):
            comment = re.fullmatch(r"<!-- ([a-z -]+): (.+) -->", lines[begin - 1]) if begin else None
            mark, words = comment.groups() if comment else ("", "")
            text = "\n".join([*lines[begin + 1 : at], ""])
            found.append(Block(page, begin + 1, language, text, mark, words))
        begin = None
    assert begin is None, f"{page}:{begin}: a block does not end"
    return found
