# SPDX-License-Identifier: GPL-2.0-or-later
"""A server whose accept queue is never empty: it serves one connection at a time, and slowly.

    queueing.py          reads orders from standard input, and says when each is done

    start ADDRESS PORT [save-syn]    a new process listens, beside the others (SO_REUSEPORT); says its number
    stop drain|now                   the oldest process ends: it answers everybody in its accept queue first, or closes
                                     the queue at once with whoever is in it; says when it has ended

With save-syn, a process asks the kernel for each connection's SYN (TCP_SAVE_SYN), as servers do that look at its
options, and does not serve without one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import suppress

WORK = 0.01  # seconds for each answer
TCP_SAVE_SYN, TCP_SAVED_SYN = 27, 28  # linux/tcp.h
DRAIN, NOW = signal.SIGHUP, signal.SIGTERM


def serve(listener: socket.socket, saves: bool) -> None:
    queue: list[socket.socket] = []
    while (order := ordered()) is None:
        with suppress(TimeoutError):
            answer(listener.accept()[0], saves)
    listener.setblocking(False)
    with suppress(BlockingIOError):
        while order == DRAIN:
            queue.append(listener.accept()[0])
    for connection in queue:
        answer(connection, saves)
    listener.close()


def ordered() -> int | None:
    """The order that has come, if any."""
    order = signal.sigtimedwait({DRAIN, NOW}, 0)
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


def start(address: str, port: str, *save_syn: str) -> int:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if save_syn:
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
    listener.bind((address, int(port)))
    listener.settimeout(0.05)
    listener.listen(1024)
    pid = os.fork()
    if not pid:
        serve(listener, bool(save_syn))
        os._exit(0)
    listener.close()
    return pid


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {DRAIN, NOW})
    processes: list[int] = []
    for line in sys.stdin:
        verb, *words = line.split()
        if verb == "start":
            processes.append(start(*words))
            print(processes[-1], flush=True)
        else:
            os.kill(processes[0], DRAIN if words == ["drain"] else NOW)
            os.waitpid(processes[0], 0)
            print(processes.pop(0), flush=True)
    for pid in processes:
        os.kill(pid, NOW)


if __name__ == "__main__":
    main()
