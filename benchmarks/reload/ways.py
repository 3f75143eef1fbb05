# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to get through a reload. Each is a function that prepares the server's network namespace (Yelp's: the
clients') and returns how to reload in it: a function that runs the server's own reload command and returns for how many
seconds SYNs were held or dropped.

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

from client import PATIENCE

Words = list[str]
Reload = Callable[[Words], Optional[float]]

BESIDE = Path(sys.executable).with_name("libnlplug")  # as pip installs it
LIBNLPLUG = str(BESIDE) if BESIDE.exists() else shutil.which("libnlplug") or "libnlplug"
IPTABLES = "iptables-legacy"  # the test kernel has no nf_tables for IPv4


class CommandFailed(Exception):
    """A command that must not fail did."""


def run(words: Words, text: str = "") -> str:
    """Run a command that reads this text; what it printed. (To a file: a server that it leaves behind would keep a pipe
    open.)"""
    with tempfile.TemporaryFile("w+") as output:
        given = {"input": text, "text": True} if text else {"stdin": subprocess.DEVNULL}
        status = subprocess.run(words, **given, stdout=output, stderr=output, timeout=60 + 2 * PATIENCE).returncode
        output.seek(0)
        printed = output.read()
    if status:
        raise CommandFailed(f"{' '.join(words)}: status {status}: {printed.strip() or 'it said nothing'}")
    return printed


def sh(line: str) -> str:
    return run(line.split())


class Place(NamedTuple):
    """Where the server is: the device by which its clients come, its port, and the words that run a command in the
    clients' network namespace, which has a device of the same name."""

    device: str
    port: int
    far: Words


def nothing(place: Place) -> Reload:
    def reload(command: Words) -> None:
        time.sleep(0.1)  # about what a reload takes

    return reload


def plain(place: Place) -> Reload:
    def reload(command: Words) -> None:
        run(command)

    return reload


def migrate(place: Place) -> Reload:
    Path("/proc/sys/net/ipv4/tcp_migrate_req").write_text("1")
    return plain(place)


def syn_drop(place: Place) -> Reload:
    rule = f"INPUT -p tcp --dport {place.port} --syn -j DROP"

    def reload(command: Words) -> float:
        sh(f"{IPTABLES} -w -I {rule}")
        begun = time.monotonic()
        run(command)
        sh(f"{IPTABLES} -w -D {rule}")
        return time.monotonic() - begun

    return reload


def yelp(place: Place) -> Reload:
    """A prio root with a band that only marked packets take, and the plug in it. It holds what leaves, so it stands on
    the clients' side."""
    dev = f"dev {place.device}"

    def far(line: str) -> None:
        run([*place.far, *line.split()])

    far(f"tc qdisc add {dev} root handle 1: prio bands 4")
    far(f"tc qdisc add {dev} parent 1:4 handle 40: plug limit 4194304")
    far(f"tc qdisc change {dev} parent 1:4 handle 40: plug release_indefinite")
    far(f"tc filter add {dev} protocol ip parent 1: prio 1 handle 1 fw classid 1:4")
    far(f"{IPTABLES} -w -t mangle -I OUTPUT -p tcp --dport {place.port} --syn -j MARK --set-mark 1")

    def reload(command: Words) -> float:
        far(f"tc qdisc change {dev} parent 1:4 handle 40: plug block")
        begun = time.monotonic()
        run(command)
        far(f"tc qdisc change {dev} parent 1:4 handle 40: plug release_indefinite")
        return time.monotonic() - begun

    return reload


def chosen(place: Place) -> Words:
    """New connections that come to the server."""
    return [place.device, "--ingress", "--ip-proto", "tcp", "--dst-port", str(place.port), "--tcp-syn"]


def hold(place: Place, *more: str) -> Reload:
    def reload(command: Words) -> float:
        options = [*more, "--timeout", str(2 * PATIENCE), "--json"]
        printed = run([LIBNLPLUG, "hold", *chosen(place), *options, "--", *command])
        report = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
        if report["dropped"]:
            raise CommandFailed(f"the plug was full: {report}")
        return report["seconds"]

    return reload


def kept_lane(place: Place) -> Reload:
    run([LIBNLPLUG, "lane", "add", *chosen(place)])
    return hold(place)


def handover(place: Place) -> Reload:
    return hold(place, "--handover")


class Way(NamedTuple):
    """A way, what the table calls it, and for how many seconds it rests between two reloads."""

    title: str
    prepare: Callable[[Place], Reload]
    pause: tuple[float, float] = (0.05, 0.2)


WAYS = {
    "nothing": Way("no reload", nothing),
    "plain": Way("plain reload", plain),
    "migrate": Way("plain, `tcp_migrate_req=1`", migrate),
    "syn-drop": Way("SYN-drop rule", syn_drop, pause=(1.0, 1.2)),  # so that the first retransmission comes through
    "yelp": Way("prio + mark + plug, by `tc` (Yelp)", yelp),
    "hold": Way("`libnlplug hold`", hold),
    "lane": Way("`libnlplug hold`, lane kept", kept_lane),
    "handover": Way("`libnlplug hold --handover`", handover),
}


def missing() -> list[str]:
    """The programs that are not there."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in ("haproxy", "tc", IPTABLES, LIBNLPLUG) if not shutil.which(name, path=path)]
