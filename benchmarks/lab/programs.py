# SPDX-License-Identifier: GPL-2.0-or-later
"""The real programs of the lab, started and spoken to: haproxy, as proxy and as the backends' server."""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import time
from pathlib import Path

from net import PORT, VIP, run
from reload import engines

NAMED = """\
# The backends' server: one haproxy that listens in each backend's namespace, and says which backend answered.
global
    nbthread 1
    maxconn 8000
    stats socket {socket} mode 600 level admin

defaults
    mode http
    timeout client 60s
    timeout http-request 60s
    timeout http-keep-alive 60s
"""
FRONTEND = """
frontend {name}
    bind {vip}:{port} namespace {name} backlog 4096
    http-request return status 200 content-type text/plain string {name}
"""


class Haproxy:
    """A haproxy of its own configuration, pid file and socket in ``directory``; started in the namespace ``place``."""

    def __init__(
        self,
        directory: Path,
        config: str,
        place: str | None = None,
        options: str = "",
        program: tuple[str, ...] = ("haproxy",),
    ) -> None:
        self.pidfile, self.socket = directory / "haproxy.pid", directory / "haproxy.sock"
        self.config = directory / "haproxy.cfg"
        self.config.write_text(config)
        self._into = ["ip", "netns", "exec", place] if place else []
        self._words = [*program, "-D", "-f", str(self.config), "-p", str(self.pidfile), *options.split()]

    def start(self) -> None:
        run([*self._into, *self._words])

    def reload(self, *options: str) -> None:
        """Start a successor, which tells the old process to finish (-sf)."""
        run([*self._into, *self.reload_command(), *options])

    def reload_command(self) -> list[str]:
        return [*self._words, "-sf", str(self.pid())]

    def pid(self) -> int:
        """The process that serves."""
        return int(self.pidfile.read_text())

    def say(self, line: str) -> str:
        """What the process that serves answers to a line of haproxy's own management language."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.socket))
            sock.sendall(line.encode() + b"\n")
            text = b""
            while part := sock.recv(65536):
                text += part
        return text.decode()

    def stop_softly(self) -> None:
        """Have it listen no more, finish what it has, and end."""
        self._end(signal.SIGUSR1)

    def end(self) -> None:
        """End it, with what it has."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        os.kill(self.pid(), number)
        deadline = time.monotonic() + 10
        while not gone(self.pid()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"haproxy goes on after {number.name}")
            time.sleep(0.005)


def backend_servers(directory: Path, names: list[str]) -> Haproxy:
    """The backends' server, ready to start."""
    frontends = [FRONTEND.format(name=name, vip=VIP, port=PORT) for name in names]
    return Haproxy(directory, NAMED.format(socket=directory / "haproxy.sock") + "".join(frontends))


@functools.cache
def haproxies() -> dict[str, tuple[str, ...]]:
    """The words that start each haproxy, by its name and version: the host's, and Debian 13's where it is unpacked."""
    programs = [("haproxy",)]
    if engines.is_there():
        programs.append(tuple(engines.program("haproxy")))
    found = {}
    for words in programs:
        version = re.search(r"version ([0-9]+[.][0-9]+)", run([*words, "-v"]))
        found[f"haproxy {version[1]}"] = words
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended, a zombie included."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
