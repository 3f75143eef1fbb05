# SPDX-License-Identifier: GPL-2.0-or-later
"""A server of numbered tickets that checkpoints: no ticket is given out twice, also when it is killed.

    requests  -->  |------ epoch N ------|------ epoch N+1 ------|
                   replies wait in the plug     ...they leave
                                         ^ buffer, save, release_one

The last number is saved at the end of each epoch, and the replies of an epoch leave only when it is saved. Killed at
any moment, the server has promised nothing that its successor does not know: the guard deletes the plug with what it
holds. The protocol is UDP. With TCP the kernel, which outlives this process, would send the lost replies again, unless
each connection has SO_LINGER with a time of 0.

    tickets.py DEVICE ADDRESS PORT FILE [--epoch SECONDS] [--on-death drop|release]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
import traceback
from pathlib import Path

import libnlplug


def load(file: Path) -> int:
    return int(file.read_text()) if file.exists() else 0


def save(file: Path, number: int) -> None:
    """After this the number is safe: written, on the disk, and in one step."""
    new = file.with_suffix(".new")
    with open(new, "w") as out:
        out.write(str(number))
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)  # the new name is on the disk too
    os.close(folder)


def serve(requests: socket.socket, number: int, until: float) -> int:
    """Answer each request with the next number, until this moment; the last number."""
    while (left := until - time.monotonic()) > 0:
        requests.settimeout(left)
        try:
            _, client = requests.recvfrom(100)
            number += 1
            requests.sendto(str(number).encode(), client)
        except socket.timeout:  # no request any more, or no room in the socket: the held replies are still in it
            break
    return number


def run(plug: libnlplug.PlugQdisc, requests: socket.socket, file: Path, epoch: float) -> None:
    number = load(file)
    while True:
        number = serve(requests, number, time.monotonic() + epoch)
        plug.buffer()  # what is sent from now on belongs to the next epoch
        save(file, number)
        plug.release_one()  # the epoch that is saved may leave. After every buffer, before the next one


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--epoch", type=float, default=0.025)
    parser.add_argument("--on-death", default="drop")
    args = parser.parse_args()
    requests = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    requests.bind((args.address, args.port))
    with libnlplug.attach(args.device, limit=32 << 20) as plug, plug.hold(on_death=args.on_death):
        try:
            run(plug, requests, args.file, args.epoch)
        except BaseException:  # leaving the block would release what is not saved: die instead
            traceback.print_exc()
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
