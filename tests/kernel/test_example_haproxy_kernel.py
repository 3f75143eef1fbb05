# SPDX-License-Identifier: GPL-2.0-or-later
"""The haproxy example: the command lines of its unit, run as systemd would, with a real haproxy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from libnlplug import PlugQdisc
from tests.support.lane import listed, qlen
from tests.support.netlab import Netns, eventually, unable

PROJECT = Path(__file__).resolve().parents[2]
UNIT = (PROJECT / "examples" / "haproxy" / "haproxy.service").read_text()
CONFIG = (PROJECT / "benchmarks" / "reload" / "haproxy.cfg").read_text().replace("ADDRESS", "127.0.0.1:8080")


class Service:
    """The unit's commands, with its files in another place."""

    def __init__(self, netns: Netns, directory: Path) -> None:
        self.netns = netns
        self.config, self.pidfile = directory / "haproxy.cfg", directory / "pid"
        self.config.write_text(CONFIG)
        self.started: list[int] = []

    def run(self, key: str) -> list[subprocess.CompletedProcess[str]]:
        """Run the lines of this key, until one fails, with systemd's rules for ${NAME} and $NAME."""
        held = re.search(r'^Environment="HELD=(.*)"$', UNIT, re.MULTILINE)
        assert held
        values = {"HELD": held[1], "CONFIG": str(self.config), "MAINPID": str(self.started[-1]) if self.started else ""}
        done = []
        for line in re.findall(rf"^{key}=-?(.*)$", UNIT, re.MULTILINE):
            line = line.replace("/run/haproxy.pid", str(self.pidfile))
            line = re.sub("^libnlplug ", f"{sys.executable} -m libnlplug ", line)
            line = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda name: values[name[1] or name[2]], line)
            with open(self.pidfile.with_name("said"), "w+") as said:  # a daemon would keep a pipe open
                status = self.netns.run(subprocess.run, shlex.split(line), stdout=said, stderr=said, timeout=30)
                said.seek(0)
                done.append(subprocess.CompletedProcess(line, status.returncode, said.read()))
            if done[-1].returncode:
                break
        if self.pidfile.exists() and (pid := int(self.pidfile.read_text())) not in self.started:
            self.started.append(pid)
        return done

    def answer(self) -> int:
        """Which process answers a new connection."""

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", 8080), timeout=10) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return connection.makefile("rb").read()

        return int(self.netns.run(ask).split()[-1])

    def end(self) -> None:
        argv = [sys.executable, "-m", "libnlplug", "lane", "del", "lo", "--netns", self.netns.path]
        subprocess.run(argv, check=True, timeout=30)
        for pid in self.started:
            if runs_haproxy(pid):
                os.kill(pid, signal.SIGKILL)


def runs_haproxy(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "haproxy\n"
    except OSError:
        return False


@pytest.fixture
def service(netns: Netns, tmp_path: Path):
    if not shutil.which("/usr/sbin/haproxy"):
        unable("haproxy is not installed")
    netns.ip("link set lo up")
    made = Service(netns, tmp_path)
    assert [one.returncode for one in made.run("ExecStartPre")] == [0]
    try:
        assert [one.returncode for one in made.run("ExecStart")] == [0]
        yield made
    finally:
        made.end()


def test_the_reload_puts_a_new_process_in_place(service: Service) -> None:
    """ExecReload ends with 0 under a hold of the lane; then a new haproxy answers, the old one goes, the lane stays."""
    old = service.started[-1]
    before = [link["ifname"] for link in service.netns.links()]
    assert len(before) == 2
    assert service.answer() == old
    done = service.run("ExecReload")
    assert [one.returncode for one in done] == [0, 0]
    assert re.search(r"held \d+ packets? \(\d+ bytes\) of lo for .* s, dropped none", done[-1].stdout)
    new = service.started[-1]
    assert new != old
    assert service.answer() == new
    eventually(lambda: not runs_haproxy(old), "the old haproxy ends")
    assert [link["ifname"] for link in service.netns.links()] == before


def test_a_broken_configuration_holds_nothing(service: Service) -> None:
    """With a mistake in the configuration the first ExecReload fails, the second is not run, and haproxy serves on."""
    old = service.started[-1]
    service.config.write_text(CONFIG + "    no such keyword\n")
    done = service.run("ExecReload")
    assert len(done) == 1
    assert done[0].returncode != 0
    assert service.answer() == old


def test_stopping_releases_what_a_killed_reload_has_left(service: Service) -> None:
    """A lane that holds, and whose guard was killed, is released by ExecStopPost, and stays for the next start."""
    (lane,) = listed(service.netns, "lo")
    PlugQdisc.open(lane.ifb, netns=service.netns).buffer()
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(service.answer()))
    client.start()
    eventually(lambda: qlen(service.netns, lane.ifb), "a client waits")
    assert [one.returncode for one in service.run("ExecStopPost")] == [0]
    client.join()
    assert answers == [service.started[-1]]
    assert [one.state for one in listed(service.netns, "lo")] == ["kept"]
