# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a plug can be attached, what is adopted, and what is never displaced."""

from __future__ import annotations

import errno
import subprocess

import pytest

import libnlplug
from libnlplug import NetlinkError, PlugQdisc, QdiscExists
from libnlplug import plug as plugs
from tests.support.netlab import FRAME, Wire, descriptors, unable

BAND_1, BAND_3 = 0x1_0001, 0x1_0003  # a packet's priority that is a class of qdisc 1: goes there


@pytest.fixture
def prio(wire: Wire) -> Wire:
    """The wire's device with a prio qdisc of three bands at its root."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio bands 3")
    return wire


def test_the_root_of_a_device_with_its_default(wire: Wire) -> None:
    """At the root stands what the caller asked for: kind plug, the documented handle, released, and nothing else."""
    plug = libnlplug.attach(wire.device, netns=wire.near)
    (shown,) = wire.near.qdiscs(wire.device)
    assert (shown["kind"], shown["handle"], shown["root"]) == ("plug", "504c:", True)
    assert (plug.device, plug.parent, plug.handle, plug.created) == (wire.device, "root", "504c:", True)
    assert plug.last_action == "release_indefinite"
    plug.close()


def test_a_given_handle_is_the_plugs(wire: Wire) -> None:
    """An explicit handle is used as it is: a hexadecimal number, as tc reads and writes it."""
    for handle, shown in (("1:", "1:"), ("40:", "40:"), ("fffe:", "fffe:"), ("0x40:", "40:"), ("40:0", "40:")):
        with libnlplug.attach(wire.device, handle=handle, netns=wire.near) as plug:
            assert wire.near.qdisc(wire.device)["handle"] == plug.handle == shown


def test_a_class_of_prio_holds_only_its_band(prio: Wire) -> None:
    """A plug at 1:3 holds the packets of that band; the other bands go on."""
    plug = libnlplug.attach(prio.device, parent="1:3", netns=prio.near)
    assert (plug.parent, plug.handle) == ("1:3", "5003:")
    assert prio.near.qdisc(prio.device, "1:3")["kind"] == "plug"
    plug.buffer()
    held = prio.send(7, to_class=BAND_3)
    prio.expect(prio.send(5, to_class=BAND_1))
    assert plug.stats().qlen == prio.near.qdisc(prio.device, "1:3")["qlen"] == 7
    plug.release_indefinite()
    prio.expect(held)
    plug.close()


def test_two_classes_at_once(prio: Wire) -> None:
    """Two plugs on two bands of one device hold and release each for itself."""
    one = libnlplug.attach(prio.device, parent="1:1", netns=prio.near)
    three = libnlplug.attach(prio.device, parent="1:3", netns=prio.near)
    one.buffer()
    three.buffer()
    first, third = prio.send(4, to_class=BAND_1), prio.send(6, to_class=BAND_3)
    assert (one.stats().qlen, three.stats().qlen, prio.arrived()) == (4, 6, [])
    three.release_indefinite()
    prio.expect(third)
    assert one.stats().qlen == 4
    one.release_indefinite()
    prio.expect(first)
    one.detach()
    assert three.stats().packets == 6
    three.detach()
    assert prio.near.kinds(prio.device) == ["prio"]


def test_attaching_again_adopts_and_sends_nothing(wire: Wire, plug: PlugQdisc) -> None:
    """attach() on a plug that holds leaves it holding: only a new buffer or release of the caller's changes it."""
    plug.buffer()
    numbers = wire.send(5)
    adopted = libnlplug.attach(wire.device, netns=wire.near)
    numbers += wire.send(5)
    assert (adopted.created, adopted.handle, adopted.limit, adopted.last_action) == (False, plug.handle, None, None)
    assert (adopted.stats().qlen, wire.arrived()) == (10, [])
    adopted.release_indefinite()
    wire.expect(numbers)
    adopted.close()


def test_adopting_with_a_limit_sets_it_and_goes_on_holding(wire: Wire, plug: PlugQdisc) -> None:
    """The one thing an adopted plug is sent is a given limit; whether it holds does not change."""
    wire.shrink()
    plug.buffer()
    numbers = wire.send(5)
    adopted = libnlplug.attach(wire.device, limit=8 * FRAME, netns=wire.near)
    assert (adopted.created, adopted.limit) == (False, 8 * FRAME)
    numbers += wire.send(5)[:3]
    assert (adopted.stats().qlen, adopted.stats().drops) == (8, 2)
    adopted.release_indefinite()
    wire.expect(numbers)
    adopted.close()


