# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the benchmark that runs on the host: what the import costs there."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from peers import processor_time
from rounds import Row, interleaved, time_text
from sections import Bench, clean_environment

PROGRAMS = {"import libnlplug": "import libnlplug", "the bare interpreter": "pass", "import re": "import re"}


def importing(bench: Bench) -> Iterator[Row]:
    """`import libnlplug` in a virtual environment that has nothing else, over the interpreter alone."""
    python, _launcher = clean_environment(bench.directory)
    contestants = {
        name: lambda program=program: processor_time(python, "-I", "-c", program) for name, program in PROGRAMS.items()
    }
    found = interleaved(contestants, bench.size(100, 3))
    bench.figures["import"] = {name: found.of(name) for name in found.values}
    ours, bare, other = (found.values[name] for name in PROGRAMS)
    for what, values, bound in (("import libnlplug", ours, 3), ("for comparison, import re", other, None)):
        over = median(one - alone for one, alone in zip(values, bare)) * 1e3
        texts = time_text(median(values)), "the bare interpreter", time_text(median(bare))
        yield Row(5, f"{what} on the host: ms of processor time over the bare interpreter", *texts, over, bound)
