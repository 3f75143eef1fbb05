# SPDX-License-Identifier: GPL-2.0-or-later
"""The drop-in port at work: its four functions hold and release real packets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from libnlplug.plug_qdisc import (
    plug_qdisc_attach,
    plug_qdisc_plug_buffer,
    plug_qdisc_release_indefinite_buffer,
    qdisc_init,
)
from tests.support.netlab import FRAME, Wire


@pytest.fixture
def port(wire: Wire) -> Wire:
    """A wire, and the port's module-wide socket in its namespace."""
    assert wire.near.run(qdisc_init) == 0
    return wire


def test_attach_buffer_release(port: Wire) -> None:
    """As the C's users do it: attach, buffer, release; 100 packets are held and all arrive in order."""
    assert plug_qdisc_attach(port.device, "root", "1:", 1 << 20) == 0
    port.expect(port.send(3))
    for _ in range(3):
        assert plug_qdisc_plug_buffer() == 0
        numbers = port.send(100)
        assert (port.near.qdisc(port.device)["qlen"], port.arrived()) == (100, [])
        assert plug_qdisc_release_indefinite_buffer() == 0
        port.expect(numbers)
    shown = port.near.qdisc(port.device)
    assert (shown["kind"], shown["handle"], shown["packets"], shown["drops"]) == ("plug", "1:", 303, 0)


def test_attach_releases_what_was_held(port: Wire) -> None:
    """Attaching again releases, as origin's README promises: nothing is held when the program starts."""
    assert plug_qdisc_attach(port.device, "root", "1:", 1 << 20) == 0
    assert plug_qdisc_plug_buffer() == 0
    numbers = port.send(5)
    assert plug_qdisc_attach(port.device, "root", "1:", 1 << 20) == 0
    port.expect(numbers)


def test_the_limit_is_bytes(port: Wire) -> None:
    """A limit of 10 frames holds 10 frames and drops the others."""
    assert plug_qdisc_attach(port.device, "root", "1:", 10 * FRAME) == 0
    assert plug_qdisc_plug_buffer() == 0
    port.send(12)
    shown = port.near.qdisc(port.device)
    assert (shown["qlen"], shown["drops"]) == (10, 2)


def test_limit_0_is_the_kernels_default(port: Wire) -> None:
    """Unlike the C, whose limit 0 drops every packet for ever: the kernel's own limit holds, and lets go."""
    assert plug_qdisc_attach(port.device, "root", "1:", 0) == 0
    port.expect(port.send(5))
    assert plug_qdisc_plug_buffer() == 0
    numbers = port.send(50)
    assert port.near.qdisc(port.device)["qlen"] == 50
    assert plug_qdisc_release_indefinite_buffer() == 0
    port.expect(numbers)


@pytest.mark.parametrize("limit", [2**31 - 1, 2**31, 2**32 - 1])
def test_limits_as_large_as_the_cs(port: Wire, limit: int) -> None:
    """The C's limit is a uint32_t: 2^32-1 bytes is one, and holds."""
    assert plug_qdisc_attach(port.device, "root", "1:", limit) == 0
    assert plug_qdisc_plug_buffer() == 0
    numbers = port.send(20)
    assert port.near.qdisc(port.device)["qlen"] == 20
    assert plug_qdisc_release_indefinite_buffer() == 0
    port.expect(numbers)


def test_a_class_of_prio(port: Wire) -> None:
    """A parent that is a class: only that band is held."""
    port.near.tc(f"qdisc add dev {port.device} root handle 1: prio bands 3")
    assert plug_qdisc_attach(port.device, "1:3", "30:", 1 << 20) == 0
    assert plug_qdisc_plug_buffer() == 0
    held = port.send(4, to_class=0x1_0003)
    port.expect(port.send(4, to_class=0x1_0001))
    assert plug_qdisc_release_indefinite_buffer() == 0
    port.expect(held)


def test_a_failure_is_minus_1_and_one_line(port: Wire, capfd: pytest.CaptureFixture[str]) -> None:
    """What fails returns -1, and says why in one line on stderr; the port works on."""
    assert plug_qdisc_attach(port.device, "1:9", "40:", 1000) == -1
    assert plug_qdisc_attach("nosuch0", "root", "1:", 1000) == -1
    assert plug_qdisc_attach(port.device, "nonsense", "1:", 1000) == -1
    assert plug_qdisc_attach(port.device, "root", "1:3", 1000) == -1
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 4
    assert [words in line for words, line in zip(("1:9", "nosuch0", "nonsense", "minor"), said)][1:] == [True] * 3
    assert plug_qdisc_attach(port.device, "root", "1:", 1000) == 0
    assert capfd.readouterr().err == ""


def test_a_configured_qdisc_is_not_displaced_by_a_handle(port: Wire) -> None:
    """With an id the kernel refuses to displace another qdisc: -1, and it stays."""
    port.near.tc(f"qdisc add dev {port.device} root handle 5: prio bands 3")
    before = port.near.qdiscs(port.device)
    assert plug_qdisc_attach(port.device, "root", "1:", 1000) == -1
    assert port.near.qdiscs(port.device) == before


def test_before_any_attach_the_toggles_are_minus_1(port: Wire) -> None:
    """In a new process both toggles return -1, before and after qdisc_init(); the C would crash."""
    program = (
        "from libnlplug.plug_qdisc import *\n"
        "print(plug_qdisc_plug_buffer(), plug_qdisc_release_indefinite_buffer(), qdisc_init(),"
        " plug_qdisc_plug_buffer(), plug_qdisc_release_indefinite_buffer())"
    )
    done = port.near.run(subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.returncode) == (["-1", "-1", "0", "-1", "-1"], 0)


def test_in_a_forked_child_everything_is_minus_1_until_init(port: Wire) -> None:
    """A child that uses the parent's socket gets -1; after qdisc_init() it has its own, and the parent's works on."""
    assert plug_qdisc_attach(port.device, "root", "1:", 1 << 20) == 0

    def child() -> int:
        if not (plug_qdisc_plug_buffer() == plug_qdisc_release_indefinite_buffer() == -1):
            return 1
        if plug_qdisc_attach(port.device, "root", "1:", 1000) != -1:
            return 2
        if qdisc_init() != 0 or plug_qdisc_attach(port.device, "root", "1:", 1 << 20) != 0:
            return 3
        return 0

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            status = 4
            try:
                status = child()
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert port.near.run(fork) == 0
    assert plug_qdisc_plug_buffer() == 0
    numbers = port.send(3)
    assert plug_qdisc_release_indefinite_buffer() == 0
    port.expect(numbers)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"lo", "root", "1:", 1000),
        (None, "root", "1:", 1000),
        ("lo", b"root", "1:", 1000),
        ("lo", "root", 1, 1000),
        ("lo", "root", "1:", "1000"),
        ("lo", "root", "1:", 1000.0),
        ("lo", "root", "1:", True),
    ],
)
def test_an_argument_of_another_type_is_a_type_error(port: Wire, arguments: tuple) -> None:
    """What is no text, or no int, is a TypeError, and nothing is sent."""
    with pytest.raises(TypeError):
        port.near.run(plug_qdisc_attach, *arguments)
    assert "plug" not in port.near.kinds("lo")
