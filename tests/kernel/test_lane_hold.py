# SPDX-License-Identifier: GPL-2.0-or-later
"""Guarded holds on a lane: as on a plug, the holder's death and the timeout release; and nothing is held unguarded."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import suppress

import pytest

from libnlplug import (
    HoldExpired,
    Match,
    NetlinkError,
    PacketsDropped,
    PlugBusy,
    PlugLane,
    PlugQdisc,
    QdiscNotFound,
)
from libnlplug.hold import Hold, PacketsUncounted
from libnlplug.lane.hold import LaneHold
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.hold import Child, child, expect_ended, marks
from tests.support.lane import UDP, listed, tc, tc_filters
from tests.support.lane import marks as all_marks
from tests.support.netlab import PORT, Wire, eventually
from tests.support.road import FAR, Flow, Road, veth

HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])


@pytest.fixture
def road():
    """A veth pair."""
    with veth() as made:
        yield made


@HOOKS
def test_the_report(road: Road, ingress: bool) -> None:
    """Packets and bytes that were held, none dropped, and for how long."""
    flow = road.flow(ingress)
    with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane:
        began = time.monotonic()
        with lane.hold(timeout=5) as held:
            numbers = flow.expect_held(lane, 9)
        assert 0 < held.seconds < time.monotonic() - began
        assert (held.packets, held.bytes, held.dropped, held.expired) == (9, 900, 0, False)
        flow.expect(numbers)
        with lane.hold() as again:
            pass
        assert again.packets == 0


@pytest.mark.parametrize(
    ("number", "ingress"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False)]
)
def test_the_holder_dies(road: Road, ingress: bool, number: int) -> None:
    """A holder that is killed leaves nothing held: the guard releases, and later packets flow through the orphan."""
    flow = road.flow(ingress)

    def hold(this: Child) -> None:
        lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
        with lane.hold(timeout=60):
            this.say(lane.plug._guard.pid)  # type: ignore[union-attr]
            signal.pause()

    with child(hold) as holder:
        guard = holder.hear()
        numbers = flow.send(5)
        lane = PlugQdisc.open(listed(road.near, road.device)[0].ifb, netns=road.near)
        eventually(lambda: lane.stats().qlen == 5, "5 packets wait")
        assert flow.arrived() == []
        holder.kill(number)
        assert holder.status() == -number
    flow.expect(numbers + flow.send(5))
    expect_ended(guard)
    assert [found.state for found in listed(road.near, road.device)] == ["orphan"]
    PlugLane(road.device, UDP, ingress=ingress, netns=road.near).close()


@HOOKS
def test_the_time_is_up(road: Road, ingress: bool) -> None:
    """At the timeout the packets flow; leaving raises HoldExpired; the lane is whole and can hold again."""
    flow = road.flow(ingress)
    with PlugLane(road.device, UDP, ingress=ingress, netns=road.near) as lane:
        with pytest.raises(HoldExpired), lane.hold(timeout=0.2) as held:
            flow.expect(flow.send(3))
        assert held.expired
        with lane.hold():
            numbers = flow.expect_held(lane)
        flow.expect(numbers)


def test_on_death_drop(wire: Wire) -> None:
    """on_death='drop': what a killed holder held is thrown away, what comes later flows; no lane without its plug."""

    def hold(this: Child) -> None:
        lane = PlugLane(wire.device, UDP, netns=wire.near)
        with lane.hold(on_death="drop"):
            this.say(1)
            signal.pause()

    with child(hold) as holder:
        holder.hear()
        adopter = PlugLane(wire.device, UDP, netns=wire.near)
        wire.send(5)
    eventually(lambda: marks(wire.near) == [], "the guard has done it")
    wire.expect(wire.send(3))
    with pytest.raises(QdiscNotFound, match="it is gone"), adopter.hold():
        pytest.fail("it held")
    adopter.close()
    with PlugLane(wire.device, UDP, netns=wire.near) as lane, lane.hold():
        assert lane.created
        numbers = wire.send(3)
    wire.expect(numbers)


def test_an_expired_drop_leaves_a_lane_without_a_plug(wire: Wire) -> None:
    """The holder overstays with on_death='drop': the lane can hold no longer, says so, and closes quietly."""
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        hold = lane.hold(timeout=0.1, on_death="drop")
        hold.__enter__()
        wire.send(3)
        eventually(lambda: marks(wire.near) == [], "the guard has done it")
        wire.expect(wire.send(2))
        with pytest.raises(HoldExpired, match="the guard deleted the plug"):
            hold.__exit__(None, None, None)
        with pytest.raises(QdiscNotFound, match="it is gone"), lane.hold():
            pytest.fail("it held")
    assert wire.near.kinds(wire.device) == ["noqueue", "clsact"]


def test_one_hold_at_a_time(wire: Wire) -> None:
    """A second hold of the lane, by the same object or another, is PlugBusy; of another lane it is not."""
    with PlugLane(wire.device, UDP, netns=wire.near) as lane, lane.hold():
        for second in (lane, PlugLane(wire.device, UDP, netns=wire.near)):
            with pytest.raises(PlugBusy), second.hold():
                pytest.fail("it held twice")
        with PlugLane(wire.device, UDP, ingress=True, netns=wire.near) as other, other.hold():
            numbers = wire.send(3)
        assert lane.plug.stats().qlen == 3
    wire.expect(numbers)


def test_a_hold_is_checked_before_it_begins(wire: Wire) -> None:
    """A timeout or on_death that cannot be is ValueError before anything is asked of the kernel."""
    with PlugLane(wire.device, UDP, netns=wire.near) as lane:
        with pytest.raises(ValueError, match="timeout is 0"):
            lane.hold(timeout=0)
        with pytest.raises(ValueError, match="on_death is 'maybe'"):
            lane.hold(on_death="maybe")


@HOOKS
def test_a_lane_that_breaks_during_a_hold_is_told(road: Road, ingress: bool) -> None:
    """The lane's filters are deleted in the block: leaving it says so, the counts are not known, and it is released."""
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    flow = road.flow(ingress)
    with pytest.raises(QdiscNotFound, match="its filters are gone"), lane.hold() as held:
        numbers = flow.expect_held(lane)
        tc(road.near, f"filter del dev {road.device} {'ingress' if ingress else 'egress'}")
    assert (held.packets, held.bytes, held.dropped) == (None, None, None)
    flow.expect(numbers)
    lane.close()


