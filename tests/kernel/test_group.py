# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugGroup: all devices are held and released together, in one send, and what fails is named."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import re
import socket
import threading

import pytest

import libnlplug
from libnlplug import (
    ClosedError,
    DeviceNotFound,
    ForkedError,
    GroupError,
    NotPermitted,
    PlugGroup,
    PlugQdisc,
    QdiscNotFound,
)
from libnlplug.netlink.route_socket import QdiscInfo, RouteSocket
from tests.support.fleet import Fleet, fleet_of
from tests.support.netlab import Netns, eventually, in_child, unprivileged
from tests.support.trace import counts, sent, traced

BATCH_OF_ONE_SMALL_BUFFER = 76  # messages of 60 bytes in the smallest SO_SNDBUF that the kernel grants


@pytest.fixture
def fleet():
    """Five devices with a plug each."""
    with fleet_of(5) as made:
        yield made


def test_all_hold_and_all_release(fleet: Fleet) -> None:
    """buffer() holds on every device, release_indefinite() lets everything go on every device."""
    group = PlugGroup(fleet.plugs)
    group.buffer()
    fleet.send(3)
    assert fleet.waiting() == [3] * 5
    assert [plug.last_action for plug in group.plugs] == ["buffer"] * 5
    group.release_indefinite()
    eventually(lambda: fleet.waiting() == [0] * 5, "all queues are empty")
    fleet.send(2)
    assert fleet.waiting() == [0] * 5
    assert [plug.last_action for plug in group.plugs] == ["release_indefinite"] * 5
    assert [stats.packets for stats in group.stats().values()] == [5] * 5


def test_epochs_of_a_group(fleet: Fleet) -> None:
    """release_one() lets exactly the epoch before the latest buffer() go, on every device."""
    group = PlugGroup(fleet.plugs)
    group.buffer()
    fleet.send(4)
    group.buffer()
    fleet.send(1)
    group.release_one()
    eventually(lambda: fleet.waiting() == [1] * 5, "the first epoch has gone")
    assert {plug.last_action for plug in group.plugs} == {"release_one"}
    group.release_indefinite()
    eventually(lambda: fleet.waiting() == [0] * 5, "all queues are empty")


@pytest.mark.parametrize("gone", [0, 2, 4])
def test_a_device_that_is_gone_is_named_and_the_others_are_done(fleet: Fleet, gone: int) -> None:
    """One device less, the first, a middle one or the last: GroupError names it alone, the others hold and release."""
    group = PlugGroup(fleet.plugs)
    lost = fleet.plugs[gone]
    fleet.remove(gone)
    with pytest.raises(GroupError, match=f"1 of 5 plugs failed, the others are done: .*{lost.device}") as caught:
        group.buffer()
    assert list(caught.value.failures) == [lost]
    assert isinstance(caught.value.failures[lost], DeviceNotFound)
    assert caught.value.errno == caught.value.failures[lost].errno
    assert [plug.last_action for plug in fleet.plugs].count("buffer") == 4
    assert lost.last_action == "release_indefinite"  # of the attach
    for number, device in enumerate(fleet.plugs):
        if device is not lost:
            fleet._source.sendto(b"x", (f"10.0.{number}.2", 7009))
    assert fleet.waiting() == [1] * 4
    with pytest.raises(GroupError):
        group.release_indefinite()
    eventually(lambda: fleet.waiting() == [0] * 4, "the others are released")
    assert lost not in group.stats()
    assert len(group.stats()) == 4


def test_a_plug_that_a_dump_misses_is_counted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's dump misses a device where another one is deleted meanwhile: a plug that is there has its counters
    all the same, in stats() and in a hold's report, and only one that is gone has none."""
    group, whole = PlugGroup(fleet.plugs), RouteSocket.qdiscs

    def qdiscs(sk: RouteSocket, wanted: set[tuple[int, int]]) -> list[QdiscInfo]:
        return [info for info in whole(sk, wanted) if info.ifindex != fleet.plugs[2]._ifindex]

    monkeypatch.setattr(RouteSocket, "qdiscs", qdiscs)
    with group.hold() as held:
        fleet.send(1)
        assert {plug: stats.qlen for plug, stats in group.stats().items()} == dict.fromkeys(fleet.plugs, 1)
    assert held.packets == 5
    fleet.remove(2)
    assert set(group.stats()) == {*fleet.plugs[:2], *fleet.plugs[3:]}
    group.close()


