# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing aborts the process: no device, parent, handle or limit reaches one of libnl's assertions.

Debian's libnl aborts on a request without an interface index, a parent or a handle. All of these tests run in one
process; an abort would end it, and so the whole test run.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import libnlplug
from libnlplug import PlugQdisc, plug_qdisc
from tests.support.netlab import Netns

DEVICES = ("lo", "plain0", "down0", "plug0", "prio0", "htb0", "clsact0")
HANDLES = (
    ["root", "none", "ingress", "clsact", "1:", "1:1", "1:3", "1:4", "1:9", "1:ffff", "7:1", "504c:", "504c:1", "40:"]
    + ["ffff:", "ffff:1", "ffff:fff1", "ffff:fff2", "ffff:fff3", "ffff:ffff", "fffe:", "0:", "0", "1", ":1", ":"]
    + ["x:1", "1:x", "10000:", "1:10000", "-1", "-1:", "0x1:0x1", "1:1:1", "", " 1:", "1: ", "\0", "1:\0", "\ud800"]
)
devices = st.sampled_from([*DEVICES, "", "a" * 15, "a" * 16, "lo\0", ".", "lo%d", "*", "\udcff"]) | st.text(max_size=20)
handles = st.sampled_from(HANDLES) | st.from_regex(r"\A[0-9a-f]{0,5}:[0-9a-f]{0,5}\Z") | st.text(max_size=12)
numbers = [-1, 0, 1, 1000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64]
limits = st.sampled_from(numbers) | st.integers(-(2**70), 2**70)
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | st.just(object()) | handles


@pytest.fixture
def devices_of_all_sorts():
    """Devices with every sort of root: default, a plug, prio, htb with a class; one that is down, one with clsact."""
    netns = Netns()  # and not one that was used: tc remembers names, and these are not random
    for device in DEVICES[1:]:
        netns.ip(f"link add {device} type dummy")
        if device != "down0":
            netns.ip(f"link set {device} up")
    netns.tc(
        "qdisc add dev plug0 root handle 504c: plug limit 10000",
        "qdisc add dev prio0 root handle 1: prio bands 3",
        "qdisc add dev htb0 root handle 1: htb",
        "class add dev htb0 parent 1: classid 1:1 htb rate 1mbit",
        "qdisc add dev clsact0 clsact",
    )
    yield netns
    netns.close()


@pytest.fixture
def witness(devices_of_all_sorts: Netns):
    """A plug of the test's own, whose socket must go on working."""
    plug = libnlplug.attach("plain0", handle="fe:", netns=devices_of_all_sorts)
    yield plug
    plug.close()


@settings(max_examples=100)
@given(device=devices, parent=handles, handle=st.none() | handles, limit=st.none() | limits)
@example(device="lo", parent="root", handle=None, limit=None)
@example(device="htb0", parent="1:1", handle="40:", limit=1)
def test_attach_and_open_raise_what_they_declare(
    devices_of_all_sorts: Netns, witness: PlugQdisc, device: str, parent: str, handle: str | None, limit: int | None
) -> None:
    """attach() and open() give a plug that works, or NetlinkError or ValueError; other sockets are not disturbed."""
    netns = devices_of_all_sorts
    for make in (
        lambda: libnlplug.attach(device, parent=parent, handle=handle, limit=limit, netns=netns),
        lambda: PlugQdisc.open(device, parent=parent, netns=netns),
    ):
        try:
            plug = make()
        except (libnlplug.NetlinkError, ValueError):
            continue
        plug.buffer()
        plug.release_one()
        assert plug.stats().qlen == 0
        plug.set_limit(100_000)
        plug.release_indefinite()
        if plug.created:
            plug.detach()
        plug.close()
    witness.buffer()
    witness.release_indefinite()
    assert witness.stats().qlen == 0


@settings(max_examples=60)
@given(device=anything, parent=anything, handle=anything, limit=anything)
def test_values_of_any_type_are_refused_or_work(
    devices_of_all_sorts: Netns, device: object, parent: object, handle: object, limit: object
) -> None:
    """What is no text or number at all is TypeError or ValueError, and never reaches libnl."""
    for arguments in ({"parent": parent}, {"handle": handle}, {"limit": limit}, {"parent": parent, "limit": limit}):
        for where in (device, "plain0"):
            try:
                with libnlplug.attach(where, netns=devices_of_all_sorts, **arguments) as plug:  # type: ignore[arg-type]
                    assert plug.stats().qlen == 0
            except (libnlplug.NetlinkError, TypeError, ValueError):
                pass


PORT_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("attach"), devices, handles, st.none() | handles, limits),
        st.sampled_from([("buffer",), ("release",), ("init",)]),
    ),
    max_size=8,
)


@settings(max_examples=40)
@given(steps=PORT_STEPS)
@example(steps=[("attach", "lo", "none", None, 1), ("buffer",), ("release",)])
@example(steps=[("attach", "plain0", "none", "1:", 1), ("buffer",), ("attach", "plain0", "root", None, 1), ("buffer",)])
@example(steps=[("init",), ("buffer",), ("release",)])
def test_the_port_returns_numbers(devices_of_all_sorts: Netns, steps: list[tuple]) -> None:
    """Whatever order and arguments: each of the port's functions returns an int, and works again afterwards."""
    netns = devices_of_all_sorts

    def play() -> None:
        assert plug_qdisc.qdisc_init() == 0
        for step in steps:
            if step[0] == "attach":
                assert plug_qdisc.plug_qdisc_attach(*step[1:]) in (0, -1)
            elif step[0] == "init":
                assert plug_qdisc.qdisc_init() == 0
            elif step[0] == "buffer":
                assert -40 < plug_qdisc.plug_qdisc_plug_buffer() <= 0
            else:
                assert -40 < plug_qdisc.plug_qdisc_release_indefinite_buffer() <= 0

    netns.run(play)
    for device in ("lo", "plain0", "down0", "clsact0"):
        if any(shown.get("root") and shown["handle"] != "0:" for shown in netns.qdiscs(device)):
            netns.tc(f"qdisc del dev {device} root")
    assert plug_qdisc.plug_qdisc_attach("plain0", "root", "fe:", 10_000) == 0
    assert plug_qdisc.plug_qdisc_plug_buffer() == 0
    assert plug_qdisc.plug_qdisc_release_indefinite_buffer() == 0
    netns.tc("qdisc del dev plain0 root")
