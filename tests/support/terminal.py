# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal for a process under test: what it prints, what its screen shows, and keys to press."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

CTRL_C = "\x03"
CTRL_Z = "\x1a"


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A process that has a terminal of its own, as its input, its output, and what Ctrl-C comes from."""

    def __init__(self, *argv: str, columns: int = 80, rows: int = 24, start=subprocess.Popen, **options) -> None:
        self.columns, self.rows = columns, rows
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        options = {"start_new_session": True, "preexec_fn": _take_terminal, **options}
        self.process = start(argv, stdin=theirs, stdout=theirs, stderr=theirs, **options)
        os.close(theirs)
        self.text = ""

    def _read(self, patience: float) -> bool:
        """Take what was printed; False once nobody has the terminal any more."""
        assert select.select([self._fd], [], [], patience)[0], f"nothing more is printed:\n{self.text}"
        try:
            part = os.read(self._fd, 4096)
        except OSError:  # EIO
            part = b""
        self.text += part.decode(errors="replace")
        return bool(part)

    def until(self, condition, within: float = 20.0) -> None:
        """Read on until the condition is true of this object."""
        deadline = time.monotonic() + within
        while not condition(self):
            assert self._read(max(0.0, deadline - time.monotonic())), f"it has ended:\n{self.text}"

    def expect(self, words: str, times: int = 1) -> None:
        """Read on until the words were printed so many times."""
        self.until(lambda terminal: terminal.text.count(words) >= times)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._fd, keys.encode())

    def status(self) -> int:
        """The exit status, once the process has ended and all that it printed was read."""
        while self._read(20.0):
            pass
        os.close(self._fd)
        return self.process.wait(20)

    def hang_up(self) -> None:
        """Close the other end, as when a connection is lost."""
        os.close(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        self.columns, self.rows = columns, rows
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def screen(self) -> list[str]:
        """The lines that the screen shows, for a program that prints text, goes home and erases (ESC [ H, K, J), and
        uses the alternate screen (ESC [ ?1049 h and l)."""
        lines, row, column, kept = [""], 0, 0, [""]
        for escape, character in re.findall(r"\x1b\[(\??\d*[A-Za-z])|(.)", self.text, re.DOTALL):
            if escape == "?1049h":
                lines, row, column, kept = [""], 0, 0, lines
            elif escape == "?1049l":
                lines, row, column = kept, len(kept) - 1, 0
            elif escape == "H":
                row, column = 0, 0
            elif escape == "J":
                lines[row:] = [lines[row][:column]]
            elif escape == "K":
                lines[row] = lines[row][:column]
            elif escape:
                raise NotImplementedError(escape)
            elif character == "\r":
                column = 0
            else:
                if character == "\n" or column == self.columns:
                    row, column = row + 1, column if character == "\n" else 0
                    lines += [""] * (row + 1 - len(lines))
                if character != "\n":
                    lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
                    column += 1
        return [line.rstrip() for line in lines if line.strip()]
