# SPDX-License-Identifier: GPL-2.0-or-later
"""The ticket server is killed, and its successor goes on from the last checkpoint; the client compares its tickets."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from pathlib import Path

import pytest
from tickets import load, save

from libnlplug import PlugQdisc

PORT = 4000
PATIENCE = 20.0


class Life:
    """One life of the server, from its first ticket to its death."""

    def __init__(self, plug_net, client: socket.socket, file: Path, *options: str) -> None:
        self._net, self._client, self._file = plug_net, client, file
        program = Path(__file__).parent / "tickets.py"
        words = [plug_net.device, plug_net.near_ip, str(PORT), str(file), *options]
        self._process = plug_net.near.popen([sys.executable, str(program), *words])
        self.tickets: list[int] = []

    def request(self) -> None:
        self._client.sendto(b"please", (self._net.near_ip, PORT))

    def receive(self) -> None:
        """Take the tickets that have arrived."""
        while True:
            try:
                self.tickets.append(int(self._client.recv(100)))
            except (BlockingIOError, ConnectionRefusedError):
                return

    def go_on(self, until, why: str) -> None:
        """Ask for tickets, one every few milliseconds, until the condition is true."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline, why
            self.request()
            time.sleep(0.003)
            self.receive()

    def to_the_middle_of_an_epoch(self) -> None:
        """Go on until some replies of an epoch that is not saved yet wait in the plug."""
        saved = load(self._file)
        self.go_on(lambda: max(self.tickets, default=0) >= load(self._file) > saved, "no epoch ends")
        plug = PlugQdisc.open(self._net.device, netns=self._net.near)
        self.go_on(lambda: plug.stats().qlen >= 3, "no reply is held")
        plug.close()

    def end(self) -> None:
        """Kill it, and take all that its death lets go."""
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + PATIENCE
        while self._holder() is not None:
            assert time.monotonic() < deadline, "the guard does not end the hold"
        time.sleep(0.1)  # for what should not come
        self.receive()

    def _holder(self) -> object:
        try:
            plug = PlugQdisc.open(self._net.device, netns=self._net.near)
        except FileNotFoundError:
            return None
        holder = plug.holder()
        plug.close()
        return holder


@pytest.fixture
def live(plug_net, tmp_path):
    """Start one more life of the server."""
    client = plug_net.far.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((plug_net.far_ip, 0))
    client.setblocking(False)
    return lambda *options: Life(plug_net, client, tmp_path / "number", *options)


def test_no_ticket_is_given_out_twice(live, tmp_path) -> None:
    """Killed in the middle of an epoch, and at random moments: what the client has seen was saved before it left."""
    seen: list[int] = []
    for number in range(4):
        life = live("--epoch", "0.4" if number % 2 else "0.025")
        life.go_on(lambda life=life: len(life.tickets) >= 5, "no ticket comes")
        if number % 2:
            life.to_the_middle_of_an_epoch()
        else:
            enough = time.monotonic() + random.uniform(0, 0.2)
            life.go_on(lambda enough=enough: time.monotonic() > enough, "")
        life.end()
        seen += life.tickets
        assert max(seen) <= load(tmp_path / "number")
    print(f"\n{len(seen)} tickets in 4 lives, the last is {max(seen)}, {len(seen) - len(set(seen))} twice")
    assert len(seen) == len(set(seen))


def test_what_is_saved_is_on_the_disk(tmp_path, monkeypatch) -> None:
    """The file's content is synced before it has the name, and the folder after."""
    synced = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), file.exists())))
    file = tmp_path / "number"
    save(file, 7)
    assert synced == [(f"{file}.new", False), (str(tmp_path), True)]
    assert load(file) == 7


def test_more_replies_than_the_socket_has_room_for(live) -> None:
    """They wait for the end of their epoch and are no error: the server goes on."""
    life = live("--epoch", "0.4")
    life.go_on(lambda: life.tickets, "no ticket comes")
    for _ in range(250):  # a socket has room for 140 or so
        life.request()
    life.go_on(lambda: len(life.tickets) >= 250, "no more tickets come")
    assert len(life.tickets) == len(set(life.tickets))
    life.end()


def test_a_guard_that_releases_would_not_do(live, tmp_path) -> None:
    """With on_death="release", as for a proxy, the client is told tickets that the successor will give out again."""
    life = live("--epoch", "0.4", "--on-death", "release")
    life.to_the_middle_of_an_epoch()
    life.end()
    assert max(life.tickets) > load(tmp_path / "number")