@pytest.mark.parametrize(
    ("other", "ingress"),
    [
        ("dst_port 9 action mirred egress redirect dev {ifb}", False),
        ("dst_port 9 action mirred egress redirect dev {ifb}", True),
        (f"dst_port {PORT} action pass", False),
        (f"dst_port {PORT} action continue", True),
    ],
)
def test_a_lane_whose_filter_was_replaced_is_told(road: Road, ingress: bool, other: str) -> None:
    """Someone replaces a filter of the lane, by one that matches other packets or that does not lead to the ifb:
    leaving the block says so, the counts are not known, and so does the next hold, and the list of the lanes."""
    hook, flow = "ingress" if ingress else "egress", road.flow(ingress)
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    other = f"flower ip_proto udp {other.format(ifb=lane.ifb)}"
    with pytest.raises(QdiscNotFound, match="its filters were changed; close it and make it again"):
        with lane.hold() as held:
            numbers = flow.expect_held(lane)
            tc(road.near, f"filter replace dev {road.device} {hook} pref 65280 handle 0x10001 protocol ip {other}")
            flow.expect(missed := flow.send())
    assert (held.packets, held.bytes, held.dropped) == (None, None, None)
    flow.expect(numbers)
    with pytest.raises(QdiscNotFound, match="its filters were changed"), lane.hold():
        pytest.fail("it held")
    (found,) = listed(road.near, road.device)
    assert found.trouble == "its filters were changed: its program must close it and make it again"
    lane.close()
    assert missed
    left = [shown for shown in tc_filters(road.near, road.device)[hook] if "options" in shown]
    assert len(left) == ("redirect" not in other)  # what leads nowhere of the lane's is not the lane's to delete
    tc(road.near, *(f"filter del dev {road.device} {hook} pref 65280" for _ in left))


