# SPDX-License-Identifier: GPL-2.0-or-later
"""An interrupt in the middle of a plain buffer(): what was adopted does not go on holding."""

from __future__ import annotations

import random
import signal

import pytest

from libnlplug import PlugQdisc
from tests.support.netlab import Wire

ROUNDS = 400


class Interrupt(BaseException):
    """What the signal handler raises, wherever the program is."""


@pytest.mark.parametrize("action", ["buffer", "release_one"])
def test_an_interrupted_action_does_not_leave_an_adopted_plug_holding(wire: Wire, plug: PlugQdisc, action: str) -> None:
    """Whenever a signal handler raises around buffer() or release_one(), leaving ``with`` releases: packets flow."""

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(ROUNDS):
            plug.release_indefinite()
            if action == "release_one":
                plug.buffer()
            with pytest.raises(Interrupt), PlugQdisc.open(wire.device, netns=wire.near) as adopted:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(20e-6, 400e-6))
                getattr(adopted, action)()
                while True:  # until the interrupt, so that it never comes in the middle of leaving
                    pass
            if action == "release_one" and adopted.last_action is None:  # it was not sent, so this was not its to end
                plug.release_indefinite()
            wire.expect(wire.send(1))
    finally:
        signal.signal(signal.SIGALRM, before)
