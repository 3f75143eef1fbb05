# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers that are reloaded: how each is started, and the command that reloads it."""

from __future__ import annotations

import sys
from pathlib import Path

from ways import Words, run

HERE = Path(__file__).resolve().parent


class Haproxy:
    """Debian's haproxy, which answers by itself. Its reload hands no sockets over: old and new both listen for a
    moment, then the old one closes its accept queue with whoever is in it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.pidfile = directory / "pid"
        config = directory / "haproxy.cfg"
        config.write_text((HERE / "haproxy.cfg").read_text().replace("PORT", str(port)))
        self._command = ["haproxy", "-D", "-f", str(config), "-p", str(self.pidfile)]

    def start(self) -> None:
        run(self._command)

    def reload_command(self) -> Words:
        return [*self._command, "-sf", str(self.pid())]

    def pid(self) -> int:
        """The process that serves."""
        return int(self.pidfile.read_text())


class HaproxyFrozen(Haproxy):
    """The same, whose old process gets no processor for two seconds when it is told to finish."""

    def reload_command(self) -> Words:
        script = '(kill -STOP $1; sleep 2; kill -CONT $1) & shift; exec "$@"'
        return ["sh", "-c", script, "sh", str(self.pid()), *super().reload_command()]


class Slow:
    """slow_server.py, whose old process answers everybody in its accept queue before it closes it."""

    order = "HUP"

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port

    def start(self) -> None:
        run([sys.executable, str(HERE / "slow_server.py"), str(self.port), str(self.directory)])

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


SERVERS = {"haproxy": Haproxy, "haproxy-frozen": HaproxyFrozen, "slow": Slow, "slow-at-once": SlowAtOnce}
