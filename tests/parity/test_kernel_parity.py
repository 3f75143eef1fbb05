# SPDX-License-Identifier: GPL-2.0-or-later
"""The port beside the reference program on a kernel with sch_plug: results, messages, and what the kernel shows."""

from __future__ import annotations

import pytest

from tests.support.parity import Device, Pair

pytestmark = pytest.mark.usefixtures("plug_kernel")

PRIO = "qdisc add dev {} root handle 1: prio bands 4 priomap 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3"


@pytest.mark.parametrize("limit", [1, 32768, 2**31 - 1])
@pytest.mark.parametrize("handle", ["-", "1:", "40:", "1:3"])
@pytest.mark.parametrize("parent", ["root", "1:4"])
def test_sequence(pair: Pair, parent: str, handle: str, limit: int) -> None:
    """Attach, buffer, release, buffer, release: the same messages, results and counters after every step."""
    device = pair.new_device()
    if parent == "1:4":
        pair.tc(PRIO.format(device.name))
    pair.begin()
    attaches = (parent, handle) not in [("root", "1:3"), ("1:4", "1:3"), ("1:4", "1:")]
    sent = 0
    for command in (f"attach {device.name} {parent} {handle} {limit}", "buffer", "release", "buffer", "release"):
        returned = pair.call(command)
        assert (returned == 0) == attaches
        assert len(pair.last_sent) == (2 if attaches and command.startswith("attach") else 1)
        pair.send_packets(device, 3)
        sent += 3
        held = 3 if command == "buffer" else 0
        if attaches:
            numbers = {"packets": sent - held, "qlen": held, "drops": 0}
            if limit == 1:
                numbers = {"packets": 0, "qlen": 0, "drops": sent}
            for world in pair.worlds.values():
                assert world.plug(device, **numbers) == numbers
        pair.show(device)


SCENARIOS = {
    "missing class": """
        $ tc PRIO
        attach DEV 1:9 40: 32768 -> -1
        buffer -> -12
        release -> -12
    """,
    "missing parent": """
        attach DEV 7:1 40: 32768 -> -1
        buffer -> -12
        release -> -12
    """,
    "a qdisc as parent, not a class of it": """
        $ tc PRIO
        attach DEV 1: 40: 32768 -> -1
        buffer -> -12
        release -> -12
    """,
    "parent without a colon": """
        $ tc PRIO
        attach DEV 10004 40: 32768 -> 0
        buffer -> 0
        release -> 0
    """,
    "a plug as parent": """
        attach DEV root 1: 32768 -> 0
        attach DEV 1:1 40: 32768 -> -1
        buffer -> -10
        release -> -10
    """,
    "no place as parent, after an attach": """
        attach DEV root 1: 32768 -> 0
        attach DEV none - 32768 -> -1
        buffer -> 0
        release -> 0
    """,
    "no place as parent on another device": """
        attach DEV root 1: 32768 -> 0
        attach OTHER none - 32768 -> -1
        buffer -> -12
        release -> -12
        attach OTHER root - 32768 -> 0
        buffer -> 0
    """,
    "ingress as parent": """
        attach DEV ingress - 32768 -> -1
        buffer
        release
    """,
    "twice": """
        attach DEV root 1: 32768 -> 0
        buffer -> 0
        attach DEV root 1: 100 -> 0
        buffer -> 0
        release -> 0
    """,
    "twice, another id": """
        attach DEV root 1: 32768 -> 0
        attach DEV root 2: 32768 -> -1
        buffer -> -6
        release -> -6
        attach DEV root - 32768 -> -1
        attach DEV root 1: 32768 -> 0
        buffer -> 0
        release -> 0
    """,
    "twice, no id first": """
        attach DEV root - 32768 -> 0
        attach DEV root - 100 -> 0
        buffer -> 0
        attach DEV root 2: 32768 -> -1
        release -> -6
    """,
    "twice, no id second: the first stays": """
        attach DEV root 40: 32768 -> 0
        attach DEV root - 100 -> 0
        buffer -> 0
        release -> 0
    """,
    "another device, no id second: the first stays": """
        attach DEV root 40: 32768 -> 0
        buffer -> 0
        attach OTHER root - 100 -> 0
        buffer -> 0
        release -> 0
        attach DEV root - 32768 -> 0
        release -> 0
    """,
    "the same handle at another class": """
        $ tc PRIO
        attach DEV 1:3 40: 32768 -> 0
        attach DEV 1:4 40: 32768 -> -1
        buffer -> -7
        release -> -7
    """,
    "two plugs on one device": """
        $ tc PRIO
        attach DEV 1:3 30: 32768 -> 0
        attach DEV 1:4 40: 32768 -> 0
        buffer -> 0
        release -> 0
    """,
    "another kind, its handle": """
        $ tc PRIO
        attach DEV root 1: 32768 -> -1
        buffer -> -7
        release -> -7
    """,
    "another kind, another handle": """
        $ tc PRIO
        attach DEV root 40: 32768 -> -1
        buffer -> -6
        release -> -6
    """,
    "another kind, no id": """
        $ tc PRIO
        attach DEV root - 32768 -> -1
        buffer
        release
    """,
    "a plug of tc's": """
        $ tc qdisc add dev DEV root handle 40: plug limit 32768
        attach DEV root 40: 100000 -> 0
        buffer -> 0
        release -> 0
    """,
    "a plug of tc's, no id": """
        $ tc qdisc add dev DEV root handle 40: plug limit 32768
        attach DEV root - 100000 -> 0
        buffer -> 0
        release -> 0
    """,
    "deleted": """
        attach DEV root 1: 32768 -> 0
        buffer -> 0
        $ tc qdisc del dev DEV root
        buffer -> -12
        release -> -12
        attach DEV root 1: 32768 -> 0
        buffer -> 0
        release -> 0
    """,
    "replaced by another kind": """
        attach DEV root 1: 32768 -> 0
        $ tc qdisc replace dev DEV root handle 2: prio
        buffer -> -6
        release -> -6
    """,
    "down and up": """
        attach DEV root 1: 32768 -> 0
        buffer -> 0
        $ ip link set DEV down
        buffer -> 0
        release -> 0
        $ ip link set DEV up && ip route add ADDRESS dev DEV
        buffer -> 0
        release -> 0
    """,
    "renamed": """
        attach DEV root 1: 32768 -> 0
        $ ip link set DEV down && ip link set DEV name DEVx && ip link set DEVx up
        buffer -> 0
        release -> 0
    """,
    "removed": """
        attach DEV root 1: 32768 -> 0
        buffer -> 0
        $ ip link del DEV
        buffer -> -31
        release -> -31
    """,
    "limits beyond an int": """
        attach DEV root 1: 4294967295 -> 0
        buffer -> 0
        attach DEV root 1: 2147483648 -> 0
        release -> 0
    """,
    "the highest handle": """
        attach DEV root ffff: 32768 -> 0
        buffer -> 0
        release -> 0
    """,
    "root as id": """
        attach DEV root root 32768 -> -1
        buffer -> -7
        release -> -7
    """,
    "0: as id": """
        attach DEV root 0: 32768 -> 0
        buffer -> 0
        release -> 0
    """,
    "many toggles": """
        attach DEV root 1: 32768 -> 0
        toggle 50 -> 0
        buffer -> 0
    """,
}


