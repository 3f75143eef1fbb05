# SPDX-License-Identifier: GPL-2.0-or-later
"""A lane that is interrupted, killed or refused at any word to the kernel: traffic flows, and nothing stays behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from pathlib import Path

import pytest

from libnlplug import Match, NetlinkError, PlugLane, PlugUnavailable
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.hold import Child
from tests.support.lane import UDP, Sight, marks, roots
from tests.support.netlab import AUTOLOAD, eventually, need_guest
from tests.support.road import Road, veth

WORDS = ("execute", "execute_all", "ask")  # every request of a RouteSocket goes through one of these
QUESTIONS = ("find", "list", "read")
HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])


@pytest.fixture
def road():
    """A veth pair."""
    with veth() as made:
        yield made


class Trap:
    """Counts the requests of this process to the kernel, and does something before or after one of them; only those
    that change something, where ``changes`` says so."""

    def __init__(self, patch, number: int, act, *, after: bool = False, changes: bool = False) -> None:
        self.count = 0
        self._number, self._act, self._after, self._changes = number, act, after, changes
        for name in WORDS:
            patch.setattr(RouteSocket, name, self._trapped(getattr(RouteSocket, name)))

    def _trapped(self, word):
        def trapped(sk: RouteSocket, message: object, *words: object):
            operation = str(words[0]).split()[0]
            if self._changes and operation in QUESTIONS:
                return word(sk, message, *words)
            self.count += 1
            here = self.count == self._number
            if here and not self._after:
                self._act()
            result = word(sk, message, *words)
            if here and self._after:
                self._act()
            return result

        return trapped


def interrupt() -> None:
    raise KeyboardInterrupt


def lose_the_answer() -> None:
    raise NetlinkError(None, "the kernel's answer did not arrive")


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = pytest.mark.parametrize(
    ("act", "after"),
    [(interrupt, False), (interrupt, True), (lose_the_answer, True)],
    ids=["interrupted before", "interrupted after", "answer lost"],
)


def left(road: Road) -> tuple:
    """What there is of lanes: cheaper to see than a whole Sight."""
    return [link["ifname"] for link in road.near.links()], roots(road.near, road.device), marks(road.near)


@HOOKS
@FAULTS
def test_a_constructor_that_fails_leaves_nothing(road: Road, ingress: bool, act, after: bool) -> None:
    """Interrupted before or after any request, or without the answer to it, the constructor undoes what it has done."""
    before, nothing, flow = Sight(road.near, road.device), left(road), road.flow(ingress)
    number, failed = 0, True
    while failed:
        number += 1
        with pytest.MonkeyPatch.context() as patch:
            trap = Trap(patch, number, act, after=after, changes=after)
            try:
                lane = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
                failed = trap.count >= number
            except (KeyboardInterrupt, NetlinkError):
                assert left(road) == nothing, number
                continue
        lane.close()
    flow.expect(flow.send())
    before.uncounted().expect(Sight(road.near, road.device).uncounted())
    assert number > (8 if after else 20)


@FAULTS
def test_closing_that_fails_can_be_repeated(road: Road, act, after: bool) -> None:
    """Interrupted at any request of close(): what was held arrives, and another close() does the rest."""
    before, nothing, flow = Sight(road.near, road.device), left(road), road.flow(False)
    number, failed = 0, True
    while failed:
        number += 1
        lane = PlugLane(road.device, UDP, netns=road.near)
        lane.plug.buffer()
        numbers = flow.send(3)
        with pytest.MonkeyPatch.context() as patch:
            trap = Trap(patch, number, act, after=after, changes=after)
            try:
                lane.close()
            except (KeyboardInterrupt, NetlinkError):
                pass
            failed = trap.count >= number
        if not lane.closed:
            lane.close()
        flow.expect(numbers + flow.send(2))
        assert left(road) == nothing, number
    before.uncounted().expect(Sight(road.near, road.device).uncounted())
    assert number > (3 if after else 10)


def test_killed_at_any_moment(road: Road) -> None:
    """A process that is killed between any two changes that it makes, from the set-up through a hold to the end of the
    lane: what it held and what comes later arrives, and the next lane of the device leaves nothing behind."""
    before, nothing, flow = Sight(road.near, road.device), left(road), road.flow(False)

    def live(this: Child, number: int) -> None:
        trap = Trap(pytest.MonkeyPatch(), number, kill_myself, changes=True)
        lane = PlugLane(road.device, UDP, netns=road.near)
        with lane.hold():
            this.say("holding")
            flow.send(3)
        lane.close()
        this.say(trap.count)

    number, died, held = 0, True, 0
    while died:
        number += 1
        process = Child(live, number)
        died = process.status() == -signal.SIGKILL
        sent = 3 * process._said.read().count("holding")
        process.close()
        flow.expect(list(range(flow.sent, flow.sent + sent)))
        flow.sent += sent
        held += bool(sent)
        flow.expect(flow.send(2))
        PlugLane(road.device, Match(ip_proto=254), netns=road.near).close()
        assert left(road) == nothing, number
    before.uncounted().expect(Sight(road.near, road.device).uncounted())
    assert number - held == 8  # so many changes, of which one makes the plug and releases it
    assert held > 2


def test_moments_are_told_apart() -> None:
    """A trap acts on the request that it is told, once: so the tests above see every one."""
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        trap = Trap(patch, 2, lambda: seen.append(trap.count))
        sk = RouteSocket()
        for _ in range(3):
            sk.ifindex_of("lo")
        sk.close()
    assert (seen, trap.count) == ([2], 3)


MODULES = {
    "ifb": "cannot make the ifb plug.*; the kernel has no ifb: try 'modprobe ifb numifbs=0', .*CONFIG_IFB",
    "sch_plug": "the kernel has no sch_plug: try 'modprobe sch_plug', .*CONFIG_NET_SCH_PLUG",
    "sch_ingress": "the kernel has no clsact: try 'modprobe sch_ingress', .*CONFIG_NET_SCH_INGRESS",
    "cls_flower": "the kernel has no flower filters: try 'modprobe cls_flower', .*CONFIG_NET_CLS_FLOWER",
    "act_mirred": "the kernel cannot redirect: try 'modprobe act_mirred', .*CONFIG_NET_ACT_MIRRED",
}


@pytest.fixture
def without(request: pytest.FixtureRequest, usual_loader: str):
    """The test kernel without a module, which it cannot load either; afterwards it has it again."""
    module = request.param
    need_guest("modules are taken out of the test kernel only, never out of a host's")
    if not Path(f"/sys/module/{module}").exists():
        pytest.skip(f"{module} is built into this kernel")

    def remove() -> bool:  # what uses it goes a moment after its namespace
        gc.collect()  # an object of an earlier test, in a cycle, keeps its namespace alive
        return subprocess.run(["rmmod", module], stderr=subprocess.DEVNULL).returncode == 0

    # A clsact qdisc that a lane added stays; what was held on this kernel's own lo is no test's to tidy up.
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "clsact"], stderr=subprocess.DEVNULL)
    eventually(remove, f"nothing uses {module} any more", within=20)
    AUTOLOAD.write_text("\n")
    yield module
    subprocess.run([usual_loader, module], check=True)


@pytest.mark.parametrize("without", ["ifb"], indirect=True)
def test_ifb_is_loaded_without_links_of_its_own(road: Road, without: str, usual_loader: str, tmp_path: Path) -> None:
    """The first lane loads ifb with none of the links that the module makes when the kernel loads it by itself."""
    asked, loader = tmp_path / "asked", tmp_path / "modprobe"
    loader.write_text(f'#!/bin/sh\necho "$*" >>{asked}\nexec {usual_loader} "$@"\n')
    loader.chmod(0o755)
    AUTOLOAD.write_text(f"{loader}\n")
    PlugLane(road.device, UDP, netns=road.near).close()
    assert asked.read_text() == "-q ifb numifbs=0\n"


@pytest.mark.parametrize("without", MODULES, indirect=True)
def test_a_kernel_that_lacks_a_module(road: Road, without: str) -> None:
    """PlugUnavailable, in a sentence that names the module and what to do; what was made before it is undone."""
    before = Sight(road.near, road.device)
    with pytest.raises(PlugUnavailable, match=MODULES[without]):
        PlugLane(road.device, UDP, netns=road.near)
    before.expect(Sight(road.near, road.device))
