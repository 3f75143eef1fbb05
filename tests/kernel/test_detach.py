# SPDX-License-Identifier: GPL-2.0-or-later
"""Going away: detach loses nothing, `with` tidies up what it made and leaves what it found, close touches nothing."""

from __future__ import annotations

import os

import pytest

import libnlplug
from libnlplug import NotDrained, PlugBusy, PlugQdisc, QdiscNotFound
from tests.support.netlab import FRAME, Wire


def test_detach_delivers_what_was_held_and_restores_the_default(wire: Wire, plug: PlugQdisc) -> None:
    """detach() on a plug that holds 100 packets: all 100 arrive in order, and the device's default is back."""
    plug.buffer()
    numbers = wire.send(100)
    plug.detach()
    wire.expect(numbers)
    assert wire.near.kinds(wire.device) == ["noqueue"]
    wire.expect(wire.send(5))


def test_detach_of_a_class_restores_the_classs_default(wire: Wire) -> None:
    """Below a prio qdisc, too: the held packets arrive, the band works on, the plug is gone."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio bands 3")
    plug = libnlplug.attach(wire.device, parent="1:2", netns=wire.near)
    plug.buffer()
    numbers = wire.send(20, to_class=0x1_0002)
    plug.detach()
    wire.expect(numbers)
    wire.expect(wire.send(5, to_class=0x1_0002))
    assert wire.near.kinds(wire.device) == ["prio"]
    plug.close()


def test_deleting_by_hand_drops_what_is_held(wire: Wire, plug: PlugQdisc) -> None:
    """Why detach releases first: the kernel throws away what a deleted plug holds."""
    plug.buffer()
    wire.send(10)
    wire.near.tc(f"qdisc del dev {wire.device} root")
    wire.expect(wire.send(3))  # those that were held before them did not arrive


@pytest.fixture
def stuck(wire: Wire):
    """A plug with 20 released packets that cannot leave: its parent class may send about one packet in a second."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: htb default 1")
    slow = f"rate 1kbit quantum 1500 burst {FRAME} cburst {FRAME}"  # without a quantum, Linux 6.12 warns of its own
    wire.near.tc(f"class add dev {wire.device} parent 1: classid 1:1 htb {slow}")
    plug = libnlplug.attach(wire.device, parent="1:1", netns=wire.near)
    plug.buffer()
    wire.send(20)
    yield wire, plug
    plug.close()


