# SPDX-License-Identifier: GPL-2.0-or-later
"""What others do: more holders, and users who are in the way."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import random
import signal
import socket
import time
from contextlib import ExitStack

import pytest

from libnlplug import PlugBusy, PlugGroup, PlugQdisc, attach
from tests.faults.flow import Flow, Holder, Page, now, opened, prepared, process_gone
from tests.faults.trial import Failed, NotTried, need, refusal, refused, started
from tests.support.fleet import fleet_of
from tests.support.hold import NOBODY, guard_for_everyone, marks
from tests.support.netlab import Wire, setns


def racing(flow: Flow, chance: random.Random) -> float:
    """Two processes hold and hold again, each as often as it gets it, and are killed at a random moment."""

    def race(page: Page) -> None:
        plug = opened(flow)
        plug.guard()
        while True:
            try:
                with plug.hold():
                    page["held"] += 1
                    time.sleep(0.002)
            except PlugBusy as busy:
                if busy.pid in (0, os.getpid()):
                    os._exit(1)
                time.sleep(0.001)

    with started(flow, race) as one, started(flow, race) as two:
        holders = (one, two)
        need(flow.until(lambda: one.page["held"] and two.page["held"]), "they do not hold in turn")
        flow.until(lambda: False, deadline=now() + int(chance.uniform(2e7, 2e8)))
        for holder in holders:
            event = holder.kill()
        for holder in holders:
            need(flow.until(holder.dead), "a holder did not die")
            need(holder.status == -signal.SIGKILL, f"a holder ended by itself: {holder.status}")
        need(flow.flows(), "traffic did not flow again")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(event)


def squatted(flow: Flow, chance: random.Random) -> float:
    """Another local user has taken the mark's name."""
    listening = chance.choice([True, False])

    def squat(page: Page, wait_for_start) -> None:
        setns(flow.near.fileno())
        os.setresuid(NOBODY, NOBODY, NOBODY)
        sitting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sitting.bind("\0" + flow.plug.place.mark)
        if listening:
            sitting.listen()
        wait_for_start()
        wait_for_start()

    squatter = Holder(squat)
    try:
        squatter.prepare()
        return refused(flow, lambda page: refusal(opened(flow)))
    finally:
        squatter.close()


def many_plugs(flow: Flow, chance: random.Random, *, count: int) -> float:
    """SIGKILL for the holder of a group of so many: how long until the last one is released."""
    with fleet_of(count) as fleet:

        def work(page: Page, wait_for_start) -> None:
            group = PlugGroup(fleet.netns.run(lambda: [PlugQdisc.open(device) for device in fleet.devices]))
            page["guard"] = group.guard().pid
            wait_for_start()
            with group.hold():
                page["held"] = now()
                time.sleep(60)

        with prepared(flow, work) as holder:
            need(flow.until(lambda: holder.page["held"]), "did not hold")
            fleet.send(1)
            with PlugGroup(fleet.plugs) as group:
                need(all(stats.qlen == 1 for stats in group.stats().values()), "did not hold all")
                event = holder.kill()
                need(flow.until(lambda: not fleet.plugs[-1].stats().qlen), "the last one is still held")
                ended = now()
                need(flow.until(lambda: process_gone(holder.page["guard"])), "the guard stayed")
                need(marks(fleet.netns) == [], "a mark stayed")
                need(flow.until(lambda: not any(stats.qlen for stats in group.stats().values())), "one is still held")
            return flow.delay(event, ended)


def tested(name: str, **given):
    """The fault that a kernel test is about: nothing is measured, and what the test asserts must hold."""

    def do(flow: Flow, chance: random.Random) -> None:
        module, _, function = name.partition(".")
        tests = importlib.import_module(f"tests.kernel.test_{module}")
        test = getattr(tests, f"test_{function}")
        wire, patch = Wire(), pytest.MonkeyPatch()
        fixtures = {"wire": wire, "monkeypatch": patch, "netns": wire.near, "for_everyone": None, **given}
        if "spoil" in given:
            fixtures["spoil"] = getattr(tests, given["spoil"])
        wanted = inspect.signature(test).parameters
        try:
            with ExitStack() as stack:
                if "for_everyone" in wanted:
                    stack.enter_context(guard_for_everyone())
                if "plug" in wanted:
                    fixtures["plug"] = stack.enter_context(attach(wire.device, netns=wire.near))
                test(**{name: fixtures[name] for name in wanted})
        except pytest.skip.Exception as reason:
            raise NotTried(str(reason)) from None
        except (AssertionError, pytest.fail.Exception) as failed:
            raise Failed(f"{name}: {failed}".splitlines()[0]) from None
        finally:
            patch.undo()
            wire.close()

    return do


def losing(spoil: str, words: str):
    """Something by which the kernel throws packets away uncounted, as test_hold_uncounted does it."""
    return tested("hold_uncounted.what_the_kernel_threw_away_uncounted_is_not_zero", spoil=spoil, words=words, times=1)


def refusing(what: str):
    """A seccomp filter that refuses this."""
    name = "guard_cannot_start.a_filter_of_system_calls_is_named"
    return tested(name, what=what, code=errno.EPERM, words="a seccomp filter")
