# SPDX-License-Identifier: GPL-2.0-or-later
"""What passes a namespace's device, packet by packet; and servers that say what arrived at them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from net import PORT, VIP, enter, inside

ETH_P_ALL, ETH_P_IP, SO_RCVBUFFORCE = 0x0003, 0x0800, 33


class Packet(NamedTuple):
    """An IPv4 packet."""

    protocol: int
    source: str
    to: str
    number: int  # that all fragments of a datagram have
    fragment: bool
    length: int
    port: int  # the source's; -1 in later fragments, which have none


class Watch:
    """The IPv4 packets that arrive at a namespace's eth0 from now on, before tc drops or redirects some."""

    def __init__(self, place: str) -> None:
        self._sock = inside(place, socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._sock.setblocking(False)

    def packets(self) -> list[Packet]:
        """Those that have arrived since the last call."""
        found = []
        with suppress(BlockingIOError):
            while True:
                data, (device, protocol, kind, *_) = self._sock.recvfrom(65535)
                if (device, protocol) == ("eth0", ETH_P_IP) and kind != socket.PACKET_OUTGOING:
                    found.append(packet(data))
        return found

    def close(self) -> None:
        self._sock.close()


def packet(data: bytes) -> Packet:
    length, number, fragment = struct.unpack("!HHH", data[2:8])
    source, to = (socket.inet_ntoa(data[at : at + 4]) for at in (12, 16))
    begin = 4 * (data[0] & 0xF)
    port = -1 if fragment & 0x1FFF else int.from_bytes(data[begin : begin + 2], "big")
    return Packet(data[9], source, to, number, bool(fragment & 0x3FFF), length, port)


@contextmanager
def sinks(names: list[str]) -> Iterator[None]:
    """On each of these backends, a server that answers with its name and how many bytes it got.

    By UDP it answers each datagram, by TCP each connection when the client has sent all.
    """
    over = threading.Event()
    threads = [threading.Thread(target=serve, args=(name, over)) for name in names for serve in (datagrams, uploads)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def datagrams(name: str, over: threading.Event) -> None:
    enter(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)  # room for all that come at once
        sock.bind((VIP, PORT))
        sock.settimeout(0.1)
        while not over.is_set():
            with suppress(TimeoutError):
                data, sender = sock.recvfrom(65535)
                sock.sendto(f"{name} {len(data)}".encode(), sender)


def uploads(name: str, over: threading.Event) -> None:
    enter(name)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((VIP, PORT))
        listener.listen(64)
        listener.settimeout(0.1)
        while not over.is_set():
            with suppress(TimeoutError):
                threading.Thread(target=upload, args=(listener.accept()[0], name), daemon=True).start()


def upload(sock: socket.socket, name: str) -> None:
    with sock, suppress(OSError):
        sock.settimeout(10)
        size = 0
        while data := sock.recv(65536):
            size += len(data)
        sock.sendall(f"{name} {size}".encode())
