# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command block of README.md and docs/ is run, in a lab with lo and eth0, and prints what the page shows.

The blocks of a page are run in their order, by one shell, in a directory that looks like the project's. A block of
``text`` right after one that is run is what that prints, but for the numbers. doc_blocks.py says what marks there are.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import libnlplug
from libnlplug.pytest_plugin import Namespace, PlugNet
from tests.support.doc_blocks import PAGES, ROOT, RUN, Block, blocks
from tests.support.hold import child
from tests.support.netlab import Wire

STAND_INS = {
    "make": "exec python examples/demo/demo.py",
    "docker": 'echo "$LAB"',
    "systemctl": "python -m http.server 80 >/dev/null 2>&1 &",
}
SOL_PACKET, PACKET_QDISC_BYPASS, EXPERIMENTAL = 263, 20, 0x88B5
HAVE_COMMANDS = [
    page for page in PAGES if any(one.language in RUN and one.mark not in ("file", "not run") for one in blocks(page))
]


@pytest.fixture
def lab():
    """A network namespace with lo and eth0, whose other end is in another one; what runs there ends with the test."""
    here, there = Namespace(), Namespace()
    lines = (
        "link set lo up",
        f"link add eth0 type veth peer name eth0 netns {there.path}",
        "addr add 192.0.2.1/24 dev eth0",
        "link set eth0 up",
    )
    here.check_output("ip", "-batch", "-", words="\n".join(lines))
    there.check_output("ip", "link", "set", "eth0", "up")
    yield here
    here.close()
    there.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with all that the project's has, and a folder of stand-ins."""
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".stand-ins").mkdir()
    return tmp_path


def prepared(block: Block, place: Path, path: str) -> str:
    """The block as lines for the shell, after what its mark asks for was done."""
    names = block.words.split() if block.mark.startswith("stand-in") else []
    if block.mark == "not run":
        return ""
    if block.mark == "file":
        (place / block.words).write_text(block.text)
        return ""
    if block.language == "python":
        functions = "".join(f"def {name}(**_): pass\n" for name in names)
        return f"python - <<'END OF BLOCK'\n{functions}{block.text}END OF BLOCK\n"
    for name in names:
        if block.mark == "stand-in" or not shutil.which(name, path=path):
            program = place / ".stand-ins" / name
            program.write_text(f"#!/bin/sh\n{STAND_INS.get(name, ':')}\n")
            program.chmod(0o755)
    return f"{block.words}\n{block.text}" if block.mark == "first" else block.text


def alike(text: str) -> list[str]:
    """The lines, but for numbers and spaces."""
    return [" ".join(re.sub(r"\d+(\.\d+)?", "0", line).split()) for line in text.splitlines()]


def follows(block: Block, other: Block | None) -> bool:
    """Whether a block comes right after another one, with nothing but an empty line between."""
    return other is not None and block.line == other.line + other.text.count("\n") + 3