def test_a_queue_that_cannot_drain_is_not_deleted(stuck: tuple[Wire, PlugQdisc]) -> None:
    """detach() of a plug whose released packets cannot leave raises NotDrained with their count and loses none."""
    wire, plug = stuck
    with pytest.raises(NotDrained, match=r"\d+ released packets have not left within 0.05 s; the plug stays") as caught:
        plug.detach(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    left = plug.stats().qlen
    assert 15 <= left < 20
    assert f": {left} released packets" in str(caught.value)

    wire.near.tc(f"class change dev {wire.device} parent 1: classid 1:1 htb rate 1gbit quantum 1500")
    plug.detach(timeout=30)
    wire.expect(list(range(20)))
    assert wire.near.kinds(wire.device) == ["htb"]


def test_a_hold_that_begins_while_detach_waits_is_not_ended(
    wire: Wire, plug: PlugQdisc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody begins to hold after the release of a detach(): PlugBusy, the plug stays, and nothing held is lost."""
    stats = plug.stats

    def begin_meanwhile():
        monkeypatch.undo()
        held.__enter__()
        return stats()

    with PlugQdisc.open(wire.device, netns=wire.near) as other:
        held = other.hold()
        monkeypatch.setattr(plug, "stats", begin_meanwhile)
        with pytest.raises(PlugBusy) as caught:
            plug.detach()
        assert caught.value.pid == os.getpid()
        numbers = wire.send(5)
        assert plug.stats().qlen == 5
        held.__exit__(None, None, None)
        wire.expect(numbers)


def test_leaving_with_says_what_could_not_leave(stuck: tuple[Wire, PlugQdisc]) -> None:
    """A `with` block whose plug cannot drain ends with NotDrained, and the plug stays, released."""
    wire, plug = stuck
    with pytest.raises(NotDrained), plug:
        pass
    assert plug.closed
    assert wire.near.kinds(wire.device) == ["htb", "plug"]


def test_with_removes_what_it_created(wire: Wire) -> None:
    """Leaving the block of a plug that attach() created: held packets arrive, the plug is gone, the object closed."""
    with libnlplug.attach(wire.device, netns=wire.near) as plug:
        plug.buffer()
        numbers = wire.send(10)
    wire.expect(numbers)
    assert wire.near.kinds(wire.device) == ["noqueue"]
    assert plug.closed


def test_with_tidies_up_after_an_exception_too(wire: Wire) -> None:
    """An exception in the block comes out as it is, after the packets were released and the plug removed."""

    def fail() -> None:
        with libnlplug.attach(wire.device, netns=wire.near) as plug:
            plug.buffer()
            wire.send(10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    wire.expect(list(range(10)))
    assert wire.near.kinds(wire.device) == ["noqueue"]


@pytest.mark.parametrize("last", ["buffer", "release_one"])
def test_with_releases_what_it_adopted_and_left_holding(wire: Wire, plug: PlugQdisc, last: str) -> None:
    """An adopted plug stays; where this object's last word left it holding, it is released."""
    with libnlplug.attach(wire.device, netns=wire.near) as adopted:
        adopted.buffer()
        getattr(adopted, last)()
        numbers = wire.send(5)
        assert plug.stats().qlen == 5
    wire.expect(numbers)
    wire.expect(wire.send(5))
    assert wire.near.kinds(wire.device) == ["plug"]


@pytest.mark.parametrize("words", [[], ["stats"]])
def test_with_leaves_alone_what_it_adopted_and_never_toggled(wire: Wire, plug: PlugQdisc, words: list[str]) -> None:
    """An adopted plug that somebody else holds goes on holding when the block ends."""
    plug.buffer()
    with libnlplug.attach(wire.device, netns=wire.near) as adopted:
        for word in words:
            getattr(adopted, word)()
    numbers = wire.send(5)
    assert (plug.stats().qlen, wire.near.kinds(wire.device)) == (5, ["plug"])
    plug.release_indefinite()
    wire.expect(numbers)


def test_with_does_not_repeat_a_release(wire: Wire, plug: PlugQdisc) -> None:
    """Where the last word to an adopted plug was release_indefinite, a buffer of somebody else's stands."""
    with libnlplug.attach(wire.device, netns=wire.near) as adopted:
        adopted.buffer()
        adopted.release_indefinite()
        plug.buffer()
    wire.send(5)
    assert plug.stats().qlen == 5


def test_with_after_detach_is_quiet(wire: Wire) -> None:
    """A plug that was detached inside its block needs nothing more."""
    with libnlplug.attach(wire.device, netns=wire.near) as plug:
        plug.detach()
    assert (wire.near.kinds(wire.device), plug.closed) == (["noqueue"], True)


def test_with_is_quiet_about_an_idle_plug_that_is_gone(wire: Wire) -> None:
    """A plug that held nothing and was deleted by somebody else is what leaving wanted anyway."""
    with libnlplug.attach(wire.device, netns=wire.near):
        wire.near.tc(f"qdisc del dev {wire.device} root")


def test_with_is_loud_about_a_held_plug_that_is_gone(wire: Wire) -> None:
    """A plug that was deleted while it held took packets with it: leaving raises."""
    plug = libnlplug.attach(wire.device, netns=wire.near)
    plug.buffer()
    wire.send(3)
    wire.near.tc(f"qdisc del dev {wire.device} root")
    with pytest.raises(QdiscNotFound), plug:
        pass
    assert plug.closed


def test_close_never_touches_the_kernel(wire: Wire) -> None:
    """close() leaves the plug as it is, holding, and can be repeated; another object releases it."""
    plug = libnlplug.attach(wire.device, netns=wire.near)
    plug.buffer()
    plug.close()
    plug.close()
    numbers = wire.send(5)
    assert wire.near.qdisc(wire.device)["qlen"] == 5
    opened = PlugQdisc.open(wire.device, netns=wire.near)
    opened.release_indefinite()
    wire.expect(numbers)
    opened.close()


def test_without_with_the_plug_outlives_its_object(wire: Wire) -> None:
    """An object that is forgotten closes its socket only: the plug holds on."""
    plug = libnlplug.attach(wire.device, netns=wire.near)
    plug.buffer()
    del plug
    wire.send(5)
    assert wire.near.qdisc(wire.device)["qlen"] == 5
