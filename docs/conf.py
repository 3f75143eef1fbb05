# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of Sphinx for `make docs`."""

from pathlib import Path

import libnlplug
from libnlplug.command import manual
from libnlplug.command.table import STATUSES, VERBS

project = "libnlplug"
release = libnlplug.__version__
extensions = ["sphinx.ext.autodoc", "myst_parser"]
autodoc_member_order = "groupwise"
html_theme = "furo"
html_title = f"libnlplug {release}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_copyright = False
myst_heading_anchors = 3
myst_enable_extensions = ["substitution"]

MADE_BY_THE_LIBRARY = [f"libnlplug.{name}" for name in ("PlugQdisc", "PlugStats", "HoldReport", "LaneReport", "Holder")]
_RELOADS = Path(__file__).parent / "img" / "reload.png"
_helps = [f"**libnlplug {verb.name}**\n\n```text\n{manual.help_of(verb, 88)}\n```\n" for verb in VERBS]
myst_substitutions = {
    "verbs": "\n".join(_helps),
    # benchmarks/reload draws this picture.
    "reloads": "![Latency of every connection, by way of reloading](/img/reload.png)" if _RELOADS.exists() else "",
    "statuses": "\n".join(["| status | |", "|---|---|", *(f"| {number} | {text} |" for number, text in STATUSES)]),
}


def literal_blocks(_app, _what, _name, _obj, _options, lines):
    """Mark indented paragraphs of a docstring as code blocks, which reST requires."""
    text, before, code = list(lines), "", False
    lines.clear()
    for line in text:
        indented = line.startswith("    ")
        if indented and not code and before and not before.endswith("::") and lines[-1] == "":
            lines += ["::", ""]
        code = indented or (code and not line)
        before = line or before
        lines.append(line)


def signature_of(_app, what, name, obj, _options, signature, _returns):
    """Show an exception with its base classes, and no arguments of a class that only the library calls."""
    if what == "class" and name in MADE_BY_THE_LIBRARY:
        return "", None
    if what != "exception" or not signature:
        return None
    return f"({', '.join(base.__name__ for base in obj.__bases__)})", None


def setup(app):
    app.connect("autodoc-process-signature", signature_of)
    app.connect("autodoc-process-docstring", literal_blocks)
