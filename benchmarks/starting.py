# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the benchmark that runs on the host: what the import costs there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from statistics import median

from peers import run
from rounds import Row, interleaved, time_text
from sections import Bench, clean_environment


def importing(bench: Bench) -> Iterator[Row]:
    """`import libnlplug` in a virtual environment that has nothing else, over the interpreter alone."""
    python, _launcher = clean_environment(bench.directory)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        contestants = {
            "import libnlplug": lambda: run(python, "-I", "-c", "import libnlplug"),
            "the bare interpreter": lambda: run(python, "-I", "-c", "pass"),
            "import re": lambda: run(python, "-I", "-c", "import re"),
        }
        found = interleaved(contestants, bench.size(60, 3))
    finally:
        os.sched_setaffinity(0, before)
    bench.figures["import"] = {name: found.of(name) for name in found.values}
    over = [one - bare for one, bare in zip(found.values["import libnlplug"], found.values["the bare interpreter"])]
    texts = time_text(found.of("import libnlplug")), "the bare interpreter", time_text(found.of("the bare interpreter"))
    yield Row(5, "import libnlplug on the host: ms over the bare interpreter", *texts, median(over) * 1e3, 3)
