# SPDX-License-Identifier: GPL-2.0-or-later
"""A hold in another namespace than the caller's, however that is named, and one whose namespace is deleted."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

import libnlplug
from libnlplug import PlugQdisc
from tests.support.hold import Child, child, descriptors, expect_ended, expect_flow, expect_held, holder_of, marks
from tests.support.netlab import FRAME, HEADERS, PORT, Netns, Wire, eventually, random_name, setns, udp_socket, up


@pytest.fixture
def named(wire: Wire):
    """The near end's namespace by a name, a path, a pid and a descriptor; the name and the process go afterwards."""
    name = random_name()
    sleeper = wire.near.run(subprocess.Popen, ["sleep", "60"])
    try:
        eventually(lambda: os.path.samestat(os.stat(f"/proc/{sleeper.pid}/ns/net"), os.fstat(wire.near.fileno())), "in")
        subprocess.run(["ip", "netns", "attach", name, str(sleeper.pid)], check=True)
        yield {"name": name, "path": f"/run/netns/{name}", "pid": sleeper.pid, "fd": wire.near}
    finally:
        subprocess.run(["ip", "netns", "del", name])
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("way", ["name", "path", "pid", "fd"])
def test_a_hold_in_another_namespace(wire: Wire, named: dict, way: str) -> None:
    """The plug, the guard and the mark are in the named namespace; the caller stays in its own."""
    here = os.readlink("/proc/thread-self/ns/net")
    with libnlplug.attach(wire.device, netns=named[way]) as plug:
        with plug.hold() as held:
            numbers = expect_held(wire, plug)
            there = os.stat(f"/proc/{holder_of(plug).guard}/ns/net")
            assert os.path.samestat(there, os.fstat(wire.near.fileno()))
            assert len(marks(wire.near)) == 1
            assert os.readlink("/proc/thread-self/ns/net") == here
        assert held.packets == len(numbers)
        expect_flow(wire, numbers)


@pytest.mark.parametrize("way", ["name", "path", "pid", "fd"])
def test_a_killed_holder_of_another_namespace(wire: Wire, plug: PlugQdisc, named: dict, way: str) -> None:
    """The guard releases there when the holder, which was never there itself, is killed."""

    def work(this: Child) -> None:
        with PlugQdisc.open(wire.device, netns=named[way]).hold():
            this.say("held")
            time.sleep(60)

    with child(work) as holder:
        assert holder.hear() == "held"
        numbers = expect_held(wire, plug)
        assert holder_of(plug).pid == holder.pid
        holder.kill()
        expect_flow(wire, numbers)
    eventually(lambda: marks(wire.near) == [], "the mark goes")


def test_a_thread_in_yet_another_namespace_may_hold(wire: Wire, plug: PlugQdisc, netns: Netns) -> None:
    """The guard starts where the plug is, wherever the calling thread is, and that thread stays where it is."""

    def hold() -> list[int]:
        here = os.stat("/proc/thread-self/ns/net")
        with plug.hold():
            numbers = expect_held(wire, plug)
        assert os.path.samestat(here, os.stat("/proc/thread-self/ns/net"))
        return numbers

    expect_flow(wire, netns.run(hold))


class Doomed:
    """A namespace with a name and with the near end of the wire in it, which nothing here keeps alive."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self.name = wire, random_name()
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        wire.near.command("ip", "link", "set", wire.device, "netns", self.name)  # ip -batch would keep it open
        lines = [
            *up(wire.device, Wire.NEAR),
            f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {wire.device} nud permanent",
        ]
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def send(self, count: int) -> list[int]:
        """Send numbered packets from a socket that is closed at once."""

        def work() -> None:
            with open(f"/run/netns/{self.name}") as there:
                setns(there.fileno())
            with udp_socket() as source:
                for number in range(count):
                    source.sendto(number.to_bytes(4, "big").ljust(FRAME - HEADERS, b"."), (Wire.FAR, PORT))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return list(range(count))

    def delete(self) -> None:
        """Take its name away."""
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    def is_gone(self) -> bool:
        """Whether it is no more: with it went its end of the wire, and so the other end."""
        return self._wire.peer not in [link["ifname"] for link in self._wire.far.links()]


@pytest.fixture
def doomed(wire: Wire):
    """The near end in a namespace that the test deletes."""
    made = Doomed(wire)
    yield made
    if os.path.exists(f"/run/netns/{made.name}"):
        made.delete()


def test_a_namespace_that_is_deleted_while_held(wire: Wire, doomed: Doomed) -> None:
    """The hold keeps the namespace alive, releases at its end, and then lets the namespace go."""
    with libnlplug.attach(wire.device, netns=doomed.name) as plug:
        with plug.hold() as held:
            numbers = doomed.send(5)
            doomed.delete()
            assert wire.arrived() == []
        assert (held.packets, held.dropped) == (5, 0)
        wire.expect(numbers)
    eventually(doomed.is_gone, "the namespace goes")


def test_a_namespace_that_is_deleted_before_the_holder_is_killed(wire: Wire, doomed: Doomed) -> None:
    """The guard, too, keeps the namespace alive until it has released, and not longer."""

    def work(this: Child) -> None:
        plug = libnlplug.attach(wire.device, netns=doomed.name)
        with plug.hold():
            this.say(holder_of(plug).guard)
            time.sleep(60)

    with child(work) as holder:
        guard = holder.hear()
        numbers = doomed.send(5)
        doomed.delete()
        assert wire.arrived() == []
        holder.kill()
        wire.expect(numbers)
        expect_ended(guard)
    eventually(doomed.is_gone, "the namespace goes")


def test_a_hold_leaves_no_descriptor_of_the_namespace(wire: Wire, plug: PlugQdisc) -> None:
    """The way into the other namespace and back leaves nothing open, also where the hold is refused."""
    with plug.hold():
        pass
    before = descriptors()
    with PlugQdisc.open(wire.device, netns=wire.near) as mine:
        with plug.hold(), pytest.raises(libnlplug.PlugBusy), mine.hold():
            pytest.fail("entered")
        with mine.hold():
            pass
    assert descriptors() == before
