# SPDX-License-Identifier: GPL-2.0-or-later
"""A population of clients that make short connections: connect, one short request, the response, close, a pause.

    client.py ADDRESS PORT CLIENTS PAUSE SEED OUTPUT

It says 'ready', waits for a line on standard input, and goes on until that ends, or MOST connections were made.

PAUSE is the mean in seconds of a client's pauses (exponential, from SEED). OUTPUT gets a line for each connection: when
it was due (CLOCK_MONOTONIC), its latency since then in seconds, how it ended, and the process that answered. A client
whose connection fails goes on after its pause. RELOAD_PATIENCE in the environment is after how many seconds a client
gives up a connection (10).

This process runs ahead of everything else where it may (SCHED_FIFO): real clients have processors of their own.
"""

from __future__ import annotations

import errno
import heapq
import os
import random
import select
import socket
import sys
import time

MOST = 200_000
PATIENCE = float(os.environ.get("RELOAD_PATIENCE", 10))  # seconds for one connection
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
FAILURES = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EPIPE: "reset"}


class Population:
    """The connections that are under way, and the lines about those that have ended."""

    def __init__(self, address: tuple[str, int], clients: int, pause: float, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rate = 1 / pause
        self.due: list[float] = []  # when each client that pauses goes on, the earliest first
        for _ in range(clients):
            self.pause()
        self.address = address
        self.poll = select.epoll()
        self.under_way: dict[int, list] = {}  # descriptor: socket, when it was due, the response so far or None
        self.lines: list[str] = []

    def pause(self) -> None:
        heapq.heappush(self.due, time.monotonic() + self.chance.expovariate(self.rate))

    def begin(self, due: float) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        fd = sock.fileno()
        self.under_way[fd] = [sock, due, None]
        self.poll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        code = sock.connect_ex(self.address)
        if code not in (0, errno.EINPROGRESS):
            self._end(fd, failure(code))

    def go_on(self, fd: int) -> None:
        """Something has happened: connected, or a part of the response, or a failure."""
        one = self.under_way[fd]
        try:
            if one[2] is None:
                one[0].send(REQUEST)  # or fails as the connecting did
                one[2] = b""
            while part := one[0].recv(4096):
                one[2] += part
        except BlockingIOError:
            return
        except OSError as error:
            self._end(fd, failure(error.errno))
            return
        head, _, body = one[2].partition(b"\r\n\r\n")
        whole = head.startswith((b"HTTP/1.0 200 ", b"HTTP/1.1 200 ")) and body.endswith(b"\n")
        self._end(fd, "ok" if whole else "cut", body.strip().decode() if whole else "")

    def give_up(self, now: float) -> None:
        """End what has taken too long."""
        for fd in [fd for fd, (_, due, _) in self.under_way.items() if now - due > PATIENCE]:
            self._end(fd, "timeout")

    def _end(self, fd: int, how: str, pid: str = "") -> None:
        sock, due, _ = self.under_way.pop(fd)
        sock.close()
        self.lines.append(f"{due:.6f},{time.monotonic() - due:.6f},{how},{pid}\n")
        self.pause()


def failure(code: int | None) -> str:
    """The word for a failure: its own for each kind."""
    return FAILURES.get(code or 0) or errno.errorcode.get(code or 0, "failed").lower()


def main() -> None:
    address, port, clients, pause, seed, output = sys.argv[1:]
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pass
    print("ready", flush=True)
    os.read(0, 16)
    population = Population((address, int(port)), int(clients), float(pause), int(seed))
    population.poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    left, looked = MOST, time.monotonic()
    while left or population.under_way:
        now = time.monotonic()
        while left and population.due and population.due[0] <= now:
            population.begin(heapq.heappop(population.due))
            left -= 1
        wait = max(0.0, population.due[0] - time.monotonic()) if left and population.due else 0.1
        for fd, _ in population.poll.poll(wait):
            if fd in population.under_way:
                population.go_on(fd)
            elif fd == 0:
                left = 0
                population.poll.unregister(0)
        if now - looked > 0.5:
            population.give_up(now)
            looked = now
    with open(output, "w") as file:
        file.writelines(population.lines)


if __name__ == "__main__":
    main()
