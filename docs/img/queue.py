# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of the queue at each step: python docs/img/queue.py > docs/img/queue.svg

STEPS says what is done and how many packets are sent then; states() works out, as sch_plug does, what waits and what
leaves. A test plays the steps on a real kernel and finds the same packets.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

STEPS = (
    ("attach", 2, "a new plug, released: packets pass"),
    ("buffer", 3, "they wait, in their order"),
    ("buffer", 2, "a new epoch begins behind the old one"),
    ("release_one", 1, "the epoch before the latest buffer goes"),
    ("release_indefinite", 1, "everything goes, and packets pass again"),
)

WIDTH, ROW, TOP = 760, 74, 44
PLUG, PLUG_WIDTH, WIRE = 330, 250, 620
STEP = 30  # between two packets
COLOURS = ("#c2571a", "#2a6f97")  # of the first epoch, and of the second


def states() -> Iterator[tuple[str, str, list[list[int]], list[int]]]:
    """For each step: the action, what it means, the epochs that wait, and the packets that leave."""
    epochs: list[list[int]] = []
    number = 0
    for action, count, meaning in STEPS:
        gone: list[int] = []
        if action == "buffer":
            epochs.append([])
        elif action == "release_one":
            gone += epochs.pop(0)
        elif action == "release_indefinite":
            gone += [one for epoch in epochs for one in epoch]
            epochs.clear()
        sent = list(range(number + 1, number + count + 1))
        number += count
        (epochs[-1] if epochs else gone).extend(sent)
        yield action, meaning, [list(epoch) for epoch in epochs], gone


def packet(x: float, y: float, number: int, colour: str) -> str:
    return (
        f'<rect x="{x - 11}" y="{y - 11}" width="22" height="22" rx="4" fill="{colour}"/>'
        f'<text x="{x}" y="{y + 4}" fill="#fff" text-anchor="middle">{number}</text>'
    )


def picture() -> str:
    height = TOP + ROW * len(STEPS)
    colour_of: dict[int, str] = {}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        "<title>The queue of a plug at each step</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{PLUG + PLUG_WIDTH / 2}" y="24" text-anchor="middle" fill="#555">in the plug</text>',
        f'<text x="{WIRE + 60}" y="24" text-anchor="middle" fill="#555">leaves</text>',
    ]
    for row, (action, meaning, epochs, gone) in enumerate(states()):
        y = TOP + ROW * row + ROW / 2 - 8
        held = [(number, at) for at, epoch in enumerate(epochs) for number in epoch]
        for epoch, colour in zip(epochs, COLOURS):
            for number in epoch:
                colour_of.setdefault(number, colour_of.get(epoch[0], colour))
        lines += [
            f'<text x="16" y="{y - 2}" font-size="14" font-family="monospace" font-weight="bold">{action}</text>',
            f'<text x="16" y="{y + 16}" fill="#555">{meaning}</text>',
            f'<rect x="{PLUG}" y="{y - 20}" width="{PLUG_WIDTH}" height="40" fill="#f3f3f3" stroke="#999"/>',
        ]
        x = PLUG + PLUG_WIDTH - 20
        before = None
        for number, at in held:  # the first is at the head of the queue, on the right
            if before not in (None, at):
                lines.append(f'<path d="M{x + 7} {y - 20}v40" stroke="#333" stroke-dasharray="4 3"/>')
                x -= 16
            lines.append(packet(x, y, number, colour_of[number]))
            x, before = x - STEP, at
        if epochs:  # the gate is shut
            lines.append(f'<path d="M{PLUG + PLUG_WIDTH} {y - 24}v48" stroke="#b00" stroke-width="5"/>')
        for at, number in enumerate(reversed(gone)):
            lines.append(packet(WIRE + at * STEP, y, number, colour_of.get(number, "#777")))
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    sys.stdout.write(picture())
