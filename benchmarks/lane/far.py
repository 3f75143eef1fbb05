# SPDX-License-Identifier: GPL-2.0-or-later
"""The other end: echoes or swallows what comes by TCP, and lets UDP come until its socket is full.

    far.py ADDRESS      lines on standard input are commands for ip(8), to be run in its namespace; then it says ready

A TCP connection begins with a byte: e, echo each byte; s, swallow everything and say so with a byte at the end.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys

PORT = 7009
ROOM = 1 << 18  # bytes


def main() -> None:
    lines = "".join(iter(sys.stdin.readline, "\n"))
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
    address = (sys.argv[1], PORT)
    never_read = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    never_read.bind(address)
    listener = socket.create_server(address)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)  # one that grows would grow differently each time
    poller = select.poll()
    for one in (sys.stdin, listener):
        poller.register(one, select.POLLIN)
    print("ready", flush=True)
    echoed: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poller.poll():
            if fd == 0:
                return
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if connection.recv(1) == b"e":
                    echoed[connection.fileno()] = connection
                    poller.register(connection, select.POLLIN)
                else:
                    swallow(connection)
            else:
                data = echoed[fd].recv(64)
                if data:
                    echoed[fd].send(data)
                else:
                    poller.unregister(fd)
                    echoed.pop(fd).close()


def swallow(connection: socket.socket) -> None:
    room = bytearray(ROOM)
    while connection.recv_into(room):
        pass
    connection.sendall(b"!")
    connection.close()


if __name__ == "__main__":
    main()
