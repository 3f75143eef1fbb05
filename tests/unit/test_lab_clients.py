# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's clients count every loss, or say that they cannot count."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from lab import clients

NO_SERVER = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nnone"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch):
    """What clients are answered, or which error connecting ends with; they stay in the namespace they are in."""

    def serve(answer: bytes | OSError) -> None:
        ends: list[socket.socket] = []

        def connect(**_: int) -> socket.socket:
            if isinstance(answer, OSError):
                raise answer
            mine, other = socket.socketpair()
            ends.append(other)  # open until the test is over
            other.sendall(answer)
            return mine

        monkeypatch.setattr(clients, "connect", connect)

    monkeypatch.setattr(clients, "enter", lambda _: None)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    return serve


@pytest.mark.parametrize("kind", ["short", "long"])
def test_an_error_of_the_proxy_is_a_loss(served, kind: str) -> None:
    """A client that a proxy answers with 503 is lost, although it got an answer."""
    served(NO_SERVER)
    population = clients.Population(pause=0.001)
    population._over.set()
    getattr(population, f"_{kind}")(clients.random.Random(1))
    assert clients.in_words(population.lost(kind)) == "1 turned away"


def test_a_client_that_breaks_ends_the_run(served) -> None:
    """An end that has no word, such as a host that cannot be reached, is raised: it is not left out of the count."""
    served(OSError(errno.EHOSTUNREACH, "no route"))
    population = clients.Population(short=1, pause=0.000001)
    with pytest.raises(OSError, match="no route"), population:
        population._threads[0].join(timeout=10)


def test_those_that_stay_are_as_patient_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """README.md's patience is that of established connections too."""
    mine, other = socket.socketpair()
    with mine, other:
        other.sendall(NO_SERVER)
        established = clients.Established.__new__(clients.Established)
        established.sockets = [mine]
        monkeypatch.setattr(clients, "PATIENCE", 0.0)
        assert established.ask() == ["timed out"]
