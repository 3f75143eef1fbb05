# SPDX-License-Identifier: GPL-2.0-or-later
"""How Sphinx makes the pages: make docs."""

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
html_show_copyright = False
myst_heading_anchors = 3
myst_enable_extensions = ["substitution"]

_RELOADS = Path(__file__).parent / "img" / "reload.png"
_helps = [f"**libnlplug {verb.name}**\n\n```text\n{manual.help_of(verb, 98)}\n```\n" for verb in VERBS]
myst_substitutions = {
    "verbs": "\n".join(_helps),
    # The benchmark of reloads makes this picture.
    "reloads": "![Latency of every connection, by way of reloading](/img/reload.png)" if _RELOADS.exists() else "",
    "statuses": "\n".join(["| status | |", "|---|---|", *(f"| {number} | {text} |" for number, text in STATUSES)]),
}


def literal_blocks(_app, _what, _name, _obj, _options, lines):
    """In a docstring, what is indented after an empty line is code; reST wants to be told so."""
    text, before, code = list(lines), "", False
    lines.clear()
    for line in text:
        indented = line.startswith("    ")
        if indented and not code and before and not before.endswith("::") and lines[-1] == "":
            lines += ["::", ""]
        code = indented or (code and not line)
        before = line or before
        lines.append(line)


def bases(_app, what, _name, obj, _options, signature, _returns):
    """An exception is shown with what it is, not with how it is made."""
    if what != "exception" or not signature:
        return None
    return f"({', '.join(base.__name__ for base in obj.__bases__)})", None


def setup(app):
    app.connect("autodoc-process-signature", bases)
    app.connect("autodoc-process-docstring", literal_blocks)