@pytest.mark.parametrize("page", HAVE_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of(page: Path, lab: Namespace, place: Path) -> None:
    """Every block of the page succeeds, and what the page shows as its output is what it prints."""
    path = f"{place}/.stand-ins:{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "set -e\nexport LAB=$$\nulimit -n $(ulimit -Hn)\n"  # a program may prepare for as many files: haproxy does
    shown: list[tuple[Block, Block]] = []
    before = None
    for block in blocks(page):
        if block.language in RUN:
            lines = prepared(block, place, path)
            script += f"echo '@@@ {block}'\n{lines}" if lines else ""
            before = block if lines else None
        elif block.mark == "file":
            prepared(block, place, path)
        elif follows(block, before):
            shown.append((before, block))
    named = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    done = lab.run(
        subprocess.run,
        ["bash", "-c", script],
        cwd=place,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    for block, output in shown:
        printed = alike(done.stdout.partition(f"@@@ {block}\n")[2].partition("\n@@@ ")[0])
        for line in alike(output.text):
            assert line in printed, f"{output} shows what {block} does not print:\n{done.stdout}"
    assert (os.listdir("/run/netns") if os.path.isdir("/run/netns") else []) == named, "a page leaves a namespace"


def test_the_picture_of_the_queue_is_true(wire: Wire) -> None:
    """Each step of docs/img/queue.svg, done on a real plug: these packets wait then, and these leave."""
    picture = runpy.run_path(str(ROOT / "docs" / "img" / "queue.py"))
    plug = None
    for (action, count, _), (_, _, epochs, gone) in zip(picture["STEPS"], picture["states"]()):
        if plug is None:
            plug = libnlplug.attach(wire.device, netns=wire.near)
        else:
            getattr(plug, action)()
        wire.send(count)
        wire.expect([number - 1 for number in gone])
        assert plug.stats().qlen == sum(map(len, epochs))
    assert plug is not None
    plug.close()


@pytest.mark.parametrize("bypass", [False, True])
def test_packets_that_bypass_qdiscs(bypass: bool) -> None:
    """What a packet socket with PACKET_QDISC_BYPASS sends passes a hold, and docs/command.md says so. Without it,
    packets are held."""
    assert "`PACKET_QDISC_BYPASS`" in (ROOT / "docs" / "command.md").read_text()
    net = PlugNet()
    sender, receiver = (one.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for one in (net.near, net.far))
    sender.bind((net.device, 0))
    receiver.bind((net.device, EXPERIMENTAL))
    receiver.settimeout(1)
    if bypass:
        sender.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    frame = b"\xff" * 6 + bytes(6) + struct.pack("!H", EXPERIMENTAL) + b"libnlplug" * 10
    with libnlplug.attach(net.device, netns=net.near) as plug:
        with plug.hold(timeout=30) as report:
            sender.send(frame)
            if bypass:
                assert receiver.recv(200) == frame
            else:
                with pytest.raises(socket.timeout):
                    receiver.recv(200)
        assert report.packets == (0 if bypass else 1)
        if not bypass:
            assert receiver.recv(200) == frame
    net.close()


def test_packets_with_a_firewall_mark(lab: Namespace) -> None:
    """The first lines of the how-to's block are run: a hold at that class holds marked packets and no others."""
    (block,) = [one for one in blocks(ROOT / "docs" / "howto" / "haproxy.md") if " fw classid " in one.text]
    lines = block.text.splitlines()
    (parent,) = re.findall(r"--parent (\S+)", block.text)
    (mark,) = re.findall(r"handle (\d+) fw", block.text)
    for line in lines[:2]:
        lab.check_output(*line.split())
    neighbour = "192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent"
    lab.check_output("ip", "neigh", "add", *neighbour.split())
    plain, marked = (lab.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(mark))
    with libnlplug.attach("eth0", parent=parent, netns=lab) as plug:
        with plug.hold(timeout=30) as report:
            for sender in (plain, marked, plain, marked, plain):
                sender.sendto(b"x", ("192.0.2.2", 9))
            assert plug.stats().qlen == 2
        assert report.packets == 2
    for sender in (plain, marked):
        sender.close()


@pytest.mark.parametrize("linger", [None, 0])
def test_tcp_after_a_dropped_plug(linger: int | None) -> None:
    """What was dropped with its plug the kernel sends again after its sender was killed, unless it may not linger."""
    net = PlugNet()
    listener = net.far.socket()
    listener.bind((net.far_ip, 0))
    listener.listen()

    def hold(this) -> None:
        connection = net.near.run(socket.create_connection, listener.getsockname())
        if linger is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger))
        plug = libnlplug.attach(net.device, netns=net.near)
        with plug.hold(on_death="drop"):
            connection.sendall(b"not saved")
            this.say(plug.stats().qlen)
            signal.pause()

    with child(hold) as holder:
        connection, _ = listener.accept()
        assert holder.hear() == 1
        holder.kill()
        assert holder.status() == -signal.SIGKILL
        connection.settimeout(2)
        if linger is None:
            assert connection.recv(100) == b"not saved"
        else:
            with pytest.raises((socket.timeout, ConnectionResetError)):
                connection.recv(100)
    connection.close()
    net.close()