def test_adopting_a_plug_of_tc_whatever_its_handle(wire: Wire) -> None:
    """A plug that tc made is a plug: it is adopted with the handle it has, also when that is given."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 77: plug limit 100000")
    for handle in (None, "77:"):
        plug = libnlplug.attach(wire.device, handle=handle, netns=wire.near)
        assert (plug.handle, plug.created) == ("77:", False)
        plug.close()
    opened = PlugQdisc.open(wire.device, netns=wire.near)
    numbers = wire.send(3)  # tc's plug starts holding
    assert opened.stats().qlen == 3
    opened.release_indefinite()
    wire.expect(numbers)
    opened.close()


def test_a_plug_with_another_handle_is_an_error(wire: Wire, plug: PlugQdisc) -> None:
    """A given handle that differs from the plug's is refused, and the plug stays as it is, held packets included."""
    plug.buffer()
    wire.send(4)
    before = wire.near.qdiscs(wire.device)
    with pytest.raises(QdiscExists, match="as 40:: plug 504c: is there; leave the handle out, or give 504c:"):
        libnlplug.attach(wire.device, handle="40:", netns=wire.near)
    assert wire.near.qdiscs(wire.device) == before


@pytest.mark.parametrize("other", ["prio bands 3", "pfifo limit 10", "htb default 1", "fq_codel", "netem delay 1ms"])
def test_a_configured_qdisc_is_never_displaced(wire: Wire, other: str) -> None:
    """Someone else's qdisc at the root is QdiscExists, with or without its handle, and tc shows it unchanged."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: {other}")
    before = wire.near.qdiscs(wire.device)
    for handle in (None, "1:", "40:"):
        with pytest.raises(QdiscExists, match=f"{other.split()[0]} 1: is there and is not replaced"):
            libnlplug.attach(wire.device, handle=handle, netns=wire.near)
        with pytest.raises(FileExistsError):
            libnlplug.attach(wire.device, handle=handle, limit=100_000, netns=wire.near)
    assert wire.near.qdiscs(wire.device) == before


def shown(wire: Wire) -> str:
    """The qdiscs of the wire's device as tc writes them; its JSON of hfsc is none."""
    return str(wire.near.run(subprocess.check_output, ["tc", "qdisc", "show", "dev", wire.device], text=True))


@pytest.mark.parametrize(
    ("kind", "a_class"),
    [("hfsc default 2", "hfsc sc rate 100mbit"), ("drr", "drr"), ("qfq", "qfq weight 1 maxpkt 2000")],
)
@pytest.mark.parametrize("deep", [False, True], ids=["its class", "a class below it"])
def test_below_a_scheduler_that_a_silent_class_stops_it_is_refused(
    wire: Wire, kind: str, a_class: str, deep: bool
) -> None:
    """hfsc, drr and qfq serve no class while one of them holds packets back: no plug is made below them."""
    tc = wire.near.tc
    if subprocess.run(["modprobe", "-q", f"sch_{kind.split()[0]}"]).returncode:
        unable(f"this kernel has no sch_{kind.split()[0]}")
    tc(f"qdisc add dev {wire.device} root handle 1: {kind}")
    tc(f"class add dev {wire.device} parent 1: classid 1:4 {a_class}")
    if deep:
        tc(f"qdisc add dev {wire.device} parent 1:4 handle 2: prio bands 3")
    before = shown(wire)
    with pytest.raises(libnlplug.NetlinkError, match=f"{kind.split()[0]} 1: serves none of its classes") as caught:
        libnlplug.attach(wire.device, parent="2:3" if deep else "1:4", netns=wire.near)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert shown(wire) == before


def test_a_configured_qdisc_of_a_class_is_never_displaced(prio: Wire) -> None:
    """At a class, too, another qdisc stays."""
    prio.near.tc(f"qdisc add dev {prio.device} parent 1:3 handle 30: pfifo limit 10")
    before = prio.near.qdiscs(prio.device)
    with pytest.raises(QdiscExists, match="pfifo 30: is there"):
        libnlplug.attach(prio.device, parent="1:3", netns=prio.near)
    assert prio.near.qdiscs(prio.device) == before


@pytest.fixture
def blind_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """attach()'s first look sees nothing, as if what is there came right after it. True when that has happened."""
    happened: list[bool] = []
    look = plugs.qdisc_at

    def blind(*asked: object) -> object:
        if happened:
            return look(*asked)
        happened.append(True)
        return None

    monkeypatch.setattr(plugs, "qdisc_at", blind)
    return happened


