# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture: every connection of a run as a point, when it was due and its latency; reloads and failures marked."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from PIL import Image
from report import COMPARED, HEADINGS, Result, Run
from ways import WAYS

matplotlib.use("Agg")
from matplotlib import pyplot

SECONDS = 8.0
LOWEST, HIGHEST = 0.0005, 12.0
SHOWN = ["haproxy", "nginx", "slow-at-once"]


def draw(results: list[Result], file: Path) -> None:
    quiet = [one for one in results if one.row.load == "quiet" and one.row.way in COMPARED]
    columns = [[one for one in quiet if one.row.server == server] for server in SHOWN]
    rows = max(map(len, columns))
    shape = {"figsize": (12, 1.25 * rows), "sharex": True, "sharey": True, "squeeze": False}
    figure, axes = pyplot.subplots(rows, len(columns), **shape)
    for number, (server, column) in enumerate(zip(SHOWN, columns)):
        above = {"xy": (0, 1.4), "xycoords": "axes fraction", "fontsize": 9, "fontweight": "bold"}
        axes[0][number].annotate(HEADINGS[server].replace("`", "").replace(", which", ",\nwhich"), **above)
        for panel, result in zip(axes[:, number], column):
            fill(panel, result)
        for panel in axes[len(column) :, number]:
            panel.set_visible(False)
        axes[len(column) - 1][number].set_xlabel("seconds")
        axes[len(column) - 1][number].tick_params(labelbottom=True)
    figure.supylabel("latency of each connection; grey: the reload command runs; red: lost", fontsize=9)
    figure.tight_layout(h_pad=0.4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    Image.open(file).quantize(32).save(file, optimize=True)  # few colours: a third of the size


def fill(panel: Axes, result: Result) -> None:
    run = typical(result)
    zero = min(one.due for one in run.connections)
    for reload in run.reloads:
        panel.axvspan(reload.begun - zero, reload.ended - zero, color="#dddddd", linewidth=0)
    answered = [one for one in run.connections if one.ended == "ok"]
    lost = [one for one in run.connections if one.ended != "ok"]
    latencies = [one.latency for one in answered]
    panel.plot([one.due - zero for one in answered], latencies, ".", markersize=2, color="#2060a0")
    panel.plot([one.due - zero for one in lost], [HIGHEST / 2.5] * len(lost), "x", markersize=4, color="#d02020")
    panel.set(xlim=(0, SECONDS), yscale="log", ylim=(LOWEST, HIGHEST), yticks=[0.001, 0.01, 0.1, 1, 10])
    panel.set_yticklabels(["1 ms", "10 ms", "100 ms", "1 s", "10 s"], fontsize=7)
    panel.tick_params(axis="x", labelsize=7)
    panel.minorticks_off()
    words = f"{sum(result.failures.values())} of {result.connections} lost"
    panel.set_title(WAYS[result.row.way].title.replace("`", ""), fontsize=8, loc="left", pad=2)
    panel.set_title(words, fontsize=8, loc="right", pad=2, color="#d02020" if result.failures else "black")


def typical(result: Result) -> Run:
    """The run in the middle by its worst latency."""
    return sorted(result.runs, key=lambda run: run.latencies[-1])[len(result.runs) // 2]
