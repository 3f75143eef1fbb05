# SPDX-License-Identifier: GPL-2.0-or-later
"""The haproxy example: systemd finds nothing to say about the unit, and libnlplug understands every line of it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libnlplug.command.lane import chosen
from libnlplug.command.parser import read
from tests.support.netlab import unable

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "haproxy"
UNIT = (EXAMPLE / "haproxy.service").read_text()
LIBNLPLUG = "libnlplug"


def verify(directory: Path, text: str) -> str:
    """What systemd-analyze says about the unit, with a libnlplug and a haproxy that are there."""
    if not shutil.which("systemd-analyze"):
        unable("systemd-analyze is not installed: apt-get install systemd")
    for path in ("/usr/local/bin", "/usr/bin"):  # systemd's places, not those of PATH
        if (Path(path) / LIBNLPLUG).exists():
            break
    else:
        text = re.sub(rf"(^Exec\w+=-?){LIBNLPLUG} ", rf"\1{sys.executable} ", text, flags=re.MULTILINE)
    if not Path("/usr/sbin/haproxy").exists():
        text = text.replace("/usr/sbin/haproxy", "/bin/true")
    file = directory / "haproxy.service"
    file.write_text(text)
    argv = ["systemd-analyze", "verify", "--man=no", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or done.stderr
    return done.stderr


def test_systemd_says_nothing(tmp_path: Path) -> None:
    """systemd-analyze verify prints nothing about the unit, which names no manual page that is not installed."""
    assert verify(tmp_path, UNIT) == ""
    assert re.findall(r"man:(\S+)", UNIT) == ["haproxy(1)"]


@pytest.mark.parametrize("line", ["ExecReloads=/bin/true", "ExecReload=/no/such/program", "Type=forkin"])
def test_systemd_would_say_it(tmp_path: Path, line: str) -> None:
    """An unknown key, a program that is not there and a wrong value are seen by the same look."""
    assert verify(tmp_path, UNIT.replace("[Service]\n", f"[Service]\n{line}\n")) != ""


def test_libnlplug_understands_the_reload() -> None:
    """The unit holds the lane that its start makes, with a deadline, and runs haproxy with the old process's number."""
    held = re.search(r'^Environment="HELD=(.*)"$', UNIT, re.MULTILINE)
    reload = re.search(rf"^ExecReload={LIBNLPLUG} (.*)$", UNIT, re.MULTILINE)
    assert held
    assert reload
    lane = re.search(rf"^ExecStartPre={LIBNLPLUG} (.*)$", UNIT, re.MULTILINE)
    assert lane
    args = read(shlex.split(reload[1].replace("$HELD", held[1])))
    assert chosen(read(shlex.split(lane[1].replace("$HELD", held[1])))) == chosen(args)
    assert chosen(args) is not None
    assert 0 < args.timeout <= 10
    assert args.command[0] == "/usr/sbin/haproxy"
    assert args.command[-2:] == ["-sf", "$MAINPID"]


def commands() -> list[str]:
    """The libnlplug commands that the README shows, and those that its table of what to hold stands for."""
    text = (EXAMPLE / "README.md").read_text()
    shown = re.findall(r"^    libnlplug (.*)$", text, re.MULTILINE)
    table = re.findall(r"^\|.*\| `(.*)` \|$", text, re.MULTILINE)
    return shown + [f"hold {held} -- true" for held in table]


@pytest.mark.parametrize("words", commands())
def test_the_readme_shows_commands_that_exist(words: str) -> None:
    """Every command of the README can be read, and its packets can be chosen."""
    assert chosen(read(shlex.split(words))) is not None


def test_the_readme_has_commands() -> None:
    """The README shows the hold, its variants and the kept lane."""
    assert len(commands()) >= 7