@pytest.mark.parametrize("script", SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(pair: Pair, script: str) -> None:
    """Failures and repetitions: the same messages and results at every step, and the kernel shows the same.

    A step is a command with the value that it returns where every kernel agrees on it, or after $ something done to
    the device from outside.
    """
    device, other = pair.new_device(), pair.new_device()
    pair.begin()
    for line in script.strip().splitlines():
        step = line.strip().replace("PRIO", PRIO.format("DEV")).replace("ADDRESS", device.address)
        step, _, expected = step.replace("DEV", device.name).replace("OTHER", other.name).partition(" -> ")
        if step.startswith("$ tc "):
            pair.tc(step.removeprefix("$ tc "))
        elif step.startswith("$ "):
            pair.sh(step.removeprefix("$ "))
        else:
            returned = pair.call(step)
            assert not expected or returned == int(expected), step
        for seen in (device, other):
            pair.send_packets(seen, 2)
            pair.show(seen)


def test_a_refused_release(pair: Pair) -> None:
    """A release that fails after the attach is a failure of the port's attach, which the C ignores: the plug holds."""
    device = pair.new_device()
    pair.begin(environment={"CALLS_REFUSE": "2"})
    assert pair.call_each(f"attach {device.name} root 40: 32768")[0] == {"c": 0, "port": -1}
    called = pair.calls_each()
    assert called["port"] == called["c"]
    pair.send_packets(device, 2)
    assert pair.worlds["port"].plug(device, qlen=2) == {"qlen": 2}
    assert pair.call("release") == 0
    assert pair.worlds["port"].plug(device, qlen=0) == {"qlen": 0}


def test_limit_0(pair: Pair) -> None:
    """With limit 0 the port's plug takes the kernel's default limit, where the C's drops every packet for ever."""
    device = pair.new_device()
    pair.begin()
    check_limit_0(pair, device)


def test_limit_0_after_another_limit(pair: Pair) -> None:
    """Limit 0 is the kernel's default also where an earlier attach gave a limit, which the C would send again."""
    pair.begin()
    pair.call(f"attach {pair.new_device().name} root 40: 1")
    check_limit_0(pair, pair.new_device())


def check_limit_0(pair: Pair, device: Device) -> None:
    for command in (f"attach {device.name} root 40: 0", "buffer", "release"):
        assert pair.call_each(command)[0] == {"c": 0, "port": 0}
    pair.send_packets(device, 3)
    for name, numbers in (("c", {"packets": 0, "drops": 3}), ("port", {"packets": 3, "drops": 0})):
        assert pair.worlds[name].plug(device, **numbers) == numbers
