# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL for the holder at a random moment, in the middle of a flow of packets.

    before | guard starts | arming | being asked to hold | held ... | releasing | after
       '-------------- the kill comes anywhere, around the buffer message, or while held

The holder writes where it is into a shared page, so each kill is counted under the phase it hit. Around the buffer
message it is a timer of the kernel's that sends the signal: only that is fine enough to hit a few microseconds.
"""

from __future__ import annotations

import os
import random
import threading
import time

from libnlplug.guard.client import Guard
from tests.faults.flow import Flow, Page, kill_myself_in, now, occupy, opened, prepared, process_gone

PHASES = ("before", "guard starts", "arming", "being asked to hold", "held", "releasing", "after")
AIMS = ("anywhere", "buffer", "held")
BLOCK = 0.005  # seconds in the block, where the kill may also come after it


class Kind:
    """A kind of holder: its name, how many of 200 trials it gets, what is special about it, and how often it has held
    before: only the first hold starts a guard and speaks with it."""

    def __init__(self, name: str, share: int, hold, before: int = 0) -> None:
        self.name, self.share, self.hold, self.before = name, share, hold, before

    def warm_up(self, plug) -> None:
        """Hold as often as it is to have held before."""
        for _ in range(self.before):
            with plug.hold():
                pass


class Kill:
    """What came of one trial; times in milliseconds."""

    def __init__(self, kind: str, aim: str) -> None:
        self.kind, self.aim = kind, aim
        self.phase = ""
        self.flowed = False
        self.clean = False  # no mark, no guard, nothing in the queue
        self.dying = 0.0  # from the kill to waitpid()
        self.after_kill = self.after_death = self.first = float("inf")


def _block(hold, page: Page, *, seconds: float | None) -> None:
    """Enter, stay, leave."""
    with hold:
        page["phase"] = 4
        page["held"] = now()
        time.sleep(60 if seconds is None else seconds)
        page["phase"] = 5
    page["phase"] = 6


def _plain(plug, page: Page, seconds: float | None) -> None:
    _block(plug.hold(), page, seconds=seconds)


def _again(plug, page: Page, seconds: float | None) -> None:
    if seconds is None:
        return _block(plug.hold(), page, seconds=None)
    for _ in range(50):
        _block(plug.hold(), page, seconds=0)
    return None


def _threads(plug, page: Page, seconds: float | None) -> None:
    for _ in range(7):
        threading.Thread(target=_busy, daemon=True).start()
    thread = threading.Thread(target=_block, args=(plug.hold(), page), kwargs={"seconds": seconds})
    thread.start()
    thread.join()


def _busy() -> None:
    while True:
        time.sleep(0.002)


def _starter_ended(plug, page: Page, seconds: float | None) -> None:
    hold = plug.hold()
    thread = threading.Thread(target=hold.__enter__)
    thread.start()
    thread.join()
    page["phase"] = 4
    page["held"] = now()
    time.sleep(60 if seconds is None else seconds)
    page["phase"] = 5
    hold.__exit__(None, None, None)
    page["phase"] = 6


def _leaked(plug, page: Page, seconds: float | None) -> None:
    plug.guard()  # so that the child has the conversation with the guard too
    if os.fork() == 0:
        page.wait_for_end()
        os._exit(0)
    _block(plug.hold(), page, seconds=seconds)


KINDS = (
    Kind("one thread", 30, _plain),
    Kind("holding again and again", 30, _again, before=3),
    Kind("many threads", 40, _threads),
    Kind("starting thread ended", 40, _starter_ended),
    Kind("descriptors leaked to a child", 40, _leaked),
)


def large(memory: int) -> Kind:
    """A holder with so much memory, which takes its time to die."""
    return Kind(f"{memory >> 20} MB of memory", 20, _plain)


def _watched(plug, page: Page, kill_in: int | None) -> None:
    """Have the object tell the page how far it is, and set the timer right before the buffer message."""
    guarded, ask = plug.guard, Guard.hold

    def start():
        page["phase"] = 1
        guard = guarded()
        page["guard"] = guard.pid
        page["phase"] = 2
        return guard

    def hold(*words, **options):
        page["phase"] = 3
        if kill_in is not None:
            page["armed"] = now()
            kill_myself_in(kill_in)
        return ask(*words, **options)

    plug.guard, Guard.hold = start, hold


def life(flow: Flow, kind: Kind) -> int:
    """How long a holder that nobody kills takes from its start to its end, in nanoseconds."""

    def work(page: Page, wait_for_start) -> None:
        plug = opened(flow)
        kind.warm_up(plug)
        wait_for_start()
        page["armed"] = now()
        kind.hold(plug, page, BLOCK)
        page["note"] = now()

    with prepared(flow, work) as holder:
        flow.until(lambda: holder.page["note"], files=[holder.pidfd])
        return holder.page["note"] - holder.page["armed"]


def kill(flow: Flow, kind: Kind, aim: str, chance: random.Random, lifetime: int, memory: int = 0) -> Kill:
    """One trial."""
    result = Kill(kind.name, aim)
    longest = {"anywhere": 1.2 * lifetime, "buffer": 1e6, "held": 30e6}
    at = chance.uniform(0, longest[aim])

    def work(page: Page, wait_for_start) -> None:
        plug = opened(flow)
        kept = occupy(memory) if memory else None
        kind.warm_up(plug)
        _watched(plug, page, int(at) if aim == "buffer" else None)
        wait_for_start()
        kind.hold(plug, page, BLOCK if aim == "anywhere" else None)
        wait_for_start()  # for ever
        del kept

    with prepared(flow, work) as holder:
        if aim == "anywhere":
            flow.until(lambda: False, deadline=now() + int(at))
            killed = holder.kill()
        elif aim == "held":
            flow.until(lambda: holder.page["held"])
            flow.until(lambda: False, deadline=now() + int(at))
            killed = holder.kill()
        died = flow.until(holder.dead, files=[holder.pidfd])
        if aim == "buffer":
            killed = holder.page["armed"] + int(at)
        result.phase = PHASES[holder.page["phase"]]
        result.flowed = died and flow.flows()
        result.dying = (holder.died - killed) / 1e6
        result.after_kill, result.after_death = flow.worst_wait(killed), flow.worst_wait(holder.died)
        result.first = flow.first_after(killed)
        guard = holder.page["guard"]
        result.clean = flow.until(lambda: flow.plug.holder() is None and (not guard or process_gone(guard)))
        result.clean = result.clean and flow.plug.stats().qlen == 0
    if not result.flowed:
        flow.plug.release_indefinite()
        flow.flows()
    return result
