# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of what was measured, and plots of it where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path

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
        verdict = {None: "", True: "met", False: "**missed**"}[is_met(row)]
        words = row["point"], row["what"], row["ours"], row["peer"], row["theirs"], _ratio(row["ratio"]), bound, verdict
        lines.append("| " + " | ".join(str(word) for word in words) + " |")
    return "\n".join(lines) + "\n"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if abs(ratio) >= 100 or ratio == int(ratio) else f"{ratio:.3g}"


def text(found: dict, pictures: list[str]) -> str:
    """The table with what must be said of it."""
    parts = [table(found["rows"]), "\n"]
    parts += [f"- {note}\n" for note in [*found["notes"], f"Medians of {found['rounds']} rounds or more. {found['where']}"]]
    parts += [f"\n![{Path(name).stem}]({name})\n" for name in pictures]
    return "".join(parts)


def put_into(readme: Path, text: str) -> None:
    """Replace what stands between the markers."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def plots(figures: dict, directory: Path) -> list[str]:
    """The pictures' names; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "libnlplug"
    from matplotlib import pyplot

    made = []

    def finish(axes, name: str, title: str) -> None:
        axes.set_title(title, fontsize=10, loc="left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        pyplot.tight_layout()
        pyplot.savefig(directory / name, metadata={"Date": None})
        pyplot.close()
        made.append(name)

    if "toggle" in figures:
        names = sorted(figures["toggle"], key=figures["toggle"].get, reverse=True)
        _, axes = pyplot.subplots(figsize=(7, 3))
        bars = axes.barh(names, [figures["toggle"][name] * 1e6 for name in names], color="#9aa5b1", log=True)
        bars[names.index("libnlplug")].set_color("#1f6feb")
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axes.set_xlabel("µs a toggle")
        finish(axes, "toggle.svg", "One buffer() or one release")
    if "links" in figures:
        _, axes = pyplot.subplots(figsize=(7, 3))
        counts = sorted(map(int, figures["links"]))
        for name, label in (("C original", "attach, C original"), ("attach", "attach()"), ("stats", "stats()")):
            axes.plot(counts, [figures["links"][str(n)][name] * 1e3 for n in counts], marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel="links in the namespace", ylabel="ms")
        axes.legend(frameon=False, fontsize=8)
        finish(axes, "links.svg", "With many links")
    if "group" in figures:
        _, axes = pyplot.subplots(figsize=(7, 3))
        sizes = sorted(map(int, figures["group"]))
        for who, color in (("C original", "#9aa5b1"), ("libnlplug", "#1f6feb")):
            for action, style in (("buffer", "-"), ("release", "--")):
                values = [figures["group"][str(n)][f"{who} {action}"] * 1e3 for n in sizes]
                label = f"{action}, {'PlugGroup' if who == 'libnlplug' else 'a loop of the C original'}"
                axes.plot(sizes, values, style, color=color, marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="ms")
        axes.legend(frameon=False, fontsize=8)
        finish(axes, "group.svg", "Many devices at once")
    return made
