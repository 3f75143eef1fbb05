# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers that are reloaded: how each is started, and the command that reloads it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import engines
from ways import CommandFailed, Words, run

HERE = Path(__file__).resolve().parent


class Haproxy:
    """This host's haproxy, which answers by itself. Its reload hands no sockets over: old and new both listen for a
    moment, then the old one closes its accept queue with whoever is in it."""

    def __init__(self, directory: Path, address: str, port: int) -> None:
        self.pidfile = directory / "pid"
        config = directory / "haproxy.cfg"
        config.write_text((HERE / "haproxy.cfg").read_text().replace("ADDRESS", f"{address}:{port}"))
        self._command = [*self.program(), "-D", "-f", str(config), "-p", str(self.pidfile)]

    def program(self) -> Words:
        return ["haproxy"]

    def start(self) -> None:
        run(self._command)

    def reload_command(self) -> Words:
        return [*self._command, "-sf", str(self.pid())]

    def pid(self) -> int:
        """The process that serves."""
        return int(self.pidfile.read_text())


class Haproxy3(Haproxy):
    """haproxy 3.0 of Debian 13."""

    def program(self) -> Words:
        return engines.program("haproxy")


class HaproxyFrozen(Haproxy):
    """This host's haproxy, whose old process is stopped for two seconds just before it is told to finish."""

    def reload_command(self) -> Words:
        script = '(kill -STOP $1; sleep 2; kill -CONT $1) & shift; exec "$@"'
        return ["sh", "-c", script, "sh", str(self.pid()), *super().reload_command()]


class Nginx:
    """nginx of Debian 13, which answers by itself. It is stopped as Debian's unit stops it, by QUIT, and started anew
    when it has ended: meanwhile nobody listens."""

    def __init__(self, directory: Path, address: str, port: int) -> None:
        self.pidfile = directory / "pid"
        config = directory / "nginx.conf"
        text = (HERE / "nginx.conf").read_text()
        config.write_text(text.replace("ADDRESS", f"{address}:{port}").replace("DIRECTORY", str(directory)))
        start = [*engines.program("nginx"), "-p", str(directory), "-e", str(directory / "errors"), "-c", str(config)]
        # nginx has gone into the background before it writes its pid
        self._start = ["sh", "-c", '"$@" && until [ -s "$0" ]; do sleep 0.01; done', str(self.pidfile), *start]

    def start(self) -> None:
        run(self._start)

    def reload_command(self) -> Words:
        stop = 'kill -QUIT $(cat "$0") && while [ -e "$0" ]; do sleep 0.01; done && exec "$@"'
        return ["sh", "-c", stop, str(self.pidfile), *self._start]

    def pid(self) -> int:
        """The process that serves: the only child of nginx's master."""
        master = self.pidfile.read_text().strip()
        for _ in range(200):
            for found in Path("/proc").glob("[0-9]*/stat"):
                if parent_of(found) == master:
                    return int(found.parent.name)
            time.sleep(0.01)
        raise CommandFailed(f"nginx, pid {master}, has started no process that serves")


def parent_of(stat: Path) -> str:
    """The pid of a process's parent; nothing where the process has ended."""
    try:
        return stat.read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


class Slow:
    """slow_server.py, whose old process answers everybody in its accept queue before it closes it."""

    order = "HUP"

    def __init__(self, directory: Path, address: str, port: int) -> None:
        self.directory, self.address, self.port = directory, address, port

    def start(self) -> None:
        run([sys.executable, str(HERE / "slow_server.py"), self.address, str(self.port), str(self.directory)])

    def reload_command(self) -> Words:
        master = (self.directory / "master").read_text().strip()
        script = 'kill -$1 $2 && read answer <$3 && [ "$answer" = done ]'
        return ["sh", "-c", script, "sh", self.order, master, str(self.directory / "done")]

    def pid(self) -> int:
        """The process that serves."""
        return int((self.directory / "pid").read_text())


class SlowAtOnce(Slow):
    """slow_server.py, whose old process closes its accept queue at once."""

    order = "USR1"


SERVERS = {
    "haproxy": Haproxy,
    "haproxy3": Haproxy3,
    "haproxy-frozen": HaproxyFrozen,
    "nginx": Nginx,
    "slow": Slow,
    "slow-at-once": SlowAtOnce,
}
FETCHED = {"haproxy3", "nginx"}  # those that engines.py fetches
