# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call costs, in system calls, as strace sees them: the same with 2 links and with 500."""

from __future__ import annotations

from collections import Counter

import libnlplug
from tests.support.netlab import Netns, Wire, random_name
from tests.support.trace import counts, sent, traced


def test_a_toggle_is_one_send_and_one_receive(wire: Wire, tmp_path) -> None:
    """buffer, release_one and release_indefinite: exactly one sendmsg and one recvmsg, nothing else. set_limit first
    asks how large the device's packets are."""
    script = """
plug = libnlplug.attach(device)
for name in ("warm", "once", "again"):
    for verb in (plug.buffer, plug.release_one, plug.release_indefinite):
        mark(f"{name}_{verb.__name__}")
        verb()
    mark(f"{name}_set_limit")
    plug.set_limit(100_000)
mark("end")
"""
    after = traced(wire.near, script, wire.device, tmp_path)
    for verb in ("buffer", "release_one", "release_indefinite", "set_limit"):
        for name in ("once", "again"):
            question = {"sendmsg": 1, "recvmsg": 2} if verb == "set_limit" else {}  # the answer, and an ACK
            expected = Counter({"sendmsg": 1, "recvmsg": 1}) + Counter(question)
            assert counts(after[f"{name}_{verb}"]) == expected, verb


def test_the_ports_toggles_cost_the_same(wire: Wire, tmp_path) -> None:
    """The drop-in port's toggles: one sendmsg and one recvmsg."""
    script = """
from libnlplug import plug_qdisc
assert plug_qdisc.plug_qdisc_attach(device, "root", "1:", 100000) == 0
for name in ("warm", "once"):
    mark(name)
    plug_qdisc.plug_qdisc_plug_buffer()
mark("release")
plug_qdisc.plug_qdisc_release_indefinite_buffer()
mark("end")
"""
    after = traced(wire.near, script, wire.device, tmp_path)
    assert counts(after["once"]) == counts(after["release"]) == {"sendmsg": 1, "recvmsg": 1}


MANY = """
plug = libnlplug.attach(device)
plug.stats()
mark("stats")
plug.stats()
mark("attach")
libnlplug.attach(device)
mark("open")
libnlplug.PlugQdisc.open(device)
mark("detach")
plug.detach()
mark("create")
plug = libnlplug.attach(device)
mark("end")
"""


def test_nothing_costs_more_with_many_links(netns: Netns, tmp_path) -> None:
    """stats, attach, open and detach make the same system calls with 2 links and with 500."""
    devices = [random_name() for _ in range(500)]
    netns.ip(f"link add {devices[0]} type dummy")
    few = traced(netns, MANY, devices[0], tmp_path)
    netns.ip(*(f"link add {device} type dummy" for device in devices[1:]))
    for device in devices[1:100]:
        libnlplug.attach(device, netns=netns).close()
    libnlplug.PlugQdisc.open(devices[0], netns=netns).detach()
    many = traced(netns, MANY, devices[0], tmp_path)
    for name in ("stats", "attach", "open", "detach", "create"):
        few_here, many_here = counts(few[name]), counts(many[name])
        for call in ("sendmsg", "recvmsg"):
            assert few_here[call] == many_here[call] > 0, name
        assert sum(many_here.values()) <= sum(few_here.values()) + 3, name  # memory may have grown meanwhile
    assert counts(many["stats"])["sendmsg"] == 1


def test_attach_looks_again_creates_and_releases(wire: Wire, tmp_path) -> None:
    """Two questions, the second one again with the plug's mark taken, then the new plug and its release in one send."""
    script = """
mark("attach")
libnlplug.attach(device)
mark("end")
"""
    after = traced(wire.near, script, wire.device, tmp_path)
    assert sent(after["attach"]) == [
        ["RTM_GETLINK"],
        ["RTM_GETQDISC"],
        ["RTM_GETQDISC"],
        ["RTM_NEWQDISC", "RTM_NEWQDISC"],
    ]


def test_adopting_asks_and_sends_nothing(wire: Wire, tmp_path) -> None:
    """attach() on a plug that is there, and open(), send questions only: RTM_GETLINK and RTM_GETQDISC."""
    libnlplug.attach(wire.device, netns=wire.near).close()
    script = """
mark("adopt")
libnlplug.attach(device)
mark("open")
libnlplug.PlugQdisc.open(device)
mark("end")
"""
    after = traced(wire.near, script, wire.device, tmp_path)
    assert sent(after["adopt"]) == sent(after["open"]) == [["RTM_GETLINK"], ["RTM_GETQDISC"]]