@pytest.mark.parametrize(
    ("line", "ingress"),
    [
        ("pref 65500 matchall action pass", False),
        ("pref 65500 matchall action pass", True),
        ("pref 65280 protocol ip flower ip_proto udp action mirred egress redirect dev lo", False),
        ("pref 65281 protocol ipv6 flower action mirred egress redirect dev lo", True),
    ],
)
def test_a_filter_that_comes_behind_a_lane_during_its_hold_is_told(road: Road, line: str, ingress: bool) -> None:
    """What the lane held bypasses a filter that somebody has put behind it meanwhile, or among its own, wherever that
    leads: leaving says so, as entering."""
    hook, prio = "ingress" if ingress else "egress", line.split()[1]
    lane, flow = PlugLane(road.device, UDP, ingress=ingress, netns=road.near), road.flow(ingress)
    words = f"filter of preference {prio} would not see the packets that the lane takes"
    with pytest.raises(NetlinkError, match=words), lane.hold() as held:
        numbers = flow.expect_held(lane)
        tc(road.near, f"filter add dev {road.device} {hook} {line}")
    assert (held.packets, held.bytes, held.dropped) == (None, None, None)
    flow.expect(numbers)
    with pytest.raises(NetlinkError, match=words), lane.hold():
        pytest.fail("it held")
    lane.close()
    with pytest.raises(NetlinkError, match=words):
        PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    tc(road.near, f"filter del dev {road.device} {hook} pref {prio}")


@HOOKS
def test_a_device_that_is_down_when_its_hold_ends(wire: Wire, ingress: bool) -> None:
    """What is released to a device that has gone down is lost: an error says so, and the counts are not known. What is
    given back to its ingress arrives."""
    lane = PlugLane(wire.device, UDP, ingress=ingress, netns=wire.near)
    with suppress(NetlinkError) if ingress else pytest.raises(NetlinkError, match="the device is down, and the k"):
        with lane.hold() as held:
            wire.send(3)
            wire.near.ip(f"link set {wire.device} down")
    assert (held.packets, held.dropped) == ((0, 0) if ingress else (None, None))
    with lane.hold() as held:
        wire.near.ip(f"link set {wire.device} up")
    assert held.packets == 0
    lane.close()


