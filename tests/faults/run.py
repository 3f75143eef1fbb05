#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults that a hold must survive, tried on this kernel, with figures: 'make faults'.

Ends with 1 where traffic did not flow again, or not within the bound. Needs root, a kernel with sch_plug and 3 GB of
memory, and a processor for itself (tools/testkernel/run --pin 1 --mem 3G).
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import time
from statistics import median_low

from tests.faults import faults, kills
from tests.faults.flow import Flow, now
from tests.faults.trial import Failed, Fault, NotTried

LARGE, LARGE_SHORT = 2 << 30, 128 << 20
SPARE = 256 << 20


class Row:
    """A line of the table of faults."""

    def __init__(self, name: str, end: str, bound: float) -> None:
        self.name, self.end, self.bound = name, end, bound
        self.tried = self.good = 0
        self.worst = 0.0
        self.remarks: list[str] = []

    @property
    def verdict(self) -> str:
        if not self.tried:
            return "not tried"
        if self.good < self.tried or (self.bound and self.worst > self.bound):
            return "MISSED"
        return "met" if self.bound else "as stated"

    def show(self) -> None:
        worst, bound = ("-", "-") if not self.bound else (f"{self.worst:.1f}", f"{self.bound:g}")
        print(f"{self.name:47} {self.end:8} {self.tried:5} {self.good:5} {worst:>9} {bound:>7}  {self.verdict}")
        for remark in sorted(set(self.remarks)):
            print(f"    {remark}")
        sys.stdout.flush()


