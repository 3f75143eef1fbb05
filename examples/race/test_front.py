# SPDX-License-Identifier: GPL-2.0-or-later
"""The front's bug, shown at will: its packets are held while it waits for an answer, and let go when it has given up.

    pytest examples/race                                 the bug shows in 10 of 10 runs
    RACE_RUNS=100 pytest -s examples/race                100 of 100, and of 200 without a hold

The backend is far and the front is near, so what the plug holds is the front's question. Its clients are on lo, which
is not held. As a regression test, only the test of the fixed front would stay.
"""

from __future__ import annotations

import os
import socket

import pytest
from front import TRY_AGAIN, Backend, Front, read_line, write_line

RUNS = int(os.environ.get("RACE_RUNS", "10"))


@pytest.fixture
def backend(plug_net):
    listener = plug_net.far.socket()
    listener.bind((plug_net.far_ip, 0))
    server = Backend(listener)
    yield server
    server.close()


@pytest.fixture
def one_run(plug_net, backend):
    """Two clients ask, one after the other; whether the second is given another one's mail."""

    def run(while_alice_asks, *, fixed: bool) -> bool:
        listener = plug_net.near.socket()
        listener.bind(("127.0.0.1", 0))
        front = Front(listener, lambda: plug_net.near.run(socket.create_connection, backend.address), fixed=fixed)

        def ask(name: str) -> str:
            with plug_net.near.run(socket.create_connection, front.address) as connection:
                write_line(connection, name)
                return read_line(connection)

        assert ask("carol") == "mail of carol"  # from here on the front has its connection
        while_alice_asks(ask)
        answer = ask("bob")
        front.close()
        assert answer.startswith("mail of "), answer
        return answer != "mail of bob"

    return run


@pytest.mark.parametrize("fixed", [False, True], ids=["buggy", "fixed"])
def test_when_the_question_is_held(one_run, hold, fixed: bool) -> None:
    """Held until the front has given up, a question makes the buggy front fail every time, the fixed one never."""

    def question_is_late(ask) -> None:
        with hold(timeout=10):
            assert ask("alice") == TRY_AGAIN

    wrong = sum(one_run(question_is_late, fixed=fixed) for _ in range(RUNS))
    print(f"\nheld, {'fixed' if fixed else 'buggy'}: bob got another one's mail in {wrong} of {RUNS} runs")
    assert wrong == (0 if fixed else RUNS)


def test_when_nothing_is_held(one_run) -> None:
    """Left to chance, the bug shows in fewer than 5 % of the runs."""
    wrong = sum(one_run(lambda ask: ask("alice"), fixed=False) for _ in range(2 * RUNS))
    print(f"\nnot held: bob got another one's mail in {wrong} of {2 * RUNS} runs")
    assert wrong < 0.05 * 2 * RUNS
