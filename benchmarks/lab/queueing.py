# SPDX-License-Identifier: GPL-2.0-or-later
"""A server whose accept queue is never empty: it serves one connection at a time, and slowly.

    queueing.py          reads orders from standard input, and says when each is done

    start ADDRESS PORT [save-syn|steered]    a new process listens, beside the others (SO_REUSEPORT); says its number
    stop HOW                                 the oldest process ends; says when it has ended

HOW:

    drain      accepts all that are in the accept queue, answers them, and closes
    eagain     accepts until accept() says EAGAIN, closes, and answers those that it has accepted
    counted    accepts as many as the BPF program has counted, closes, and answers those
    now        closes the accept queue with all that are in it

With save-syn, a process asks the kernel for each connection's SYN (TCP_SAVE_SYN), as servers do that look at its
options, and does not serve without one. With steered, a BPF program (steering.py) gives all new connections to the
oldest process, and to the next one from the moment in which the oldest is told to stop.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from steering import Steering

WORK = 0.01  # seconds for each answer
PATIENCE = 2.0  # seconds for what was counted and does not come
TCP_SAVE_SYN, TCP_SAVED_SYN = 27, 28  # linux/tcp.h
ORDERS = {"drain": signal.SIGHUP, "eagain": signal.SIGUSR1, "counted": signal.SIGUSR2, "now": signal.SIGTERM}


def serve(listener: socket.socket, saves: bool, counted: Callable[[], int]) -> None:
    accepted = 0
    while (order := ordered()) is None:
        with suppress(TimeoutError):
            connection = listener.accept()[0]
            accepted += 1
            answer(connection, saves)
    queue: list[socket.socket] = []
    deadline = time.monotonic() + PATIENCE
    listener.setblocking(False)
    while order != ORDERS["now"]:
        try:
            queue.append(listener.accept()[0])
        except BlockingIOError:
            waits = order == ORDERS["counted"] and accepted + len(queue) < counted()
            if not waits or time.monotonic() > deadline:
                break
            time.sleep(0.001)
    if order != ORDERS["drain"]:
        listener.close()
    for connection in queue:
        answer(connection, saves)
    listener.close()


def ordered() -> int | None:
    """The order that has come, if any."""
    order = signal.sigtimedwait(set(ORDERS.values()), 0)
    return order and order.si_signo


def answer(connection: socket.socket, saves: bool) -> None:
    with connection, suppress(OSError):
        if saves and not connection.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 512):
            return
        connection.settimeout(1.0)
        connection.recv(4096)
        time.sleep(WORK)
        body = f"{os.getpid()}\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall((head + body).encode())


class Server:
    """The processes that listen, the oldest first."""

    def __init__(self) -> None:
        self._processes: list[int] = []
        self._steering: Steering | None = None
        self._oldest = 0  # how many processes have ended: the number of the oldest one's counter

    def start(self, address: str, port: str, *options: str) -> int:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if "save-syn" in options:
            listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        listener.bind((address, int(port)))
        listener.settimeout(0.05)
        if "steered" in options and self._steering is None:
            self._steering = Steering()
            self._steering.choose(0, 0)
            self._steering.attach(listener)
        listener.listen(1024)
        steering, counter = self._steering, self._oldest + len(self._processes)
        pid = os.fork()
        if not pid:
            serve(listener, "save-syn" in options, lambda: steering.count(counter) if steering else 0)
            os._exit(0)
        listener.close()
        self._processes.append(pid)
        return pid

    def stop(self, how: str) -> int:
        if self._steering:
            self._steering.choose(1, self._oldest + 1)
        pid = self._processes.pop(0)
        os.kill(pid, ORDERS[how])
        os.waitpid(pid, 0)
        self._oldest += 1
        if self._steering:
            self._steering.choose(0, self._oldest)  # the kernel has moved the other listener to the free place
        return pid

    def end(self) -> None:
        for pid in self._processes:
            os.kill(pid, ORDERS["now"])


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(ORDERS.values()))
    server = Server()
    for line in sys.stdin:
        verb, *words = line.split()
        print(server.start(*words) if verb == "start" else server.stop(*words), flush=True)
    server.end()


if __name__ == "__main__":
    main()
