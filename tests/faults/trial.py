# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fault is made of: a holder in the middle of a flow of packets, what is done to it, and how it must end.

Each fault is one function. It returns how long the worst packet waited after the event, or how long it took until the
holder was told, in milliseconds; it raises Failed where that did not happen. The good end is one of

    flows     the traffic flows again          refused   no hold began, and the traffic was never stopped
    told      there is nothing left to flow: the holder gets an error that says so, and mark and guard go
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager

from libnlplug import GuardUnavailable, PlugQdisc
from tests.faults.flow import Flow, Holder, Page, now, opened, prepared, process_gone

REFUSED, TOLD, EXPIRED, MISSED = 11, 12, 13, 14  # exit statuses of holders


class Failed(Exception):
    """It did not end as it must."""


class NotTried(Exception):
    """It cannot be tried here, and why."""


class Fault:
    """One line of the table. The ``bound`` is in milliseconds: None is that of the whole table, 0 measures nothing."""

    def __init__(self, name: str, end: str, do, times: int = 20, bound: float | None = None) -> None:
        self.name, self.end, self.do, self.times, self.bound = name, end, do, times, bound


def need(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)


def stay(plug: PlugQdisc, page: Page, **options) -> int:
    """A holder's life: hold until killed, and say how it ended otherwise."""
    page["guard"] = plug.guard().pid
    try:
        page["armed"] = now()
        with plug.hold(**options):
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
        page["phase"] = now()
    except FileNotFoundError:
        page["phase"] = now()
        return TOLD
    except TimeoutError:
        page["phase"] = now()
        return EXPIRED
    except GuardUnavailable:
        page["phase"] = now()
        return MISSED
    return 0


@contextmanager
def started(flow: Flow, work):
    """A process that runs ``work(page)``: it has begun, and so has a new trial of the flow."""

    def begin(page: Page, wait_for_start) -> int:
        wait_for_start()
        return work(page)

    with prepared(flow, begin) as holder:
        yield holder


@contextmanager
def held(flow: Flow, work=None, **options):
    """A process that holds, with packets waiting in the plug already."""
    with started(flow, work or (lambda page: stay(opened(flow), page, **options))) as holder:
        need(flow.until(lambda: holder.page["held"] or holder.dead()) and holder.page["held"], "did not hold")
        need(flow.stands_still(0.01), "did not hold anything")
        yield holder


def flowed(flow: Flow, holder: Holder, event: int) -> float:
    """The traffic flows again, and the mark and the guard go."""
    need(flow.flows(), "traffic did not flow again")
    pid = holder.page["guard"]
    need(flow.until(lambda: flow.plug.holder() is None and process_gone(pid)), "the mark or the guard stayed")
    return flow.worst_wait(event)


def killed(flow: Flow, holder: Holder, number: int = signal.SIGKILL) -> float:
    """The same after a signal that ends the holder."""
    event = holder.kill(number)
    need(flow.until(holder.dead, files=[holder.pidfd]), "the holder did not die")
    return flowed(flow, holder, event)


def refused(flow: Flow, work) -> float:
    """No hold begins, and no packet waits."""
    with started(flow, work) as holder:
        need(flow.until(holder.dead, files=[holder.pidfd]), "the holder hangs")
        need(holder.status == REFUSED, f"the holder was not refused: status {holder.status}")
        need(flow.flows(), "traffic does not flow")
        return flow.worst_wait(holder.started)


def refusal(plug: PlugQdisc) -> int:
    """What a holder that must be refused ends with."""
    try:
        plug.hold().__enter__()
    except OSError:
        return REFUSED
    return 0
