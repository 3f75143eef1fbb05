# SPDX-License-Identifier: GPL-2.0-or-later
"""The command's way in: where libnlplug cannot be imported, for want of libnl, it says so in one line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command of this process's arguments; its exit status."""
    try:
        from .verbs import main as run
    except ImportError as error:
        print(f"libnlplug: {error}", file=sys.stderr)
        return 125 if sys.argv[1:2] == ["hold"] else 1  # as for every hold that there was not
    return run()