def test_each_failure_has_its_own_reason(fleet: Fleet) -> None:
    """A removed device, a removed plug and a plug that another qdisc replaced: each with the error of a single call."""
    group = PlugGroup(fleet.plugs)
    fleet.netns.tc(f"qdisc del dev {fleet.devices[1]} root")
    fleet.netns.tc(f"qdisc replace dev {fleet.devices[2]} root handle 7: prio")
    removed, deleted, replaced = fleet.plugs[0], fleet.plugs[1], fleet.plugs[2]
    fleet.remove(0)
    with pytest.raises(GroupError) as caught:
        group.buffer()
    failures = caught.value.failures
    assert {plug: type(error) for plug, error in failures.items()} == {
        removed: DeviceNotFound,
        deleted: QdiscNotFound,
        replaced: QdiscNotFound,
    }
    for plug, error in failures.items():
        assert (error.device, error.operation) == (plug.device, "buffer on")
        with pytest.raises(type(error)) as alone:
            plug.buffer()
        assert str(alone.value) == str(error)
    assert caught.value.errno is None
    assert set(group.stats()) == set(fleet.plugs[3:])
    again = pickle.loads(pickle.dumps(caught.value))
    assert set(again.failures) == {removed.device, deleted.device, replaced.device}
    with contextlib.suppress(GroupError):
        group.release_indefinite()


def test_more_failures_than_a_queue_of_answers_takes() -> None:
    """300 of 400 devices are gone: exactly these are named, each with its reason, and the other 100 hold."""
    with fleet_of(400) as fleet:
        group = PlugGroup(fleet.plugs)
        gone = random.Random(5).sample(range(400), 300)
        lost = {fleet.plugs[number] for number in gone}
        fleet.remove(*gone)
        with pytest.raises(GroupError, match="300 of 400 plugs failed.*; and 297 more") as caught:
            group.buffer()
        assert set(caught.value.failures) == lost
        assert {type(error) for error in caught.value.failures.values()} == {DeviceNotFound}
        assert {plug.last_action for plug in set(fleet.plugs) - lost} == {"buffer"}
        for number, plug in enumerate(fleet.plugs):
            if plug not in lost:
                fleet._source.sendto(b"x", (f"10.{number >> 8}.{number & 255}.2", 7009))
        assert [stats.qlen for stats in group.stats().values()] == [1] * 100
        with pytest.raises(GroupError):
            group.release_indefinite()
        eventually(lambda: {stats.qlen for stats in group.stats().values()} == {0}, "all queues are empty")


def test_no_send_has_more_answers_than_the_queue_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 failures over a socket whose queue takes a few answers, and which may not have more: none is lost."""
    with fleet_of(60) as fleet:
        with socket.socket(fileno=os.dup(fleet.plugs[0]._sk.fileno())) as shared:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        monkeypatch.setattr(RouteSocket, "make_room", lambda self, answers: (1 << 20, 4))
        group = PlugGroup(fleet.plugs)
        fleet.remove(*range(60))
        with pytest.raises(GroupError) as caught:
            group.buffer()
        assert list(caught.value.failures) == fleet.plugs
        assert {type(error) for error in caught.value.failures.values()} == {DeviceNotFound}


def test_sends_are_split_at_what_a_socket_takes() -> None:
    """More messages than one send takes: all devices are toggled all the same, and failures named in every send."""
    count = 2 * BATCH_OF_ONE_SMALL_BUFFER + 10
    with fleet_of(count) as fleet:
        with socket.socket(fileno=os.dup(fleet.plugs[0]._sk.fileno())) as shared:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        group = PlugGroup(fleet.plugs)
        group.buffer()
        fleet.send(1)
        assert [stats.qlen for stats in group.stats().values()] == [1] * count
        gone = [3, BATCH_OF_ONE_SMALL_BUFFER + 3, count - 1]
        lost = [fleet.plugs[number] for number in gone]
        fleet.remove(*gone)
        with pytest.raises(GroupError) as caught:
            group.release_indefinite()
        assert list(caught.value.failures) == lost
        eventually(lambda: {stats.qlen for stats in group.stats().values()} == {0}, "all queues are empty")


def test_hundreds_of_devices_cost_one_send(tmp_path) -> None:
    """An action on 200 devices is one sendmsg and one recvmmsg, and the group has no descriptor of its own."""
    script = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
plugs = [libnlplug.attach(f"{device}{number}") for number in range(200)]
before = os.listdir("/proc/self/fd")
group = libnlplug.PlugGroup(plugs)
assert os.listdir("/proc/self/fd") == before
for name in ("buffer", "release_one", "release_indefinite"):
    action = getattr(group, name)
    mark(name)
    action()
mark("stats")
group.stats()
mark("end")
"""
    netns, device = Netns(), "t"
    netns.ip(*(f"link add {device}{number} type dummy" for number in range(200)))
    after = traced(netns, script, device, tmp_path)
    for name in ("buffer", "release_one", "release_indefinite"):
        assert counts(after[name]) == {"sendmsg": 1, "recvmmsg": 1}
    assert sent(after["stats"]) == [["RTM_GETQDISC"]]
    netns.close()


