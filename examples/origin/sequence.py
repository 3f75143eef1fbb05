# SPDX-License-Identifier: GPL-2.0-or-later
"""The sequence that the README of haproxy's plug_qdisc.c describes, step by step, with the port.

    python sequence.py [DEVICE]          as root, best in a network namespace of its own: it holds what is on DEVICE

The C has to be linked with four libraries (-lnl-genl-3 -lnl-route-3 -lnl-3 -lnl-cli-3). Here an import does it, and
libnl-cli, which may end the process, is not used.
"""

from __future__ import annotations

import socket
import sys

from libnlplug.plug_qdisc import (
    plug_qdisc_attach,
    plug_qdisc_plug_buffer,
    plug_qdisc_release_indefinite_buffer,
)

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "lo"


class Application:
    """What is to be tested: here, a program that sends datagrams to itself through lo."""

    def __init__(self) -> None:
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.bind(("127.0.0.1", 0))
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, text: str) -> None:
        self._sender.sendto(text.encode(), self._receiver.getsockname())

    def received(self, patience: float) -> str:
        self._receiver.settimeout(patience)
        try:
            return self._receiver.recv(100).decode()
        except socket.timeout:  # TimeoutError since Python 3.10
            return "nothing"


def step(status: int, what: str) -> None:
    """The functions of the C tell by a number whether they could: 0, or less."""
    if status < 0:
        sys.exit(f"{what} failed")
    print(what)


# First, among what your program does when it starts: have a plug on the device. Where there is none it is made; where
# there is one it is used. Either way it is released, so that nothing that an earlier run has left held is in your way.
# The parent is the device's root, the plug's handle is 1:, and it may hold 32768 bytes.
step(plug_qdisc_attach(DEVICE, "root", "1:", 32768), "attach")
step(plug_qdisc_attach(DEVICE, "root", "1:", 32768), "attach again: the same plug")
application = Application()
application.send("before")
print("   received:", application.received(2.0))

# Then, at the moment that matters: what comes to the plug stays there, and does not reach the application.
step(plug_qdisc_plug_buffer(), "buffer")
application.send("while it holds")
print("   received:", application.received(0.2))

# Last, when the rest of the program has got where the bug needs it: what was held goes, and what comes later passes.
step(plug_qdisc_release_indefinite_buffer(), "release_indefinite")
print("   received:", application.received(2.0))
application.send("after")
print("   received:", application.received(2.0))