def test_messages_name_the_device_and_the_match(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows the ifb: warnings, the error and the log's record name the lane's device and match. The warnings
    point to the block."""
    wire.shrink()
    shown = f"{wire.device} ({UDP} arriving)"
    with PlugLane(wire.device, UDP, ingress=True, netns=wire.near) as lane:
        with pytest.raises(HoldExpired) as raised, lane.hold(timeout=0.05):
            eventually(lambda: marks(wire.near) == [], "the time is up")
    assert str(raised.value).startswith(f"the hold of {shown} overstayed its timeout of 0.05 s")
    assert raised.value.device == wire.device
    assert [record.getMessage() for record in caplog.records] == [str(raised.value)]

    shown = f"{wire.device} ({UDP})"
    with PlugLane(wire.device, UDP, limit=300, netns=wire.near) as lane:
        with pytest.warns(PacketsDropped) as full, lane.hold():
            wire.send(5)
        with pytest.warns(PacketsUncounted) as unknown, lane.hold():
            wire.near.ip(f"link set {lane.ifb} txqueuelen 7")
    assert str(full[0].message).startswith(f"2 packets were dropped while {shown} was held")
    assert f"dropped on {shown} is unknown: its txqueuelen was changed" in str(unknown[0].message)
    assert [warning.filename for warning in (*full, *unknown)] == [__file__, __file__]


@pytest.mark.parametrize("moment", ["entered", "left"])
def test_an_interrupt_between_two_steps_of_a_hold(road: Road, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Ctrl-C right after the hold has begun, or right before it ends, outside of what is interrupted itself."""
    enter = Hold.__enter__

    def entered(held: Hold) -> None:
        enter(held)
        raise KeyboardInterrupt

    def left(held: LaneHold, broken: object) -> None:
        raise KeyboardInterrupt

    with PlugLane(road.device, UDP, netns=road.near) as lane:
        if moment == "entered":
            monkeypatch.setattr(Hold, "__enter__", entered)
        else:
            monkeypatch.setattr(LaneHold, "_leave_checked", left)
        with pytest.raises(KeyboardInterrupt), lane.hold():
            assert moment == "left"
        assert lane.plug.holder() is None


@HOOKS
def test_nothing_is_held_without_a_guard(road: Road, ingress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug is made and released under its mark, before there is a filter; the guard sends what holds; the filters
    come last and go before the ifb."""
    said: list[str] = []
    flow = road.flow(ingress)

    def watch(name: str) -> None:
        word = getattr(RouteSocket, name)

        def watched(sk: RouteSocket, *arguments):
            operation = next(part for part in arguments if isinstance(part, str))
            if operation.split()[0] not in ("find", "list", "read"):
                count = f" ({len(arguments[1])})" if name == "execute_all" else ""
                guarded = " with a mark" if any("-hold/" in name for name in all_marks(road.near)) else ""
                said.append(f"{operation}{count}{guarded}")
            return word(sk, *arguments)

        monkeypatch.setattr(RouteSocket, name, watched)

    for name in ("execute", "execute_all", "ask"):
        watch(name)
    lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    flow.expect(flow.send())
    with lane.hold():
        numbers = flow.expect_held(lane)
    flow.expect(numbers)
    lane.close()
    monkeypatch.undo()
    assert said == [
        "make the ifb",
        "describe the ifb",
        "set addrgenmode of",
        "set up the ifb",
        "attach a plug to (2) with a mark",  # made and released in one send; nobody else can hold it yet
        "add a clsact qdisc to",
        "add a filter to (4)",
        "describe the ifb",
        "release with a mark",  # close(); the hold's buffer and release were the guard's
        "delete a filter of (4) with a mark",
        "delete the ifb with a mark",
    ]


def test_the_main_use(road: Road) -> None:
    """A server is replaced under a hold of its new connections: none of the clients' many connections is lost. (The
    device has its clsact before: making it may lose an ACK, and that handshake would end with the old listener.)"""
    match = Match(ip_proto="tcp", dst_port=PORT, tcp_syn=True)
    road.near.tc(f"qdisc add dev {road.device} clsact")

    def serve() -> socket.socket:
        listener = road.far.run(socket.socket)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((FAR, PORT))
        listener.listen(512)

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"!")

        threading.Thread(target=answer, daemon=True).start()
        return listener

    answers: list[object] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            sock = road.near.run(socket.socket)
            sock.settimeout(10)
            try:
                sock.connect((FAR, PORT))
                answers.append(sock.recv(1))
            except OSError as error:
                answers.append(error)
            sock.close()

    listener = serve()
    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    with PlugLane(road.device, match, netns=road.near) as lane:
        for _ in range(3):
            count = len(answers)
            eventually(lambda count=count: len(answers) > count + 10, "connections are made")
            with lane.hold(timeout=5) as held:
                eventually(lambda: lane.plug.stats().qlen, "a client waits")
                settled = time.monotonic() + 0.5
                eventually(lambda settled=settled: time.monotonic() > settled, "what was accepted is answered")
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()
                listener = serve()
            assert held.packets
    over.set()
    for client in clients:
        client.join()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert set(answers) == {b"!"}


def test_two_lanes_in_one_process_hold_apart(road: Road) -> None:
    """Two lanes of a process, each with a hold of its own: the end of one does not end the other."""
    other = Flow(road.near, road.far, FAR, 7010)
    first = PlugLane(road.device, UDP, netns=road.near)
    second = PlugLane(road.device, Match(ip_proto="udp", dst_port=7010), netns=road.near)
    with second.hold():
        with first.hold():
            numbers = road.leaving.expect_held(first)
            others = other.expect_held(second)
        road.leaving.expect(numbers)
        assert other.arrived() == []
    other.expect(others)
    first.close()
    second.close()
    other.close()
