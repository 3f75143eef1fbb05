# SPDX-License-Identifier: GPL-2.0-or-later
"""A server with a slow accept loop: it looks at its accept queue every 0.2 s only. Its master restarts it.

    slow_server.py ADDRESS PORT DIRECTORY       start; returns when it listens

DIRECTORY gets the files 'master' and 'pid', of the process that serves, and a fifo 'done', which says so after each
restart. A restart forks a new process, which listens beside the old one (SO_REUSEPORT); then the old one ends, and when
it has ended the master says done. On SIGHUP the old process first accepts and answers everybody in its accept queue:
where new connections still come, some come after that. On SIGUSR1 it closes the queue at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TICK = 0.2  # seconds between two looks at the accept queue
WORK = 0.002  # seconds for each answer
AFTER_ANSWERS, AT_ONCE = signal.SIGHUP, signal.SIGUSR1


def serve(listener: socket.socket) -> None:
    while True:
        order = signal.sigtimedwait({AFTER_ANSWERS, AT_ONCE}, TICK)
        if order is None or order.si_signo == AFTER_ANSWERS:
            for connection in list(waiting(listener)):
                answer(connection)
        if order is not None:
            listener.close()
            return


def waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Everybody who is in the accept queue."""
    while True:
        try:
            yield listener.accept()[0]
        except BlockingIOError:
            return


def answer(connection: socket.socket) -> None:
    try:
        connection.settimeout(1.0)
        connection.recv(4096)
        time.sleep(WORK)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n%d\n" % os.getpid())
    except OSError:
        pass  # the client counts it
    finally:
        connection.close()


def start(address: tuple[str, int]) -> int:
    """A server that listens, in a process of its own; its pid."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    listener.setblocking(False)
    listener.listen(1024)
    pid = os.fork()
    if not pid:
        serve(listener)
        os._exit(0)
    listener.close()
    return pid


def be_master(address: tuple[str, int], directory: Path, pid: int) -> None:
    while True:
        order = signal.sigwait({AFTER_ANSWERS, AT_ONCE})
        old, pid = pid, start(address)
        os.kill(old, order)
        os.waitpid(old, 0)
        (directory / "pid").write_text(f"{pid}\n")
        (directory / "done").write_text("done\n")


def main() -> None:
    address, directory = (sys.argv[1], int(sys.argv[2])), Path(sys.argv[3])
    os.mkfifo(directory / "done")
    signal.pthread_sigmask(signal.SIG_BLOCK, {AFTER_ANSWERS, AT_ONCE})
    ours, theirs = os.pipe()
    master = os.fork()
    if master:
        os.close(theirs)
        sys.exit(None if os.read(ours, 1) else "the server does not listen")
    os.setsid()
    pid = start(address)
    (directory / "master").write_text(f"{os.getpid()}\n")
    (directory / "pid").write_text(f"{pid}\n")
    os.write(theirs, b"!")
    be_master(address, directory, pid)


if __name__ == "__main__":
    main()