def test_no_plug_and_one_plug(fleet: Fleet) -> None:
    """A group of none does nothing, a group of one what its plug does."""
    nobody = PlugGroup([])
    for action in (nobody.buffer, nobody.release_one, nobody.release_indefinite):
        action()
    assert (len(nobody), nobody.stats(), nobody.plugs) == (0, {}, ())
    alone = PlugGroup(fleet.plugs[:1])
    alone.buffer()
    fleet.send(2)
    assert fleet.waiting() == [2, 0, 0, 0, 0]
    alone.release_indefinite()
    eventually(lambda: fleet.waiting() == [0] * 5, "the queue is empty")


def test_plugs_at_classes_of_one_device(fleet: Fleet) -> None:
    """Several plugs of one device, each at a class, are plugs like others."""
    device = fleet.devices[0]
    fleet.plugs[0].detach()
    fleet.netns.tc(f"qdisc add dev {device} root handle 1: prio bands 3 priomap 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1")
    at_classes = [libnlplug.attach(device, parent=f"1:{band}", netns=fleet.netns) for band in (1, 2, 3)]
    group = PlugGroup(at_classes)
    group.buffer()
    fleet._source.sendto(b"x", ("10.0.0.2", 7009))
    assert [stats.qlen for stats in group.stats().values()] == [0, 1, 0]
    group.release_indefinite()
    eventually(lambda: fleet.netns.qdisc(device, "1:2")["qlen"] == 0, "the queue is empty")
    for plug in at_classes:
        plug.close()


def test_a_closed_plug_is_still_toggled_with_the_group(fleet: Fleet) -> None:
    """close() does not touch the kernel's plug, so the group goes on with all, while one of its plugs is open."""
    group = PlugGroup(fleet.plugs)
    group.buffer()
    for plug in fleet.plugs[:4]:
        plug.close()
    fleet.send(1)
    assert fleet.waiting() == [1] * 5
    group.release_indefinite()
    eventually(lambda: fleet.waiting() == [0] * 5, "all queues are empty")
    fleet.plugs[4].close()
    for use in (group.buffer, group.release_one, group.release_indefinite, group.stats):
        with pytest.raises(ClosedError, match="all plugs of the group are closed"):
            use()
    with pytest.raises(ClosedError):
        PlugGroup(fleet.plugs)


def test_a_forked_child_is_refused(fleet: Fleet) -> None:
    """In a child every use is ForkedError; the parent's group goes on."""
    group = PlugGroup(fleet.plugs)
    group.buffer()

    def use() -> None:
        for call in (group.buffer, group.release_one, group.release_indefinite, group.stats):
            with pytest.raises(ForkedError):
                call()

    in_child(use)
    fleet.send(1)
    assert fleet.waiting() == [1] * 5
    group.release_indefinite()
    eventually(lambda: fleet.waiting() == [0] * 5, "all queues are empty")


