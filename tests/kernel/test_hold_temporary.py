# SPDX-License-Identifier: GPL-2.0-or-later
"""The plug that 'libnlplug hold' makes for itself is temporary: however many hold at once, the last one removes it."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from contextlib import ExitStack, redirect_stderr

import libnlplug
from libnlplug import PlugQdisc
from libnlplug.command import hold as hold_module
from libnlplug.command import main as cli_main
from tests.support.command import Cli, let_end
from tests.support.hold import Child, child, expect_flow, marks
from tests.support.netlab import Wire, eventually, setns

HOLDERS = 5
TEMPORARY = "704c:"


class Sends:
    """Instead of a command: send one packet into the hold, and stay a moment."""

    wire: Wire

    def __init__(self, *_: object) -> None:
        pass

    def run(self) -> int:
        self.wire.send(1)
        time.sleep(0.002)
        return 0

    def close(self) -> None:
        pass


def hold_and_send(this: Child, wire: Wire, number: int) -> None:
    """In a process: 'libnlplug hold --json' with a command that sends the packet of this number; say what it said."""
    setns(wire.near.fileno())
    wire.sent, Sends.wire = number, wire
    hold_module.Command = Sends  # type: ignore[misc, assignment]
    with redirect_stderr(io.StringIO()) as said:
        cli_main(["hold", wire.device, "--json", "--", "true"])
    this.say(json.loads(said.getvalue()))


def test_of_many_holds_at_once_none_leaves_the_plug_behind(wire: Wire) -> None:
    """10 rounds of 5: each holds or is told who does; what was sent in a hold arrives; the device is as it was."""
    for _ in range(10):
        with ExitStack() as stack:
            holders = [stack.enter_context(child(hold_and_send, wire, number)) for number in range(HOLDERS)]
            reports = [holder.hear() for holder in holders]
            assert all((report["command_status"] is None) == (report["status"] == 125) for report in reports), reports
            held = [number for number, report in enumerate(reports) if report["status"] == 0]
            assert held
            for report in reports:
                assert report["error"] is None or " holds it; " in report["error"], report
            arrived = wire.arrived()
            while len(arrived) < len(held):
                arrived += eventually(wire.arrived, f"{held} arrive, not only {arrived}")
            assert sorted(arrived) == held
            assert [holder.status() for holder in holders] == [0] * HOLDERS
        assert (wire.near.kinds(wire.device), marks(wire.near)) == (["noqueue"], [])


def test_a_plug_that_killed_holds_leave_is_removed_by_the_next(wire: Wire) -> None:
    """All of 5 are killed at random moments: the traffic flows, and one more hold leaves the device as it was."""
    left = 0
    for attempt in range(10):
        chance = random.Random(attempt)
        with ExitStack() as stack:
            holders = [stack.enter_context(child(hold_and_send, wire, number)) for number in range(HOLDERS)]
            eventually(lambda: "plug" in wire.near.kinds(wire.device), "one of them has made a plug")
            for holder in holders:
                time.sleep(chance.uniform(0, 0.002))
                os.kill(holder.pid, signal.SIGKILL)
        eventually(lambda: marks(wire.near) == [], "nobody holds")
        left += wire.near.kinds(wire.device) == ["plug"]
        with child(hold_and_send, wire, 99) as last:
            report = last.hear()
            assert (report["status"], report["error"], report["temporary"]) == (0, None, True)
        assert wire.near.kinds(wire.device) == ["noqueue"]
    wire.arrived()
    expect_flow(wire, [])
    assert left, "no kill has left a plug: the moments are badly chosen"


def test_who_made_the_plug_may_leave_before_the_others(wire: Wire) -> None:
    """The one who made it leaves while another one holds: it says that the plug stays, and the other one removes it."""
    cli = Cli(wire.near)
    first = cli.holding(wire.device)
    (shown,) = wire.near.qdiscs(wire.device)
    assert shown["handle"] == TEMPORARY
    with libnlplug.attach(wire.device, netns=wire.near) as second:
        assert (second.temporary, second.created) == (True, False)
        let_end(first)
        assert wire.near.kinds(wire.device) == ["noqueue"]
    with child(hold_and_send, wire, 0) as third:
        assert third.hear()["status"] == 0
    wire.expect([0])


def stays(device: str) -> str:
    """What is said of a plug that somebody else holds."""
    return f"a 'libnlplug hold' removes the plug at its end; after another hold, 'libnlplug detach {device}' does"


def test_an_adopted_temporary_plug_goes_with_its_last_user(wire: Wire) -> None:
    """A hold that makes the plug, one that begins meanwhile and stays longer; the first one's detach is refused."""
    with child(_makes_and_loses, wire) as maker:
        assert maker.hear() == "made"
        with libnlplug.attach(wire.device, netns=wire.near) as mine, mine.hold():
            numbers = wire.send(3)
            maker.kill(signal.SIGUSR1)
            status, lines = maker.hear()
            assert status == 0
            assert lines.splitlines()[0].endswith(f"holds it; {stays(wire.device)}")
            assert wire.near.kinds(wire.device) == ["plug"]
        expect_flow(wire, numbers)
    assert wire.near.kinds(wire.device) == ["noqueue"]


def _makes_and_loses(this: Child, wire: Wire) -> None:
    """In a process: a hold that has ended, whose plug another one holds before it is removed."""
    setns(wire.near.fileno())
    detach = PlugQdisc.detach

    def when_told(plug: PlugQdisc, **options: float) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        this.say("made")
        signal.sigwait([signal.SIGUSR1])
        detach(plug, **options)

    PlugQdisc.detach = when_told  # type: ignore[method-assign]
    with redirect_stderr(io.StringIO()) as said:
        status = cli_main(["hold", wire.device, "--", "true"])
    this.say([status, said.getvalue()])


def test_a_plug_that_attach_made_stays(wire: Wire, plug: PlugQdisc) -> None:
    """Only what 'hold' has made for itself is temporary."""
    with child(hold_and_send, wire, 0) as holder:
        report = holder.hear()
        assert (report["status"], report["temporary"]) == (0, False)
    wire.expect([0])
    assert wire.near.kinds(wire.device) == ["plug"]


def test_at_a_class_the_handle_tells_too(wire: Wire) -> None:
    """7000: and the class's minor number, and the class has its own queue again afterwards."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    before = wire.near.kinds(wire.device)
    process = Cli(wire.near).holding(wire.device, "--parent", "1:2")
    assert wire.near.qdisc(wire.device, "1:2")["handle"] == "7002:"
    assert f"run 'libnlplug attach {wire.device} --parent 1:2' before" in let_end(process).err
    assert wire.near.kinds(wire.device) == before
