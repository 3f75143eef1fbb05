# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin on a real kernel: its fixtures hold packets, and whatever a test does, nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.netlab import AUTOLOAD, descriptors, eventually

pytest_plugins = ["pytester"]

USE = """
import socket


def test_hold(plug_net, hold):
    sink = plug_net.far.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind((plug_net.far_ip, 7))
    sink.settimeout(2)
    source = plug_net.near.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with hold(timeout=5) as held:
        for number in range(3):
            source.sendto(b"%d" % number, sink.getsockname())
        sink.setblocking(False)
        try:
            assert not sink.recv(9)
        except BlockingIOError:
            pass
        sink.settimeout(2)
    assert sorted(sink.recv(9) for number in range(3)) == [b"0", b"1", b"2"]  # on several processors they overtake
    assert (held.packets, held.dropped) == (3, 0)


def test_plug(plug_net, plug):
    assert plug.limit == 32 << 20
    assert plug_net.near.check_output("tc", "qdisc", "show", "dev", plug_net.device).startswith("qdisc plug 504c: root")
    assert (plug.stats().packets, plug.stats().qlen) == (0, 0)


def test_programs(plug_net, plug):
    shown = plug_net.far.check_output("ip", "-br", "addr", "show", "dev", plug_net.device)
    assert plug_net.far_ip + "/24" in shown
    ping = plug_net.near.popen(["ping", "-c", "1", "-W", "2", plug_net.far_ip])
    assert ping.wait(5) == 0
    assert plug.stats().packets == 1
    try:
        plug_net.near.check_output("ip", "link", "show", "dev", "nothing")
    except OSError as error:
        assert "nothing" in str(error) and "does not exist" in str(error)
    else:
        raise AssertionError("a program that fails is an error")
"""

UNTIDY = """
import subprocess
import libnlplug


def test_leaves_it_held(plug):
    plug.buffer()


def test_fails_in_a_hold(hold):
    with hold():
        raise ValueError("on purpose")


def test_leaves_programs(plug_net):
    for end in (plug_net.near, plug_net.far):
        # all are there before they are killed: Debian 13's User-Mode Linux panics if a process is killed while it forks
        script = "trap '' TERM; sleep 1000 & (setsid sleep 1000 &) ; echo there; wait"
        assert end.popen(["sh", "-c", script], stdout=subprocess.PIPE).stdout.readline() == b"there\\n"


def test_leaves_a_program_that_went_elsewhere(plug_net):
    command = ["unshare", "--net", "sh", "-c", "echo there; exec sleep 1000"]
    assert plug_net.near.popen(command, stdout=subprocess.PIPE).stdout.readline() == b"there\\n"


def test_leaves_words_that_nobody_reads(plug_net):
    plug_net.near.popen(["sleep", "1000"], stdin=subprocess.PIPE, text=True).stdin.write("words")


def test_leaves_a_guard_at_work(plug_net):
    libnlplug.attach(plug_net.device, netns=plug_net.far).hold_detached(1000)


def test_removes_the_link(plug_net, plug):
    plug_net.near.check_output("ip", "link", "del", plug_net.device)


def test_closes_the_plug(plug):
    plug.close()
"""


def namespaces() -> set[int]:
    """The network namespaces that processes are in, by their inodes."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.stat(process / "ns/net").st_ino)
        except OSError:
            pass
    return found


def test_the_fixtures_hold_and_release(pytester: pytest.Pytester) -> None:
    """A test holds what near sends and lets it go, sees nothing but its own packets, and runs programs at both ends."""
    pytester.makepyfile(USE)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=3)


def test_nothing_is_left_behind(pytester: pytest.Pytester) -> None:
    """Tests that fail, forget to release, leave programs and guards: no process, namespace or descriptor stays."""
    before = namespaces()
    pytester.makepyfile(UNTIDY)
    pytester.runpytest_inprocess("-k", "test_fails_in_a_hold").assert_outcomes(failed=1)  # what is opened once for all
    open_before = descriptors()
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=7, failed=1)
    eventually(lambda: namespaces() == before, "every process has ended")
    assert descriptors() == open_before


def test_a_host_without_sch_plug(pytester: pytest.Pytester, unloaded: str) -> None:
    """The tests are skipped, for the kernel's own reason and what to do about it."""
    AUTOLOAD.write_text("\n")
    pytester.makepyfile(USE)
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=3)
    (reason,) = {line.split(": ", 1)[1] for line in result.outlines if line.startswith("SKIPPED")}
    assert reason.startswith("this host cannot hold packets ('libnlplug doctor' says more): cannot attach a plug to")
    assert "modprobe sch_plug" in reason
