# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug as a contestant: waits for commands, as the C programs do, and answers each with 0.

worker.py [MEGABYTES]      with so much memory in use besides

attach DEV                 make the plug, released              detach        remove the last one
toggle N                   buffer and release_indefinite        port N        the same by the drop-in port
stats N    hold N          the plug's counters; a hold          first DEV     open the plug, hold once, close
group DEV...               attach to all, make a group          buffer  release  of the group
fifo DEV HANDLE            use the pfifo that is there in a plug's place: toggles change its limit to 100 and 101
memory                     answers with the resident KiB, the descriptors and the zombies
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import time

import libnlplug
from libnlplug import plug_qdisc
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.messages import attribute, message, parse_handle
from libnlplug.netlink.route_socket import RouteSocket

LIMIT = 1_000_000


def toggle(buffer, release, times: int) -> None:
    for _ in range(times):
        buffer()
        release()


def fifo(device: str, handle: str) -> libnlplug.PlugQdisc:
    """A PlugQdisc whose messages are a pfifo's: for a kernel without plugs."""
    number = parse_handle(handle)
    plug = libnlplug.PlugQdisc(RouteSocket(), device, socket.if_nametoindex(device), lib.TC_H_ROOT, number)
    for name, limit in (("_buffer", 100), ("_release_indefinite", 101)):
        attributes = attribute(lib.TCA_KIND, b"pfifo\0") + attribute(lib.TCA_OPTIONS, limit.to_bytes(4, sys.byteorder))
        header = struct.pack("=BxxxiIII", 0, plug.place.ifindex, number, lib.TC_H_ROOT, 0)  # struct tcmsg
        setattr(plug, name, message(lib.RTM_NEWQDISC, 0, header + attributes))
    return plug


def memory() -> str:
    with open("/proc/self/status") as lines:
        resident = next(line.split()[1] for line in lines if line.startswith("VmRSS"))
    return f"{resident} {len(os.listdir('/proc/self/fd'))} {zombies()}"


def zombies() -> int:
    """How many processes nobody waits for; who has just ended is waited for soon."""
    deadline = time.monotonic() + 5
    while True:
        count = 0
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    count += stat.read().rpartition(")")[2].split()[0] == "Z"
            except (FileNotFoundError, ProcessLookupError):
                pass
        if not count or time.monotonic() > deadline:
            return count
        time.sleep(0.01)


def main() -> None:
    filler = bytearray(b"\1") * (int(sys.argv[1]) << 20) if len(sys.argv) > 1 else b""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    plug = group = device = None
    print(0, flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        answer = "0"
        if word == "attach":
            (device,) = rest
            plug = libnlplug.attach(device, limit=LIMIT)
        elif word == "fifo":
            plug = fifo(*rest)
        elif word == "detach":
            plug.detach()
            plug.close()
        elif word == "toggle":
            toggle(plug.buffer, plug.release_indefinite, int(rest[0]))
        elif word == "port":
            if plug_qdisc.plug_qdisc_release_indefinite_buffer() == -1:  # not attached yet
                answer = str(plug_qdisc.plug_qdisc_attach(device, "root", "504c:", LIMIT))
            toggle(plug_qdisc.plug_qdisc_plug_buffer, plug_qdisc.plug_qdisc_release_indefinite_buffer, int(rest[0]))
        elif word == "stats":
            for _ in range(int(rest[0])):
                plug.stats()
        elif word == "hold":
            for _ in range(int(rest[0])):
                with plug.hold(timeout=5):
                    pass
        elif word == "first":
            with libnlplug.PlugQdisc.open(rest[0]) as own, own.hold(timeout=5):
                pass
        elif word == "open":
            libnlplug.PlugQdisc.open(rest[0]).close()
        elif word == "group":
            group = libnlplug.PlugGroup([libnlplug.attach(name, limit=LIMIT) for name in rest])
        elif word == "buffer":
            group.buffer()
        elif word == "release":
            group.release_indefinite()
        elif word == "memory":
            answer = memory()
        else:
            raise ValueError(line)
        print(answer, flush=True)
    assert filler is not None


if __name__ == "__main__":
    main()
