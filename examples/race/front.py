# SPDX-License-Identifier: GPL-2.0-or-later
"""A server with an ordering bug: an answer that comes too late is given to the next client.

    client  --"bob"-->  front  --"bob"-->  backend
            <-- mail --        <-- mail --

The front keeps one connection to the backend and takes for granted that answers come in the order of its questions. So
they do, until a question takes longer than the front's patience. It gives up, and the answer is still to come: the next
question on this connection gets it, and every later one gets its predecessor's. (redis-py had this bug with cancelled
commands: CVE-2023-28858.)
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

PATIENCE = 0.4  # seconds for the backend
TRY_AGAIN = "try again"


def read_line(connection: socket.socket) -> str:
    """The next line, without its end; "" where there is none any more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return ""
        line += byte
    return line.decode().rstrip("\n")


def write_line(connection: socket.socket, line: str) -> None:
    connection.sendall(line.encode() + b"\n")


class Server(threading.Thread):
    """Answers each line of each client that connects, one client after the other, until close()."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(daemon=True)
        self._listener = listener
        listener.listen()
        self.address = listener.getsockname()
        self.start()

    def answer(self, line: str) -> str:
        raise NotImplementedError

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, suppress(ConnectionError):
                while line := read_line(client):
                    write_line(client, self.answer(line))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.join()
        self._listener.close()


class Backend(Server):
    """Has everybody's mail."""

    def answer(self, line: str) -> str:
        return f"mail of {line}"


class Front(Server):
    """Passes questions on, over a ``connection`` to the backend that it makes when it has none."""

    def __init__(self, listener: socket.socket, connect, *, fixed: bool) -> None:
        self._connect = connect
        self._fixed = fixed
        self._backend: socket.socket | None = None
        super().__init__(listener)

    def answer(self, line: str) -> str:
        if self._backend is None:
            self._backend = self._connect()
            self._backend.settimeout(PATIENCE)
        try:
            write_line(self._backend, line)
            return read_line(self._backend)
        except socket.timeout:  # TimeoutError since Python 3.10
            if self._fixed:  # a connection whose answer is still to come is of no use to anybody
                self._backend.close()
                self._backend = None
            return TRY_AGAIN

    def close(self) -> None:
        super().close()
        if self._backend is not None:
            self._backend.close()
