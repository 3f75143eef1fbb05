# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture: how much each way lost. Every run is a point, the line ends at the median."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from PIL import Image
from repeat import Line
from table import KERNELS, SCENARIOS, ways

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#2060a0", "#d07020")
CELL = 0.21  # inches for a way


def draw(file: Path) -> None:
    """Draw the rows in which a run lost 1 % or more, and all the ways of those."""
    rows: dict[tuple[str, str], list[tuple[str, list[list[Line]]]]] = {}
    for scenario in SCENARIOS:
        for row, what, way, runs in ways(scenario):
            rows.setdefault((row, what), []).append((way, runs))
    shown = {
        key: found
        for key, found in rows.items()
        if any(max(losses(run), default=0) >= 1 for _, runs in found for run in runs)
    }
    if not shown:
        return
    heights = [len(found) + 1.6 for found in shown.values()]
    shape = {"figsize": (11, CELL * sum(heights)), "sharex": True, "squeeze": False}
    figure, axes = pyplot.subplots(len(shown), 1, gridspec_kw={"height_ratios": heights}, **shape)
    for panel, ((row, what), found) in zip(axes[:, 0], shown.items()):
        fill(panel, f"{row}  {what}", found)
    axes[-1][0].set_xlabel(
        "lost, % of those counted in a run; a point is a run, a line ends at the median (logarithmic above 1 %)",
        fontsize=8,
    )
    handles = [pyplot.Line2D([], [], color=colour, marker="o", markersize=3) for colour in COLOURS]
    figure.legend(handles, KERNELS.values(), loc="upper right", fontsize=8, ncols=2, frameon=False)
    figure.tight_layout(h_pad=0.3)
    figure.savefig(file, dpi=80)
    Image.open(file).quantize(32).save(file, optimize=True)  # few colours: a third of the size


def losses(runs: list[Line]) -> list[float]:
    """The share lost in each run, in per cent; nothing where none was lost. One that only moved is not lost."""
    shares = [100 * sum(count for how, count in run.lost.items() if how != "moved") / run.counted for run in runs]
    return shares if any(shares) else []


def fill(panel: Axes, title: str, found: list[tuple[str, list[list[Line]]]]) -> None:
    for at, (_, kernels) in enumerate(found):
        for number, (runs, colour) in enumerate(zip(kernels, COLOURS)):
            if runs:
                shares = losses(runs) or [0.0] * len(runs)
                height = at + 0.3 * number - 0.15
                panel.plot([0, median(shares)], [height] * 2, color=colour, linewidth=3, alpha=0.5)
                panel.plot(shares, [height] * len(shares), "o", color=colour, markersize=3, clip_on=False)
    panel.set_xscale("symlog", linthresh=1, linscale=0.5)
    panel.set(xlim=(0, 100), ylim=(len(found) - 0.4, -0.6), yticks=range(len(found)))
    panel.set_xticks([0, 1, 3, 10, 30, 100], ["0", "1", "3", "10", "30", "100"], fontsize=7)
    panel.set_yticklabels([way.replace("`", "") for way, _ in found], fontsize=7)
    panel.set_title(title.replace("`", ""), fontsize=8, loc="left", pad=2)
    panel.grid(axis="x", color="#dddddd", linewidth=0.5)
