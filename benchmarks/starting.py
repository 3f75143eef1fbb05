# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the benchmark that run on the host: what the import costs there, and a toggle.

User-Mode Linux runs a system call at several times its price, so a ratio of toggles there is not the host's. Where the
host's kernel has no plug, a change of a pfifo's limit stands in: as many messages, as large, by the same code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from peers import HERE, Program, compiled, processor_time, reference, run, tc, worker
from rounds import Row, compared, interleaved, time_text
from sections import BATCH, FLOOR, HANDLE, ORIGINAL, OURS, Bench, by_batch, clean_environment

PROGRAMS = {
    "import libnlplug": "import libnlplug",
    "import libnlplug and attach": "import libnlplug\nfrom libnlplug import attach",
    "the bare interpreter": "pass",
    "what attach() loads": "import libnlplug.plug\nfrom libnlplug import attach",
    "import re": "import re",
}


def importing(bench: Bench) -> Iterator[Row]:
    """`import libnlplug` in an environment that has nothing else, beside `import re`: what each adds to Python."""
    python, _launcher = clean_environment(bench.directory)
    contestants = {
        name: lambda program=program: processor_time(python, "-I", "-c", program) for name, program in PROGRAMS.items()
    }
    found = interleaved(contestants, bench.size(100, 3))
    bench.figures["import"] = {name: found.of(name) for name in found.values}
    bare = found.values["the bare interpreter"]
    over = {name: median(one - alone for one, alone in zip(found.values[name], bare)) for name in PROGRAMS}
    for name, what, bound in (
        ("import libnlplug", "import libnlplug", None),
        ("import libnlplug and attach", "import libnlplug; from libnlplug import attach", 0.47),
        ("what attach() loads", "that, and what the first attach() loads,", None),
    ):
        texts = time_text(over[name]), "import re", time_text(over["import re"])
        ratio = over[name] / over["import re"]
        yield Row(5, f"{what} on the host: processor time over the bare interpreter", *texts, ratio, bound)


def on_the_host(bench: Bench) -> Iterator[Row]:
    """A toggle on the kernel that is there, in a network namespace of its own, on lo."""
    times, few = bench.size(1000, 50), bench.size(50, 3)
    plug = ("qdisc", "add", "dev", "lo", "root", "handle", HANDLE, "plug", "limit", "100000")
    stands_in = subprocess.run(["tc", *plug], stderr=subprocess.DEVNULL).returncode != 0
    if stands_in:
        tc(f"qdisc add dev lo root handle {HANDLE} pfifo limit 100")
        what, actions = "a toggle on the host's kernel (a pfifo stands in)", ("pfifo limit 100", "pfifo limit 101")
    else:
        what, actions = "a toggle on the host's kernel", ("plug block", "plug release_indefinite")
    change = ("tc", "qdisc", "change", "dev", "lo", "root", "handle", HANDLE)
    with ExitStack() as stack:
        quick = {
            name: (lambda program=program: program.timed(f"toggle {times}") / (2 * times))
            for name, program in _toggling(bench, stands_in, stack).items()
        }
        found = interleaved(quick, bench.size(100, 1))
        slow = {
            OURS: quick[OURS],
            "a tc process": lambda: sum(run(*change, *action.split()) for action in actions) / 2,
            BATCH: by_batch(bench, "lo", actions),
        }
        try:
            pyroute2 = worker("worker_pyroute2.py", *(["fifo"] if stands_in else []), "lo")
            pyroute2.hear()
            stack.callback(pyroute2.close)
            slow["pyroute2"] = lambda: pyroute2.timed(f"toggle {few}") / (2 * few)
        except RuntimeError:
            bench.notes.append("Not measured: pyroute2, which is not installed (pip install '.[bench]').")
        found_slow = interleaved(slow, bench.rounds)
    for name, shown in ((ORIGINAL, "a loop of libnl in C" if stands_in else ORIGINAL), (FLOOR, FLOOR)):
        row = compared(found, 9, what, OURS, name)
        row["peer"] = shown
        yield row
    for name in ("pyroute2", "a tc process", BATCH):
        if name in found_slow:
            yield compared(found_slow, 9, f"times faster, {what}", OURS, name, faster=True)


def _toggling(bench: Bench, stands_in: bool, stack: ExitStack) -> dict[str, Program]:
    """libnlplug and the two C programs, each ready to toggle what is there."""
    floor = compiled(HERE / "floor.c", bench.directory)
    if stands_in:
        programs = {
            OURS: worker("worker.py"),
            FLOOR: Program(floor, "lo", HANDLE, "pfifo"),
            ORIGINAL: Program(compiled(HERE / "fifo.c", bench.directory, libraries="libnl-route-3.0"), "lo", HANDLE),
        }
    else:
        programs = {
            OURS: worker("worker.py"),
            FLOOR: Program(floor, "lo", HANDLE),
            ORIGINAL: Program(reference(bench.directory)),
        }
        programs[ORIGINAL].timed(f"attach lo root {HANDLE} 100000")
    for program in programs.values():
        stack.callback(program.close)
    programs[OURS].hear()
    programs[OURS].timed(f"fifo lo {HANDLE}" if stands_in else "attach lo")
    return programs


SECTIONS = (on_the_host, importing)
