# SPDX-License-Identifier: GPL-2.0-or-later
"""Print lines on stderr, without failing, and format tables."""

from __future__ import annotations

import os
import sys

__all__ = ["columns", "discard", "err", "say"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import TextIO


def err(line: str) -> None:
    """Print a line on stderr. If nobody can read it, go on: that changes no exit status."""
    try:
        if sys.stderr is not None:  # print() would take stdout instead
            print(line.replace("\n", "\\n"), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def say(sentence: str) -> None:
    """Print the sentence on stderr, after the command's name."""
    err(f"libnlplug: {sentence}")


def discard(stream: TextIO | None) -> None:
    """Send the rest of the stream's buffer to /dev/null, so that it does not fail once more when Python ends."""
    if stream is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def columns(heads: list[str], rows: list[list[str]], numbers: Container[str] = ()) -> list[str]:
    """Return the lines of a table with aligned columns; those named in ``numbers`` are aligned to the right."""
    every = [heads, *rows]
    widths = [max(len(row[at]) for row in every) for at in range(len(heads))]
    return [
        "  ".join(
            cell.rjust(width) if head in numbers else cell.ljust(width) for head, cell, width in zip(heads, row, widths)
        ).rstrip()
        for row in every
    ]