@pytest.mark.parametrize("handle", ["504c:", "1:"])
def test_a_qdisc_that_appears_after_the_look_is_not_displaced(wire: Wire, blind_once: list[bool], handle: str) -> None:
    """The refusal is the kernel's, in one step: a qdisc that comes between the look and the attach stays too."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle {handle} prio bands 3")
    before = wire.near.qdiscs(wire.device)
    with pytest.raises(QdiscExists, match="not replaced"):
        libnlplug.attach(wire.device, netns=wire.near)
    assert wire.near.qdiscs(wire.device) == before
    assert blind_once


def test_a_plug_that_appears_after_the_look_is_adopted(wire: Wire, plug: PlugQdisc, blind_once: list[bool]) -> None:
    """Two processes that attach at once get the same plug: the loser adopts it."""
    blind_once.clear()  # the plug's own attach has used it up
    loser = libnlplug.attach(wire.device, netns=wire.near)
    assert blind_once
    assert (loser.created, loser.handle) == (False, plug.handle)
    loser.close()


def test_open_finds_the_plug_and_sends_it_nothing(wire: Wire, plug: PlugQdisc) -> None:
    """PlugQdisc.open() is the plug that is there, still holding, of any process."""
    plug.buffer()
    numbers = wire.send(3)
    opened = PlugQdisc.open(wire.device, netns=wire.near)
    assert (opened.handle, opened.parent, opened.created, opened.limit) == (plug.handle, "root", False, None)
    assert (opened.stats().qlen, wire.arrived()) == (3, [])
    opened.release_indefinite()
    wire.expect(numbers)
    opened.close()


@pytest.mark.parametrize(
    ("there", "parent", "said"),
    [
        (None, "root", "at root: it has none; attach one first"),
        ("prio bands 3", "root", "at root: the prio there is no plug"),
        ("prio bands 3", "1:2", "at 1:2: it has none"),
        ("prio bands 3", "1:9", "at 1:9: it has none"),
        ("prio bands 3", "7:1", "at 7:1: it has none"),
    ],
)
def test_open_never_creates(wire: Wire, there: str | None, parent: str, said: str) -> None:
    """Without a plug open() is QdiscNotFound, and what is there stays."""
    if there:
        wire.near.tc(f"qdisc add dev {wire.device} root handle 1: {there}")
    before = wire.near.qdiscs(wire.device)
    with pytest.raises(libnlplug.QdiscNotFound, match=said):
        PlugQdisc.open(wire.device, parent=parent, netns=wire.near)
    assert wire.near.qdiscs(wire.device) == before


def test_ingress_and_clsact_do_not_matter(wire: Wire) -> None:
    """A clsact or ingress qdisc stands beside the root: attaching there leaves it alone."""
    wire.near.tc(f"qdisc add dev {wire.device} clsact")
    plug = libnlplug.attach(wire.device, netns=wire.near)
    plug.buffer()
    numbers = wire.send(3)
    assert plug.stats().qlen == 3
    plug.detach()
    wire.expect(numbers)
    assert "clsact" in wire.near.kinds(wire.device)


@pytest.mark.parametrize(("parent", "handle"), [("root", "704c:"), ("1:3", "7003:")])
def test_a_handle_of_a_temporary_plug_is_refused(wire: Wire, parent: str, handle: str) -> None:
    """'libnlplug hold' removes a plug with this handle, so nobody else may attach one with it."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio bands 3")
    before = wire.near.qdiscs(wire.device)
    with pytest.raises(libnlplug.InvalidHandle, match=f"handle is '{handle}': .* choose another one"):
        libnlplug.attach(wire.device, parent=parent, handle=handle, netns=wire.near)
    assert wire.near.qdiscs(wire.device) == before


def test_a_refusal_leaves_no_descriptor_open(wire: Wire) -> None:
    """What attach() and open() refuse keeps no socket, also while the exception is kept."""
    before, kept = descriptors(), []
    for call in (libnlplug.attach, PlugQdisc.open):
        for parent in ("root", "7:1"):
            with pytest.raises(NetlinkError) as raised:
                call("nosuch0" if parent == "root" else wire.device, parent=parent, netns=wire.near)
            kept.append(raised.value)
    assert descriptors() == before


@pytest.mark.parametrize(
    "kind", ["tbf rate 1gbit burst 1mb limit 10mb", "red limit 100000 avpkt 1000 bandwidth 100mbit burst 50"]
)
def test_a_parent_that_would_be_left_without_a_queue_is_refused(wire: Wire, kind: str) -> None:
    """When a plug at its class is removed, each of these drops every packet: so no plug is made there."""
    name = kind.split()[0]
    if subprocess.run(["modprobe", "-q", f"sch_{name}"]).returncode:
        unable(f"this kernel has no sch_{name}")
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: {kind}")
    with pytest.raises(libnlplug.NetlinkError, match=f"{name} 1: leaves a class without a queue") as caught:
        libnlplug.attach(wire.device, parent="1:1", netns=wire.near)
    assert caught.value.errno == errno.EOPNOTSUPP
    wire.expect(wire.send(3))
