# SPDX-License-Identifier: GPL-2.0-or-later
"""What the holder or its guard runs out of."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from libnlplug import GuardUnavailable, PlugQdisc
from libnlplug.guard import client as guard
from tests.faults.flow import Flow, Page, now, opened
from tests.faults.trial import NotTried, flowed, held, need, refusal, refused
from tests.support.hold import Cgroup, become_nobody, guard_for_everyone
from tests.support.netlab import setns


def _use_up_descriptors() -> None:
    while True:
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError:
            return


def no_descriptors(flow: Flow, chance: random.Random) -> float:
    def work(page: Page) -> int:
        plug = opened(flow)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        _use_up_descriptors()
        for number in range(chance.randrange(4)):
            os.close(199 - number)
        return refusal(plug)

    return refused(flow, work)


def no_descriptors_left(flow: Flow, chance: random.Random) -> float:
    """They run out while it holds, and it leaves the block."""

    def work(page: Page) -> int:
        plug = opened(flow)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        page["guard"] = plug.guard().pid
        with plug.hold():
            _use_up_descriptors()
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
            page["phase"] = now()
        return 0

    with held(flow, work) as holder:
        holder.page["note"] = 1
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == 0, f"the release failed: status {holder.status}")
        return flowed(flow, holder, holder.page["phase"])


def no_memory_for_the_guard(flow: Flow, chance: random.Random) -> float:
    """Its address space ends somewhere between its first instruction and its being ready."""
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "guard"
        program.write_text(f"#!/bin/sh\nulimit -v {chance.randrange(64, 800)}\nexec {guard.PATH}\n")
        program.chmod(0o755)

        def work(page: Page) -> int:
            guard.PATH = str(program)
            return refusal(opened(flow))

        return refused(flow, work)


def out_of_memory(flow: Flow, chance: random.Random, *, group: bool = False) -> float:
    """The kernel's OOM killer ends the holder, whose cgroup is full."""
    try:
        cgroup = Cgroup("memory")
    except OSError as error:
        raise NotTried(str(error)) from None

    def work(page: Page) -> int:
        cgroup.write("cgroup.procs", 0)
        cgroup.write("memory.max", 32 << 20)
        if group:
            cgroup.write("memory.oom.group", 1)
        plug = opened(flow)
        page["guard"] = plug.guard().pid
        kept = []
        with plug.hold():
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
            while True:
                kept.append(b"x" * (1 << 20))
        return 0

    try:
        with held(flow, work) as holder:
            holder.page["note"] = 1
            need(flow.until(holder.dead, files=[holder.pidfd]), "it was not killed")
            need(holder.status == -signal.SIGKILL, f"it was not killed: {holder.status}")
            return flowed(flow, holder, holder.died)
    finally:
        cgroup.close()


def out_of_memory_group(flow: Flow, chance: random.Random) -> float:
    return out_of_memory(flow, chance, group=True)


def no_processes(flow: Flow, chance: random.Random) -> float:
    """RLIMIT_NPROC, for a user with CAP_NET_ADMIN: it does not bind root."""
    with guard_for_everyone():

        def work(page: Page) -> int:
            setns(flow.near.fileno())
            become_nobody(keep=True)
            plug = PlugQdisc.open(flow.device)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            return refusal(plug)

        return refused(flow, work)


def no_processes_in_the_cgroup(flow: Flow, chance: random.Random) -> float:
    try:
        cgroup = Cgroup("pids")
    except OSError as error:
        raise NotTried(str(error)) from None

    def work(page: Page) -> int:
        plug = opened(flow)
        setns(flow.near.fileno())
        cgroup.write("pids.max", chance.choice([1, 2]))
        cgroup.write("cgroup.procs", 0)
        return refusal(plug)

    try:
        return refused(flow, work)
    finally:
        cgroup.close()


def _jam(plug: PlugQdisc) -> None:
    """Fill the socket's receive buffer with answers that nobody reads, until the kernel has no room for one more."""
    with socket.socket(fileno=os.dup(plug._sk.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        question = (20).to_bytes(4, sys.byteorder) + b"\x12\0" + b"\x05\0" + bytes(12)  # RTM_GETLINK that asks an ACK
        for _ in range(50):
            same.send(question)


def jammed(flow: Flow, chance: random.Random, *, with_guard: bool = True) -> float:
    """ENOBUFS on the holder's socket when it leaves the block."""

    def work(page: Page) -> int:
        plug = opened(flow)
        page["guard"] = plug.guard().pid
        with suppress(*(() if with_guard else (GuardUnavailable,))), plug.hold():
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
            if not with_guard:
                os.kill(page["guard"], signal.SIGKILL)
            _jam(plug)
            page["phase"] = now()
        return 0

    with held(flow, work) as holder:
        holder.page["note"] = 1
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == 0, f"the release failed: status {holder.status}")
        return flowed(flow, holder, holder.page["phase"])


def jammed_without_guard(flow: Flow, chance: random.Random) -> float:
    return jammed(flow, chance, with_guard=False)