def memory_available() -> int:
    """Bytes that could be had."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def spread(values: list[float]) -> str:
    """Minimum, median, 95th and 99th of a hundred, maximum."""
    ordered = sorted(values)
    at = [0, *(min(len(ordered) - 1, int(part * len(ordered))) for part in (0.5, 0.95, 0.99)), -1]
    return "".join(f"{ordered[index]:9.2f}" for index in at)


def longest_pause(flow: Flow) -> float:
    """Between two packets of a flow that nobody holds, in milliseconds: what the machine itself adds."""
    flow.begin()
    flow.until(lambda: False, deadline=now() + 2 * 10**9)
    arrivals = sorted(flow.arrived_at.values())
    return max(after - before for before, after in zip(arrivals, arrivals[1:])) / 1e6


def kill_trials(flow: Flow, count: int, memory: int, chance: random.Random, lives: int) -> list[kills.Kill]:
    """All trials of all kinds of holders; each kind gets its share, after so many lives that nobody ends."""
    done = []
    for kind in (*kills.KINDS, kills.large(memory)):
        lifetime = median_low(kills.life(flow, kind) for _ in range(lives))
        size = 0 if kind in kills.KINDS else memory
        for trial in range(max(3, round(count * kind.share / 200))):
            done.append(kills.kill(flow, kind, kills.AIMS[trial % 3], chance, lifetime, size))
    return done


def show_kills(done: list[kills.Kill]) -> None:
    """The distributions: the death is the kill() or, when the process can be waited for, the waitpid()."""
    print(f"\nSIGKILL at a random moment: {len(done)} trials, {sum(kill.flowed for kill in done)} flowed again")
    print(f"{'times in ms':44}      min   median      95%      99%      max")
    for name in dict.fromkeys(kill.kind for kill in done):
        some = [kill for kill in done if kill.kind == name]
        print(f"{name} ({len(some)})")
        print(f"{'  from kill() to waitpid()':44}{spread([kill.dying for kill in some])}")
        print(f"{'  longest wait of a packet after kill()':44}{spread([kill.after_kill for kill in some])}")
        print(f"{'  longest wait of a packet after waitpid()':44}{spread([kill.after_death for kill in some])}")
    print(
        "the kill hit: " + ", ".join(f"{phase} {sum(kill.phase == phase for kill in done)}" for phase in kills.PHASES)
    )


def kills_row(name: str, done: list[kills.Kill], bound: float) -> Row:
    """The kills as a line of the table. The delay is that after kill(), the longer one of the two."""
    row = Row(name, "flows", bound)
    row.tried, row.good = len(done), sum(kill.flowed and kill.clean for kill in done)
    row.worst = max(kill.after_kill for kill in done)
    for kill in done:
        if kill.after_kill > bound or not kill.clean:
            row.remarks.append(
                f"{kill.after_kill:.1f} ms after kill(), {kill.after_death:.1f} ms after waitpid(), aimed {kill.aim},"
                f" hit {kill.phase}, {'' if kill.clean else 'not '}cleaned up"
            )
    return row


def try_fault(flow: Flow, fault: Fault, times: int, chance: random.Random, bound: float, again: int) -> Row:
    """One fault, so many times. A delay above the bound is measured ``again`` so often, and the shortest counts."""
    row = Row(fault.name, fault.end, bound if fault.bound is None else fault.bound)
    for _ in range(times):
        try:
            delay = fault.do(flow, chance)
            for _ in range(again):
                if row.bound and (delay or 0.0) > row.bound:
                    delay = min(delay or 0.0, fault.do(flow, chance) or 0.0)
        except NotTried as reason:
            row.remarks.append(str(reason))
            break
        except Failed as failed:
            row.remarks.append(str(failed))
            flow.plug.release_indefinite()
            flow.flows()
        else:
            row.good += 1
            row.worst = max(row.worst, delay or 0.0)
        row.tried += 1
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="SIGKILL trials (200)")
    parser.add_argument("--times", type=int, help="tries of each other fault (3 to 20)")
    parser.add_argument(
        "--short",
        action="store_true",
        help="a tenth of the trials, each other fault once, or up to three times if it takes too long, a smaller group;"
        " delays less the machine's own pauses",
    )
    parser.add_argument("--untested", action="store_true", help="only the faults that are no tests of tests/kernel")
    parser.add_argument("--bound", type=float, default=50.0, metavar="MS", help="the bound of every delay (50)")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFF, help="of the random moments")
    options = parser.parse_args()
    trials, memory = (20, LARGE_SHORT) if options.short else (options.trials, LARGE)
    times = 1 if options.short else options.times
    if memory_available() < memory + SPARE:
        parser.error(f"a holder of {memory >> 20} MB needs more memory than there is")

    began, chance = time.monotonic(), random.Random(options.seed)
    print(f"{os.uname().sysname} {os.uname().release}, {os.cpu_count()} processor(s), seed {options.seed}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    Flow.less_pauses = options.short
    flow = Flow()
    pause = longest_pause(flow)
    print(f"the longest pause between two packets of a flow that nobody holds, in 2 s: {pause:.1f} ms")
    if pause > options.bound / 4:
        print("this machine has other things to do: the figures below are in part its own")
    done = kill_trials(flow, trials, memory, chance, 1 if options.short else 3)
    show_kills(done)

    print(f"\n{'fault':47} {'end':8} tried  good  worst ms   bound  verdict")
    small = {kind.name for kind in kills.KINDS}
    rows = [
        kills_row("SIGKILL", [kill for kill in done if kill.kind in small], options.bound),
        kills_row(f"SIGKILL, {memory >> 20} MB", [kill for kill in done if kill.kind not in small], options.bound),
    ]
    for row in rows:
        row.show()
    for fault in faults.FAULTS:
        if options.untested and fault.bound == 0:  # others.tested()
            continue
        if options.short and fault is faults.MANY_PLUGS:
            fault = faults.FEWER_PLUGS
        rows.append(try_fault(flow, fault, times or fault.times, chance, options.bound, 2 if options.short else 0))
        rows[-1].show()
    print("stated limits: what ends the guard together with its holder; good is what the documentation says")
    for fault in faults.LIMITS:
        rows.append(try_fault(flow, fault, times or fault.times, chance, options.bound, 2 if options.short else 0))
        rows[-1].show()
    flow.close()
    missed = sum(row.verdict == "MISSED" for row in rows)
    print(f"{missed} missed, {time.monotonic() - began:.0f} s in all")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
