# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of what was measured, and a picture of it where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path

from rounds import time_text

BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"


def is_met(row: dict) -> bool | None:
    """Whether the row's bound is met; None where it has none."""
    if row["bound"] is None:
        return None
    return row["ratio"] >= row["bound"] if row["sense"] == "at least" else row["ratio"] <= row["bound"]


def table(rows: list[dict]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| | what | ours | peer | its | ratio | bound | |", "|--:|---|--:|---|--:|--:|--:|---|"]
    for row in sorted(rows, key=lambda row: row["point"]):
        bound = "" if row["bound"] is None else f"{row['sense']} {row['bound']:g}"
        verdict = "it fails" if row["fails"] else {None: "", True: "met", False: "**missed**"}[is_met(row)]
        words = row["point"], row["what"], row["ours"], row["peer"], row["theirs"], _ratio(row["ratio"]), bound, verdict
        lines.append("| " + " | ".join(str(word) for word in words) + " |")
    return "\n".join(lines) + "\n"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if abs(ratio) >= 100 or ratio == int(ratio) else f"{ratio:.3g}"


def text(found: dict, pictures: list[str]) -> str:
    """The table with what must be said of it."""
    parts = [table(found["rows"]), "\n"]
    parts += [
        f"- {note}\n" for note in [*found["notes"], f"Medians of {found['rounds']} rounds or more. {found['where']}"]
    ]
    parts += [f"\n![what a toggle costs; attach with many links; many devices at once]({name})\n" for name in pictures]
    return "".join(parts)


def put_into(readme: Path, text: str) -> None:
    """Replace what stands between the markers."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


GREY, BLUE = "#8b949e", "#1f6feb"


def plot(figures: dict, directory: Path) -> list[str]:
    """The picture's name; none without matplotlib, or where a section is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    if not {"toggle", "links", "group"} <= figures.keys():
        return []
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "libnlplug", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    shown, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 2.6), layout="constrained")
    _toggles(left, figures["toggle"])
    links = figures["links"]
    lines = [
        ("attach(), C original", [links[count]["C original"] for count in links], GREY, "-"),
        ("attach()", [links[count]["attach"] for count in links], BLUE, "-"),
        ("stats()", [links[count]["stats"] for count in links], BLUE, "--"),
    ]
    _lines(middle, "links in the namespace", [int(count) for count in links], lines)
    group = figures["group"]
    lines = [
        (f"{action}, {label}", [group[size][f"{who} {action}"] for size in group], color, style)
        for who, label, color in (("C original", "C original", GREY), ("libnlplug", "PlugGroup", BLUE))
        for action, style in (("buffer", "-"), ("release", "--"))
    ]
    _lines(right, "devices toggled", [int(size) for size in group], lines)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    (directory / "img").mkdir(exist_ok=True)
    shown.savefig(directory / "img" / "cost.svg", metadata={"Date": None})
    return ["img/cost.svg"]


def _toggles(axes, seconds: dict[str, float]) -> None:
    names = sorted(seconds, key=seconds.__getitem__, reverse=True)
    colors = [BLUE if name in ("libnlplug", "drop-in port") else GREY for name in names]
    bars = axes.barh(names, [seconds[name] * 1e6 for name in names], color=colors, log=True)
    axes.bar_label(bars, [time_text(seconds[name]) for name in names], padding=3)
    axes.set(xlabel="µs a toggle", xlim=(1, 1e7 * seconds[names[0]]))


def _lines(axes, what: str, counts: list[int], lines: list[tuple[str, list[float], str, str]]) -> None:
    for label, seconds, color, style in lines:
        axes.plot(counts, [1e3 * one for one in seconds], style, color=color, marker="o", markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel=what, ylabel="ms")
    axes.set_xticks(counts, [str(count) for count in counts], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)
