# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to get through a reload. Each is a function that prepares a network namespace and returns how to reload in
it: a function that runs the server's own reload command and returns for how many seconds SYNs were held or dropped.

Nothing is undone: the namespace goes with the run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

Words = list[str]
Reload = Callable[[Words], Optional[float]]

BESIDE = Path(sys.executable).with_name("libnlplug")  # as pip installs it
LIBNLPLUG = str(BESIDE) if BESIDE.exists() else shutil.which("libnlplug") or "libnlplug"
IPTABLES = "iptables-legacy"  # the test kernel has no nf_tables for IPv4


class CommandFailed(Exception):
    """A command that must not fail did."""


def run(words: Words) -> str:
    """Run a command; what it printed. (To a file: a server that it leaves behind would keep a pipe open.)"""
    with tempfile.TemporaryFile("w+") as output:
        status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60).returncode
        output.seek(0)
        printed = output.read()
    if status:
        raise CommandFailed(f"{' '.join(words)}: status {status}: {printed.strip() or 'it said nothing'}")
    return printed


def sh(line: str) -> str:
    return run(line.split())


def nothing(port: int) -> Reload:
    def reload(command: Words) -> None:
        time.sleep(0.1)  # about what a reload takes

    return reload


def plain(port: int) -> Reload:
    def reload(command: Words) -> None:
        run(command)

    return reload


def migrate(port: int) -> Reload:
    Path("/proc/sys/net/ipv4/tcp_migrate_req").write_text("1")
    return plain(port)


def syn_drop(port: int) -> Reload:
    rule = f"INPUT -p tcp --dport {port} --syn -j DROP"

    def reload(command: Words) -> float:
        sh(f"{IPTABLES} -w -I {rule}")
        begun = time.monotonic()
        run(command)
        sh(f"{IPTABLES} -w -D {rule}")
        return time.monotonic() - begun

    return reload


def yelp(port: int) -> Reload:
    """A prio root with a band that only marked packets take, and the plug in it."""
    sh("tc qdisc add dev lo root handle 1: prio bands 4")
    sh("tc qdisc add dev lo parent 1:4 handle 40: plug limit 4194304")
    sh("tc qdisc change dev lo parent 1:4 handle 40: plug release_indefinite")
    sh("tc filter add dev lo protocol ip parent 1: prio 1 handle 1 fw classid 1:4")
    sh(f"{IPTABLES} -w -t mangle -I OUTPUT -p tcp --dport {port} --syn -j MARK --set-mark 1")

    def reload(command: Words) -> float:
        sh("tc qdisc change dev lo parent 1:4 handle 40: plug block")
        begun = time.monotonic()
        run(command)
        sh("tc qdisc change dev lo parent 1:4 handle 40: plug release_indefinite")
        return time.monotonic() - begun

    return reload


def match(port: int) -> Words:
    return ["--ip-proto", "tcp", "--dst-port", str(port), "--tcp-syn"]


def hold(port: int, *more: str) -> Reload:
    def reload(command: Words) -> float:
        printed = run([LIBNLPLUG, "hold", "lo", *match(port), *more, "--json", "--", *command])
        report = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
        if report["dropped"]:
            raise CommandFailed(f"the plug was full: {report}")
        return report["seconds"]

    return reload


def lane_and_hold(port: int) -> Reload:
    run([LIBNLPLUG, "lane", "add", "lo", *match(port)])
    return hold(port)


def handover(port: int) -> Reload:
    return hold(port, "--handover")


def lane_and_handover(port: int) -> Reload:
    run([LIBNLPLUG, "lane", "add", "lo", *match(port)])
    return handover(port)


class Way(NamedTuple):
    """A way, what the table calls it, and for how many seconds it rests between two reloads."""

    title: str
    prepare: Callable[[int], Reload]
    pause: tuple[float, float] = (0.05, 0.2)


WAYS = {
    "nothing": Way("no reload", nothing),
    "plain": Way("plain reload", plain),
    "migrate": Way("plain, `tcp_migrate_req=1`", migrate),
    "syn-drop": Way("SYN-drop rule", syn_drop, pause=(1.0, 1.2)),  # so that the first retransmission comes through
    "yelp": Way("prio + mark + plug, by `tc` (Yelp)", yelp),
    "hold": Way("`libnlplug hold`", hold),
    "lane": Way("`libnlplug hold`, lane kept", lane_and_hold),
    "handover": Way("`libnlplug hold --handover`", handover),
    "lane-handover": Way("`libnlplug hold --handover`, lane kept", lane_and_handover),
}


def missing() -> list[str]:
    """The programs that are not there."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in ("haproxy", "tc", IPTABLES, LIBNLPLUG) if not shutil.which(name, path=path)]
