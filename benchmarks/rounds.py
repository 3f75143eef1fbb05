# SPDX-License-Identifier: GPL-2.0-or-later
"""Interleaved rounds and what comes of them: in each round every contestant is measured once, in changing order, and a
ratio is the median over the rounds of the ratios of what was measured side by side."""

from __future__ import annotations

import random
from statistics import median
from typing import Callable


class Measured:
    """Seconds (or another unit, where said) of each contestant, round by round."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def of(self, name: str) -> float:
        return median(self.values[name])

    def ratio(self, name: str, to: str) -> float:
        """The median of the rounds' ratios: what slows both contestants of a round down does not count."""
        return median(one / other for one, other in zip(self.values[name], self.values[to]))


def interleaved(contestants: dict[str, Callable[[], float]], rounds: int, *, warm: bool = True) -> Measured:
    """Each contestant once a round, in changing order; the first round only warms up, where there are several."""
    measured = Measured()
    order = random.Random(1)
    for number in range(-(warm and rounds > 1), rounds):
        names = list(contestants)
        order.shuffle(names)
        for name in names:
            value = contestants[name]()
            if number >= 0:
                measured.values.setdefault(name, []).append(value)
    return measured


def time_text(seconds: float) -> str:
    """A time with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


class Row(dict):  # type: ignore[type-arg]
    """A line of the table: point, what, ours, peer, theirs, ratio, sense, bound, fails. Made to be JSON. Where the peer
    fails to do what is measured, ``fails``, there is no bound that could be met."""

    def __init__(
        self,
        point: int,
        what: str,
        ours: str,
        peer: str,
        theirs: str,
        ratio: float,
        bound: float | None = None,
        sense: str = "at most",
        fails: bool = False,
    ) -> None:
        super().__init__(
            point=point,
            what=what,
            ours=ours,
            peer=peer,
            theirs=theirs,
            ratio=ratio,
            bound=None if fails else bound,
            sense=sense,
            fails=fails,
        )


def compared(
    measured: Measured,
    point: int,
    what: str,
    ours: str,
    peer: str,
    bound: float | None = None,
    *,
    faster: bool = False,
    fails: bool = False,
) -> Row:
    """Ours against a peer: the ratio of the times, at most ``bound``; or how often ours is faster, at least."""
    ratio = measured.ratio(peer, ours) if faster else measured.ratio(ours, peer)
    ours_text, theirs = time_text(measured.of(ours)), time_text(measured.of(peer))
    return Row(point, what, ours_text, peer, theirs, ratio, bound, "at least" if faster else "at most", fails)
