# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a holder, or to its guard."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import time
from pathlib import Path

from libnlplug import NetlinkError, PlugGroup
from libnlplug.guard import client as guard
from tests.faults.flow import Flow, Page, now, opened, process_gone
from tests.faults.trial import EXPIRED, MISSED, NotTried, flowed, held, need, started, stay
from tests.support.command import Cli
from tests.support.netlab import in_guest

TIMEOUT = 0.5  # seconds: also on a busy machine, packets are seen to wait before it ends


def stopped(flow: Flow, chance: random.Random) -> float:
    with held(flow, timeout=TIMEOUT) as holder:
        holder.kill(signal.SIGSTOP)
        need(flow.flows(), "traffic did not flow again")
        event = holder.page["armed"] + int(1e9 * TIMEOUT)
        need(flow.first_after(holder.page["held"]) >= (event - holder.page["held"]) / 1e6, "released too early")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(event)


def crashed(flow: Flow, chance: random.Random) -> float:
    """SIGSEGV, while a program that is in no hurry takes the core."""
    if not in_guest():
        raise NotTried("the core pattern is this machine's")
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    pattern.write_text("|/bin/sleep 0.5")

    def work(page: Page) -> int:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return stay(opened(flow), page)

    try:
        with held(flow, work) as holder:
            event = holder.kill(signal.SIGSEGV)
            need(flow.flows(), "traffic did not flow again")
            need(not holder.dead(), "there was no core to wait for")
            need(flow.until(holder.dead), "the holder did not die")
            return flowed(flow, holder, event)
    finally:
        pattern.write_text(before)


def guard_killed(flow: Flow, chance: random.Random) -> float:
    with held(flow) as holder:
        os.kill(holder.page["guard"], signal.SIGKILL)
        need(flow.stands_still(0.01), "the hold ended with its guard")
        holder.page["note"] = 1
        event = now()
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == MISSED, "the holder was not told that its guard has gone")
        return flowed(flow, holder, event)


def closed(flow: Flow, chance: random.Random) -> float:
    """close(): how long the guard's process is there after it has returned."""
    plug = opened(flow)
    plug.guard()
    with plug.hold():
        pass
    pidfd = os.pidfd_open(plug._guard.pid)  # type: ignore[union-attr]
    try:
        event = now()
        plug.close()
        need(flow.until(lambda: process_gone(plug_guard) if (plug_guard := _pid_of(pidfd)) else True), "it stayed")
        return flow.delay(event, now())
    finally:
        os.close(pidfd)


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as lines:
        return max(0, next(int(line.split()[1]) for line in lines if line.startswith("Pid:")))


def detached(flow: Flow, chance: random.Random) -> float:
    """buffer with a deadline: the process that began it has ended long before."""

    def work(page: Page) -> None:
        plug = opened(flow)
        arm = guard.Guard.hold

        def armed(*args, **options) -> None:
            page["armed"] = now()
            arm(*args, **options)

        guard.Guard.hold = armed  # type: ignore[method-assign]
        plug.hold_detached(0.2)

    with started(flow, work) as holder:
        need(flow.until(holder.dead), "it did not end")
        need(holder.status == 0 and flow.stands_still(0.01), "it does not hold")
        need(flow.flows(), "traffic did not flow again")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(holder.page["armed"] + 200_000_000)


def struck(flow: Flow, chance: random.Random, *, what: str, number: int) -> float:
    """Killed or stopped anywhere in holds with timeouts of 10 us to 1 ms, one after the other."""

    def work(page: Page) -> None:
        plug = opened(flow)
        held = PlugGroup([plug]) if what == "group" else plug
        held.guard()
        while True:
            timeout = 10 ** chance.uniform(-5, -3)
            try:
                if what == "detached":
                    plug.hold_detached(timeout)
                else:
                    with held.hold(timeout=timeout):
                        pass
            except NetlinkError:  # it expired, or the one before is not over
                pass
            page["held"] += 1

    with started(flow, work) as holder:
        need(flow.until(lambda: holder.page["held"]), "did not hold")
        flow.until(lambda: False, deadline=now() + int(chance.uniform(0, 2e7)))
        event = holder.kill(number)
        need(flow.flows(), "traffic did not flow again")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(event)


def guard_stopped(flow: Flow, chance: random.Random) -> float:
    """Its guard runs again only after the timeout: it releases at once then, and the holder is told."""
    with held(flow, timeout=TIMEOUT) as holder:
        os.kill(holder.page["guard"], signal.SIGSTOP)
        try:
            need(flow.stands_still(TIMEOUT + 0.1), "the hold ended without its guard")
        finally:
            event = now()
            os.kill(holder.page["guard"], signal.SIGCONT)
        need(flow.flows(), "traffic did not flow again")
        holder.page["note"] = 1
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == EXPIRED, f"the holder was not told: status {holder.status}")
        return flowed(flow, holder, event)


def spinning(flow: Flow, chance: random.Random) -> float:
    """A realtime holder that never sleeps, on the processor that its guard was started on, past its timeout."""

    def work(page: Page) -> int:
        plug = opened(flow)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        page["guard"] = plug.guard().pid
        page["armed"] = now()
        try:
            with plug.hold(timeout=TIMEOUT):
                page["held"] = now()
                while not page["note"]:
                    time.sleep(0.001)
                while plug.holder() is not None and now() < page["held"] + 2 * 10**9:
                    pass
                page["phase"] = now()
        except TimeoutError:
            return EXPIRED
        return 0

    with held(flow, work) as holder:
        holder.page["note"] = 1
        need(flow.until(holder.dead, files=[holder.pidfd]), "the holder hangs")
        need(holder.status == EXPIRED, f"the holder was not told: status {holder.status}")
        flowed(flow, holder, holder.page["phase"])
        return flow.delay(holder.page["armed"] + int(1e9 * TIMEOUT), holder.page["phase"])


def executed(flow: Flow, chance: random.Random) -> float:
    """The holder executes another program, while a child that it has forked has all that it had open."""

    closed, closes = os.pipe()  # by exec, which takes its time

    def work(page: Page) -> None:
        plug = opened(flow)
        page["guard"] = plug.guard().pid
        plug.hold().__enter__()
        if os.fork() == 0:
            os.close(closes)
            page.wait_for_end()
            os._exit(0)
        page["held"] = now()
        while not page["note"]:
            time.sleep(0.001)
        os.execv("/bin/sleep", ["sleep", "60"])

    try:
        with held(flow, work) as holder:
            os.close(closes)
            holder.page["note"] = 1
            need(flow.until(lambda: select.select([closed], [], [], 0)[0], files=[closed]), "the holder hangs")
            return flowed(flow, holder, now())
    finally:
        os.close(closed)


def hung_up(flow: Flow, chance: random.Random) -> float:
    """The terminal of 'libnlplug hold' goes, as when an ssh connection is lost."""
    flow.begin()
    terminal = Cli(flow.near).terminal("hold", flow.device, "--timeout", "0", "--", "sleep", "60")
    try:
        slow = (flow.until(lambda: flow.plug.holder() is not None) for _ in range(6))  # a command may take seconds
        need(any(slow), "did not hold")
        need(flow.stands_still(0.01), "did not hold anything")
        event = now()
        terminal.hang_up()
        need(flow.until(lambda: terminal.process.poll() is not None), "the command did not end")
        need(flow.flows(), "traffic did not flow again")
        return flow.worst_wait(event)
    finally:
        terminal.process.kill()
        terminal.process.wait()
