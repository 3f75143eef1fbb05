# SPDX-License-Identifier: GPL-2.0-or-later
"""watch: show the plugs twice a second: on a terminal as one screen that is drawn again, elsewhere as plain lines.

    15:04:05  sizes are bytes, 1Kb is 1024 bytes; Ctrl-C ends
    DEVICE  PARENT  QLEN  BACKLOG  LIMIT  FULL          PACKETS/S  DROPS  HOLDER
    veth0   root      24   23.4Kb   48Kb  [#####.....]         10      0  pid 4711, 2.4 of 10 s

LIMIT and the bar are shown only if the holder has set the limit, because the kernel does not tell it. A terminal shows
the table on its alternate screen, as for top(1): the earlier text comes back at the end, and while Ctrl-Z stops it.
"""

from __future__ import annotations

import os
import sys
import time

from .output import columns
from .plugs import NO_PLUG, holder_name
from .units import format_size

__all__ = ["Rates", "lines", "watch"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Plugs = list[dict[str, Any]]

INTERVAL = 0.5
BAR = 10
NOTE = "sizes are bytes, 1Kb is 1024 bytes; Ctrl-C ends"
_ENTER, _LEAVE, _HOME, _ERASE_LINE, _ERASE_BELOW = "\033[?1049h", "\033[?1049l", "\033[H", "\033[K", "\033[J"
_NUMBERS = ("QLEN", "BACKLOG", "LIMIT", "PACKETS/S", "DROPS")
_HEADS = ["DEVICE", "PARENT", "QLEN", "BACKLOG", "LIMIT", "FULL", "PACKETS/S", "DROPS", "HOLDER"]


def watch(look: Callable[[], Plugs], as_json: bool) -> None:
    """Show what ``look`` finds twice a second until interrupted."""
    if as_json:
        _each_look(look, _json)
    elif sys.stdout.isatty():
        _on_a_screen(look)
    else:
        _each_look(look, _PlainLines().text)


def _each_look(look: Callable[[], Plugs], text: Callable[[Plugs], str]) -> None:
    try:
        while True:
            sys.stdout.write(text(look()))  # in one write
            sys.stdout.flush()
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        pass


def _json(found: Plugs) -> str:
    import json

    return json.dumps({"time": time.time(), "plugs": found}) + "\n"


def _on_a_screen(look: Callable[[], Plugs]) -> None:
    """Show the plugs on the terminal's alternate screen. It is left however watching ends."""
    import signal

    def end(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    rates = Rates()

    def stop(signum: int, _frame: object) -> None:  # Ctrl-Z
        screen = sys.stdout.fileno()  # sys.stdout itself may be in the middle of a write
        os.write(screen, _LEAVE.encode())
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)  # stops here, until SIGCONT
        signal.signal(signum, stop)
        os.write(screen, _ENTER.encode())

    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGHUP)}
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, stop)
    sys.stdout.write(_ENTER)
    try:
        _each_look(look, lambda found: _screen(found, rates))
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        for one, what in before.items():
            signal.signal(one, what)


def _screen(found: Plugs, rates: Rates) -> str:
    """Return the text that draws one screen. No line is wider than the screen, and the screen never scrolls."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns, rows = 0, 0
    columns, rows = columns or 80, rows or 24
    shown = [f"{time.strftime('%H:%M:%S')}  {NOTE}", *lines(found, rates)]
    if len(shown) > rows:
        hidden = len(shown) - rows + 1
        shown[rows - 1 :] = [f"... {hidden} more lines"]
    drawn = [line if len(line) <= columns else line[: columns - 1] + ">" for line in shown]
    return _HOME + "\n".join(line + _ERASE_LINE for line in drawn) + _ERASE_BELOW


def lines(found: Plugs, rates: Rates) -> list[str]:
    """Return the table, one line for each plug."""
    return columns(_HEADS, [_cells(plug, rates) for plug in found], _NUMBERS) if found else [NO_PLUG]


def _cells(plug: dict[str, Any], rates: Rates) -> list[str]:
    holder = plug["holder"]
    limit = holder["limit"] if holder else None
    return [
        plug["device"],
        plug["parent"],
        str(plug["qlen"]),
        format_size(plug["backlog"]),
        format_size(limit) if limit else "-",
        (_bar(plug["backlog"], limit) if limit else "-").ljust(BAR + 2),  # so that nothing moves when a bar comes
        f"{rates.of(plug):.0f}",
        str(plug["drops"]),
        _holder(holder),
    ]


def _bar(backlog: int, limit: int) -> str:
    filled = min(BAR, -(-backlog * BAR // limit))
    return f"[{'#' * filled}{'.' * (BAR - filled)}]"


def _holder(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "-"
    if holder["foreign"]:
        return holder_name(holder)
    of = f" of {holder['timeout']:g} s" if holder["timeout"] else " s, no timeout"
    return f"{holder_name(holder)}, {max(0.0, time.time() - holder['since']):.1f}{of}"


class Rates:
    """How many packets a second leave each plug, from one look to the next."""

    def __init__(self) -> None:
        self._before: dict[object, tuple[float, int]] = {}

    def of(self, plug: dict[str, Any]) -> float:
        """Return the rate since the last look. It is 0 at the first look, and if the plug was made again meanwhile."""
        key, now, packets = (plug["ifindex"], plug["parent"], plug["handle"]), time.monotonic(), plug["packets"]
        then, before = self._before.get(key, (now, packets))
        self._before[key] = now, packets
        return (packets - before) / (now - then) if now > then and packets > before else 0.0


class _PlainLines:
    """Text for a pipe or a file: the heads once, then at each look one line for each plug, with the time. The columns
    stay in place."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._heads = ["TIME", *(one for one in _HEADS if one != "FULL")]
        self._widths = [8, 15, 9, 6, 9, 9, 9, 6]
        self._begun = False

    def text(self, found: Plugs) -> str:
        """Return the lines of one look."""
        now = time.strftime("%H:%M:%S")
        rows = [] if self._begun else [self._heads]
        self._begun = True
        at = _HEADS.index("FULL")
        for plug in found:
            cells = _cells(plug, self._rates)
            rows.append([now, *cells[:at], *cells[at + 1 :]])
        return "".join(f"{self._line(row)}\n" for row in rows)

    def _line(self, row: list[str]) -> str:
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row)]
        cells = [
            cell.rjust(width) if head in _NUMBERS else cell.ljust(width)
            for head, width, cell in zip(self._heads, self._widths, row)
        ]
        return "  ".join([*cells, row[-1]])
