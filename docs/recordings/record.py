# SPDX-License-Identifier: GPL-2.0-or-later
"""Record 'libnlplug show --watch' during a hold: tools/testkernel/with-plug .venv/bin/python docs/recordings/record.py

A program sends ten packets a second through veth0, and 'libnlplug hold' holds them for three seconds. What show draws
on a terminal, one look over the other, is written to show-watch.txt beside this file, one look below the other.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
import time
from pathlib import Path

import libnlplug
from libnlplug.pytest_plugin import PlugNet

COLUMNS = 100
COMMAND = [sys.executable, "-m", "libnlplug"]


def send(net: PlugNet, until: threading.Event) -> None:
    source = net.near.socket(2, 2)  # AF_INET, SOCK_DGRAM
    while not until.wait(0.1):
        source.sendto(bytes(1000), (net.far_ip, 9))


def record() -> str:
    """What a terminal of COLUMNS columns is sent, from before the hold until after it."""
    net = PlugNet()
    plug = libnlplug.attach(net.device, netns=net.near)
    over = threading.Event()
    sender = threading.Thread(target=send, args=(net, over))
    sender.start()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    try:
        net.near.popen([*COMMAND, "show", net.device, "--watch"], stdout=theirs)
        text, hold, begin = "", None, time.monotonic()
        while (now := time.monotonic() - begin) < 8:
            if hold is None and now > 1.8:
                words = ["hold", net.device, "--limit", "48k", "--timeout", "10", "--", "sleep", "3"]
                hold = net.near.popen([*COMMAND, *words])
            if select.select([ours], [], [], 0.1)[0]:
                text += os.read(ours, 4096).decode()
        return text
    finally:
        over.set()
        sender.join()
        plug.close()
        net.close()


def main() -> None:
    _before, *looks = record().split("\x1b[H")
    lines = ["$ libnlplug show veth0 --watch     (each look replaces the one before it)"]
    for look in looks:
        lines += ["", re.sub(r"\x1b\[[?\d]*[A-Za-z]|\r", "", look).rstrip("\n")]
    (Path(__file__).parent / "show-watch.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
