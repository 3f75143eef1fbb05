# SPDX-License-Identifier: GPL-2.0-or-later
"""The clients: many short connections, some that stay, and how each one ended.

How a connection ends is said in a word or two: ok, refused, reset, cut short, timed out, turned away. Whoever calls
must have entered the client's namespace; the threads of a population do that by themselves.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from net import PORT, VIP, enter

PATIENCE = 8.0  # seconds for one connection
LOST = ("refused", "reset", "cut short", "timed out", "turned away")
RST_ON_CLOSE = struct.pack("ii", 1, 0)  # so that the same port can be used again at once
STAYS = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"
CLOSES = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"


class Cut(Exception):
    """The server closed before its answer was complete."""


class TurnedAway(Exception):
    """The answer is not what was asked for: a proxy's 503, say."""


BAD = (OSError, Cut, TurnedAway)


def word_for(error: Exception) -> str:
    """How a connection ended that did not end well."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "reset"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, Cut):
        return "cut short"
    if isinstance(error, TurnedAway):
        return "turned away"
    raise error


def connect(source_port: int = 0, port: int = PORT) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if source_port:  # else the kernel gives a port that was not used lately: directors remember connections
            sock.bind(("", source_port))
        sock.connect((VIP, port))
    except BaseException:
        sock.close()
        raise
    return sock


def answer(sock: socket.socket) -> str:
    """The body of one answer: the name of who gave it."""
    text = b""
    while True:
        head, end, body = text.partition(b"\r\n\r\n")
        if end:
            if head.split()[1] != b"200":
                raise TurnedAway(head.partition(b"\r\n")[0].decode())
            (length,) = (line.split()[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            if len(body) >= int(length):
                return body.decode().strip()
        part = sock.recv(4096)
        if not part:
            raise Cut
        text += part


def who_answers(source_port: int) -> str:
    """Make one connection from this port and end it with a reset: the name of who answered."""
    with connect(source_port) as sock:
        sock.sendall(STAYS)
        name = answer(sock)
        reset(sock)
    return name


def reset(sock: socket.socket) -> None:
    """Close with a reset: nothing is left that the kernel would send again."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    sock.close()


class Established:
    """Connections that have been answered once and stay."""

    def __init__(self, count: int) -> None:
        self.sockets = [connect() for _ in range(count)]
        self.ports = [sock.getsockname()[1] for sock in self.sockets]
        ended = self.ask()
        if set(ended) != {"ok"}:
            raise RuntimeError(f"of {count} connections some do not work: {Counter(ended)}")

    def ask(self) -> list[str]:
        """Send a request on each of them, in any order, and wait for all the answers: how each has fared."""
        ended = ["timed out"] * len(self.sockets)
        waiting = {}
        for at in random.sample(range(len(self.sockets)), len(self.sockets)):
            sock = self.sockets[at]
            try:
                sock.sendall(STAYS)
                waiting[sock] = at
            except OSError as error:
                ended[at] = word_for(error)
        deadline = time.monotonic() + PATIENCE
        while waiting and (left := deadline - time.monotonic()) > 0:
            for sock in select.select(list(waiting), [], [], left)[0]:
                at = waiting.pop(sock)
                try:
                    answer(sock)
                    ended[at] = "ok"
                except BAD as error:
                    ended[at] = word_for(error)
        return ended

    def close(self) -> None:
        for sock in self.sockets:
            reset(sock)


class One(NamedTuple):
    """A connection of a population."""

    kind: str  # short: connect, one request, its answer, close; long: one request after the other
    ended: str
    seconds: float  # for a short one from connect() to the end; for a long one the longest wait for an answer
    by: str  # who answered last


class Population:
    """Clients that come and go until the block ends; ``done`` has each connection then."""

    def __init__(self, short: int = 8, long: int = 0, pause: float = 0.1, port: int = PORT, seed: int = 1) -> None:
        self.done: list[One] = []
        self._pause, self._port = pause, port
        self._over = threading.Event()
        self._broken: list[Exception] = []
        kinds = [self._short] * short + [self._long] * long
        self._threads = [
            threading.Thread(target=self._live, args=(kind, random.Random(seed * 1000 + number)))
            for number, kind in enumerate(kinds)
        ]

    def __enter__(self) -> Population:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._broken:  # a client that is gone counts nothing more: no figure is worth anything
            raise self._broken[0]

    def _live(self, kind, chance: random.Random) -> None:
        try:
            self._come_and_go(kind, chance)
        except Exception as error:
            self._broken.append(error)

    def _come_and_go(self, kind, chance: random.Random) -> None:
        enter("client")
        with suppress(PermissionError):  # before everything else: real clients have processors of their own
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while not self._over.wait(chance.expovariate(1 / self._pause)):
            kind(chance)

    def _short(self, _chance: random.Random) -> None:
        begun, by = time.monotonic(), ""
        try:
            with connect(port=self._port) as sock:
                sock.sendall(CLOSES)
                by = answer(sock)
            ended = "ok"
        except BAD as error:
            ended = word_for(error)
        self.done.append(One("short", ended, time.monotonic() - begun, by))

    def _long(self, chance: random.Random) -> None:
        longest, by, begun = 0.0, "", time.monotonic()
        try:
            with connect(port=self._port) as sock:
                while True:
                    begun = time.monotonic()
                    sock.sendall(STAYS)
                    by = answer(sock)
                    longest = max(longest, time.monotonic() - begun)
                    if self._over.wait(chance.expovariate(1 / self._pause)):
                        break
            ended = "ok"
        except BAD as error:
            ended, longest = word_for(error), max(longest, time.monotonic() - begun)
        self.done.append(One("long", ended, longest, by))

    def wait_for_servers(self, count: int) -> None:
        """Wait until so many different servers have answered."""
        deadline = time.monotonic() + PATIENCE
        while len({one.by for one in self.done if one.by}) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the clients wait in vain for an answer of server {count}")
            time.sleep(0.01)

    def lost(self, kind: str) -> Counter[str]:
        """How many connections of this kind were lost, by how."""
        return Counter(one.ended for one in self.done if one.kind == kind and one.ended != "ok")

    def count(self, kind: str) -> int:
        """How many connections of this kind there were, lost ones included."""
        return sum(one.kind == kind for one in self.done)

    def worst(self, kind: str) -> float:
        """The longest wait of a connection that was not lost, in seconds."""
        return max((one.seconds for one in self.done if one.kind == kind and one.ended == "ok"), default=0.0)


def in_words(lost: Counter[str]) -> str:
    """``3 refused, 1 reset``; ``0`` where nothing was lost."""
    return ", ".join(f"{lost[word]} {word}" for word in LOST if lost[word]) or "0"