def test_threads_toggle_a_group_as_a_whole() -> None:
    """Threads that buffer and release a group of several sends: in the end all its devices do the same."""
    with fleet_of(BATCH_OF_ONE_SMALL_BUFFER + 20) as fleet:
        with socket.socket(fileno=os.dup(fleet.plugs[0]._sk.fileno())) as shared:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        group = PlugGroup(fleet.plugs)
        errors: list[BaseException] = []

        def toggle(actions) -> None:
            try:
                for action in actions:
                    action()
            except BaseException as error:
                errors.append(error)

        for _ in range(20):
            threads = [
                threading.Thread(target=toggle, args=([group.buffer, group.release_indefinite] * 10,)),
                threading.Thread(target=toggle, args=([group.release_indefinite, group.buffer] * 10,)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            before = {stats.packets + stats.qlen for stats in group.stats().values()}
            fleet.send(1)
            held = {stats.qlen > 0 for stats in group.stats().values()}
            assert len(held) == 1, before
            last = {plug.last_action for plug in group.plugs}
            assert last == {"buffer" if held == {True} else "release_indefinite"}
            group.release_indefinite()
            eventually(lambda: {stats.qlen for stats in group.stats().values()} == {0}, "all queues are empty")


def test_without_the_right_every_plug_is_named(fleet: Fleet) -> None:
    """Without CAP_NET_ADMIN each plug is NotPermitted, and nothing is held."""
    group = PlugGroup(fleet.plugs)
    with unprivileged(), pytest.raises(GroupError, match="5 of 5.*CAP_NET_ADMIN") as caught:
        group.buffer()
    assert set(caught.value.failures) == set(fleet.plugs)
    assert {type(error) for error in caught.value.failures.values()} == {NotPermitted}
    fleet.send(1)
    assert fleet.waiting() == [0] * 5


def test_other_plugs_of_the_devices_are_left_alone(fleet: Fleet) -> None:
    """A plug that is not in the group stays as it is."""
    group = PlugGroup(fleet.plugs[1:])
    group.buffer()
    fleet.send(1)
    assert fleet.waiting() == [0, 1, 1, 1, 1]
    fleet.plugs[0].buffer()
    group.release_indefinite()
    fleet.send(1)
    eventually(lambda: fleet.waiting() == [1, 0, 0, 0, 0], "the group is released, the other plug holds")
    fleet.plugs[0].release_indefinite()


def test_plugs_of_two_namespaces_make_no_group(fleet: Fleet, netns: Netns) -> None:
    """An interface index means another device elsewhere: such a group is refused."""
    elsewhere = libnlplug.attach("lo", netns=netns)
    with pytest.raises(ValueError, match="one network namespace"):
        PlugGroup([*fleet.plugs, elsewhere])
    elsewhere.close()


def test_the_same_place_in_two_namespaces_is_not_twice_the_same(fleet: Fleet, netns: Netns) -> None:
    """Devices of the same index in two namespaces, as lo is: refused for the namespaces, not as one plug."""
    plugs = [libnlplug.attach("lo", netns=space) for space in (fleet.netns, netns)]
    with pytest.raises(ValueError, match="one network namespace"):
        PlugGroup(plugs)
    for plug in plugs:
        plug.close()


def test_a_plug_whose_handle_stands_elsewhere_now(fleet: Fleet) -> None:
    """The plug is deleted, and another class of its device has a qdisc of its handle: QdiscNotFound with the words of
    a single call, by the group as by hold()."""
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 1):
        pytest.skip("Linux 5.10 takes a message for 1:1 to the plug of that handle at 1:2; 6.1 refuses it")
    device = fleet.devices[0]
    fleet.plugs[0].detach()
    fleet.netns.tc(f"qdisc add dev {device} root handle 1: prio bands 3")
    gone = libnlplug.attach(device, parent="1:1", handle="40:", netns=fleet.netns)
    fleet.netns.tc(f"qdisc del dev {device} parent 1:1 handle 40:")
    fleet.netns.tc(f"qdisc add dev {device} parent 1:2 handle 40: plug limit 1000")
    with pytest.raises(QdiscNotFound, match="the plug 40: is gone") as alone:
        gone.buffer()
    with pytest.raises(QdiscNotFound) as held, gone.hold():
        pytest.fail("it holds")
    assert str(held.value) == str(alone.value)
    with pytest.raises(GroupError) as caught:
        PlugGroup([gone, fleet.plugs[1]]).buffer()
    assert [str(error) for error in caught.value.failures.values()] == [str(alone.value)]
    fleet.plugs[1].release_indefinite()
    gone.close()


def test_two_objects_of_one_plug_make_no_group(fleet: Fleet) -> None:
    """A plug that is in a group twice would begin two epochs with each buffer(): refused."""
    again = PlugQdisc.open(fleet.devices[0], netns=fleet.netns)
    for plugs in ([fleet.plugs[0], again], [fleet.plugs[0], fleet.plugs[0]]):
        with pytest.raises(ValueError, match="twice"):
            PlugGroup(plugs)
    again.close()
