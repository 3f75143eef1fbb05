# SPDX-License-Identifier: GPL-2.0-or-later
"""Other people's qdiscs, filters and BPF programs at the hooks: they stay, keep their say, and are reported."""

from __future__ import annotations

import errno
import os
import re
import struct
import warnings

import pytest

import libnlplug
from libnlplug import LaneShadowed, Match, PlugLane
from libnlplug.lane import neighbours
from libnlplug.lane.filters import FIRST_PRIO
from libnlplug.lane.hook import hook_number
from libnlplug.netlink.libnl import ffi, lib
from libnlplug.netlink.messages import attribute, message
from libnlplug.netlink.route_socket import RouteSocket
from tests.support import bpf, nft
from tests.support.lane import UDP, Sight, roots, tc_filters
from tests.support.netlab import PORT
from tests.support.road import Road, need, veth

HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])
LAST = 0xFFFF


def in_turn(name: str, cases, **options):
    """pytest.mark.parametrize for cases that are tried at the egress and at the ingress in turn."""
    names, rows = [*name.split(","), "ingress"], []
    for number, case in enumerate(cases):
        rows.append((*(case if isinstance(case, tuple) and len(names) > 2 else (case,)), bool(number % 2)))
    return pytest.mark.parametrize(names, rows, **options)


TO_PORT = f"match ip dport {PORT} 0xffff"


@pytest.fixture
def road():
    """A veth pair."""
    with veth() as made:
        yield made


@pytest.fixture
def admin(road: Road, ingress: bool) -> Admin:
    """An administrator's clsact qdisc on it, and its hook that the lane will be at."""
    made = Admin(road, ingress)
    road.near.tc(f"qdisc add dev {road.device} clsact")
    return made


class Admin:
    """Adds filters at one hook of a device."""

    def __init__(self, road: Road, ingress: bool) -> None:
        self.road, self.ingress = road, ingress
        self.hook = "ingress" if ingress else "egress"
        self.flow = road.flow(ingress)

    def add(self, line: str, prio: int | None = 10, protocol: str = "ip") -> None:
        pref = f"pref {prio}" if prio else ""
        device = self.road.device
        self.road.near.tc(f"filter add dev {device} {self.hook} protocol {protocol} {pref} {line}")

    def delete(self, prio: int) -> None:
        self.road.near.tc(f"filter del dev {self.road.device} {self.hook} pref {prio}")

    def add_bpf(self, program: int, prio: int) -> None:
        """A cls_bpf filter in direct-action mode, which tc cannot add without a file of the program."""

        def add() -> None:
            sk = RouteSocket()
            options = attribute(lib.TCA_BPF_ACT + 5, struct.pack("=i", program))  # TCA_BPF_FD
            options += attribute(lib.TCA_BPF_ACT + 6, b"test\0")  # TCA_BPF_NAME
            options += attribute(lib.TCA_BPF_ACT + 7, struct.pack("=I", 1))  # TCA_BPF_FLAGS: direct action
            index = sk.ifindex_of(self.road.device)
            flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL
            place = {"tcm_ifindex": index, "tcm_parent": hook_number(self.ingress)}
            place["tcm_info"] = prio << 16 | 0x0300  # ETH_P_ALL in network byte order
            body = ffi.buffer(ffi.new("struct tcmsg *", place))[:] + attribute(lib.TCA_KIND, b"bpf\0")
            body += attribute(lib.TCA_OPTIONS, options)
            request = message(lib.RTM_NEWTFILTER, flags, body)
            sk.execute(request, "add a filter to", self.road.device)
            sk.close()

        self.road.near.run(add)

    def lane(self, match: Match = UDP) -> PlugLane:
        """A lane that nothing shadows."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", LaneShadowed)
            return PlugLane(self.road.device, match, ingress=self.ingress, netns=self.road.near)

    def shadowed_lane(self, sentence: str, match: Match = UDP) -> PlugLane:
        """A lane that something shadows: a warning says what, where the lane was made, and so does ``shadowed``."""
        with pytest.warns(LaneShadowed, match=f"lane on {self.road.device}: .*{sentence}") as caught:
            made = PlugLane(self.road.device, match, ingress=self.ingress, netns=self.road.near)
        assert [warning.filename for warning in caught] == [__file__]
        assert len(made.shadowed) == 1
        return made

    def expect_through(self) -> None:
        self.flow.expect(self.flow.send())

    def expect_dropped(self) -> None:
        """What the administrator drops is dropped: what comes after it, of other packets, arrives without it."""
        self.flow.send()
        other = self.road.flow(not self.ingress)
        other.expect(other.send())
        assert self.flow.arrived() == []


@HOOKS
def test_an_administrators_clsact_and_filters_stay(road: Road, admin: Admin) -> None:
    """With filters of every kind at both hooks, a lane comes and goes and tc shows the same before and after."""
    lines = (
        "u32 match ip dport 9 0xffff action drop",
        "matchall action continue",
        "flower ip_proto tcp action drop",
    )
    for hook, table in (("egress", 33), ("ingress", 34)):
        start = f"filter add dev {road.device} {hook} protocol ip"
        every = (*lines, f"handle {table}: u32 divisor 4")
        road.near.tc(*(f"{start} pref {prio} {line}" for prio, line in enumerate(every, 1)))
    before, root = Sight(road.near, road.device), roots(road.near, road.device)
    with pytest.warns(LaneShadowed, match="the u32 filter of preference 1 comes first.*; the flower filter"):
        made = PlugLane(road.device, UDP, ingress=admin.ingress, netns=road.near)
    assert roots(road.near, road.device) == root
    with made.hold():
        numbers = admin.flow.expect_held(made)
    admin.flow.expect(numbers)
    made.close()
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


@in_turn("drop", ["u32 {} action drop", "matchall action drop", "flower ip_proto udp action drop"])
def test_a_filter_that_drops_goes_on_dropping(road: Road, admin: Admin, drop: str) -> None:
    """A drop filter of an administrator's drops also what the lane matches, were it there before or added since."""
    before = PlugLane(road.device, UDP, ingress=admin.ingress, netns=road.near)
    admin.add(drop.format(TO_PORT), prio=None)  # without a preference tc puts it before all that are there
    with before.hold() as held:
        admin.expect_dropped()
    assert held.packets == 0
    before.close()
    with admin.shadowed_lane("filter of preference 65279 comes first") as after, after.hold() as held:
        admin.expect_dropped()
    assert held.packets == 0
    admin.expect_dropped()


@HOOKS
def test_filters_that_go_on_are_not_reported(road: Road, admin: Admin) -> None:
    """Filters whose action is 'continue' hide nothing: the lane holds what has passed them, and releases it."""
    admin.add("matchall action continue", prio=5)
    admin.add(f"u32 {TO_PORT} action continue", prio=6)
    admin.add("flower ip_proto udp action pipe action continue", prio=7)
    made = admin.lane()
    assert made.shadowed == []
    with made.hold():
        numbers = admin.flow.expect_held(made)
    admin.flow.expect(numbers)
    made.close()


ENDERS = {
    "u32": (f"u32 {TO_PORT} action ok", "the u32 filter of preference 10"),
    "u32, class only": (f"u32 {TO_PORT} flowid 1:1", "the u32 filter of preference 10"),
    "matchall": ("matchall action ok", "the matchall filter of preference 10"),
    "flower": ("flower ip_proto udp action pass", "the flower filter of preference 10"),
    "basic": ("basic action trap", "the basic filter of preference 10"),
    "cls_bpf, classic": ("bpf bytecode '1,6 0 0 4294967295,' action ok", "the bpf filter of preference 10"),
    "goto chain": ("matchall action goto chain 5", "the matchall filter of preference 10"),
}


@in_turn("line,sentence", ENDERS.values(), ids=ENDERS)
def test_filters_that_end_the_classification_are_reported(road: Road, admin: Admin, line: str, sentence: str) -> None:
    """A filter before the lane that ends the classification is named: in a warning, and in ``shadowed``."""
    admin.add(line)
    made = admin.shadowed_lane(f"{sentence} comes first: the lane does not see the packets that match it")
    with made.hold() as held:
        if "goto" not in line and "trap" not in line:
            admin.expect_through()
    assert held.packets == 0
    made.close()


@HOOKS
def test_a_bpf_program_is_reported(road: Road, admin: Admin) -> None:
    """A cls_bpf filter in direct-action mode decides by its program's return value: reported, whatever it returns."""
    program = bpf.load(0)
    try:
        admin.add_bpf(program, 10)
    finally:
        os.close(program)
    assert {shown["kind"] for shown in tc_filters(road.near, road.device)[admin.hook]} == {"bpf"}
    made = admin.shadowed_lane("the bpf filter of preference 10 comes first")
    with made.hold() as held:
        admin.expect_through()
    assert held.packets == 0
    made.close()
    assert {shown["kind"] for shown in tc_filters(road.near, road.device)[admin.hook]} == {"bpf"}


@HOOKS
def test_a_lane_for_some_of_the_same_packets_is_refused(road: Road, admin: Admin, ingress: bool) -> None:
    """No packet could go through two lanes: the second is refused, naming the first, and nothing has changed. A lane
    for other packets, or at the other hook, is not."""
    wide = admin.lane(Match(ip_proto="udp"))
    others = [admin.lane(Match(ip_proto="tcp", dst_port=80)), admin.lane(Match(ip_proto="tcp", dst_port=("81-90", 99)))]
    others += [PlugLane(road.device, Match(), ingress=not ingress, netns=road.near)]
    before = Sight(road.near, road.device)
    for match, there in ((UDP, wide), (Match(ip_proto="tcp", dst_port="70-80"), others[0]), (Match(), wide)):
        why = f"for .*: the lane for {re.escape(str(there.match))} on {there.ifb} takes some of the same packets"
        with pytest.raises(libnlplug.NetlinkError, match=why):
            admin.lane(match)
    before.expect(Sight(road.near, road.device))
    with wide.hold():
        numbers = admin.flow.expect_held(wide)
    admin.flow.expect(numbers)
    for lane in (wide, *others):
        lane.close()


@HOOKS
def test_filters_about_other_packets_are_not_reported(road: Road, admin: Admin) -> None:
    """A filter for another protocol, or in a chain that no packet of the lane's is in, takes nothing from it."""
    admin.add("matchall action ok", protocol="ipv6")
    admin.add("matchall action ok", prio=11, protocol="arp")
    admin.add("chain 5 matchall action ok", prio=12)
    made = admin.lane(Match(ip_proto="udp", dst_port=PORT, dst_ip="0.0.0.0/0"))
    with made.hold():
        numbers = admin.flow.expect_held(made)
    admin.flow.expect(numbers)
    made.close()


def test_tcx_programs_are_reported(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are attached by tcx, before clsact, are counted and said. (A count is put in the kernel's
    place, for not every kernel has them.)"""
    for count, sentence in ((1, "1 tcx BPF program comes first"), (3, "3 tcx BPF programs come first")):
        monkeypatch.setattr(neighbours, "tcx_programs", lambda sk, ifindex, ingress, count=count: count)
        with pytest.warns(LaneShadowed, match=sentence):
            PlugLane(road.device, UDP, netns=road.near).close()


@HOOKS
def test_a_tcx_program_of_this_kernel_is_reported(road: Road, ingress: bool) -> None:
    """A program that is attached by tcx to the lane's hook is said; one at the other hook is not."""
    program, index = bpf.load(), road.near.link(road.device)["ifindex"]
    try:
        road.near.run(bpf.attach_tcx, program, index, ingress=ingress)
        with pytest.warns(LaneShadowed, match="1 tcx BPF program comes first"):
            made = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
        with made, PlugLane(road.device, UDP, ingress=not ingress, netns=road.near) as other:
            assert other.shadowed == []
        road.near.run(bpf.detach_tcx, program, index, ingress=ingress)
    finally:
        os.close(program)


@in_turn("line", ["u32 {} action drop", "matchall action drop", "flower ip_proto udp action ok"])
def test_a_lane_that_would_bypass_a_filter_is_refused(road: Road, admin: Admin, line: str) -> None:
    """A filter with a preference behind the lane's would not see its packets: no lane, and nothing has changed."""
    admin.add(line.format(TO_PORT), prio=LAST)
    before = Sight(road.near, road.device)
    sentence = f"the {line.split()[0]} filter of preference {LAST} would not see .* below {FIRST_PRIO}"
    with pytest.raises(libnlplug.NetlinkError, match=sentence):
        PlugLane(road.device, UDP, ingress=admin.ingress, netns=road.near)
    before.expect(Sight(road.near, road.device))
    PlugLane(road.device, UDP, ingress=not admin.ingress, netns=road.near).close()  # the other hook has no such filter


@HOOKS
def test_a_filter_that_came_behind_the_lane_is_not_bypassed_by_a_hold(road: Road, admin: Admin) -> None:
    """A filter that was put behind a lane since is noticed by the next hold, which is refused and holds nothing."""
    made = admin.lane()
    admin.add(f"u32 {TO_PORT} action drop", prio=LAST)
    with (
        pytest.raises(libnlplug.NetlinkError, match=f"the u32 filter of preference {LAST} would not see"),
        made.hold(),
    ):
        pytest.fail("it held")
    assert libnlplug.PlugQdisc.open(made.ifb, netns=road.near).holder() is None
    made.close()
    admin.expect_dropped()


def test_an_nftables_chain_is_not_bypassed(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an ifb gives back never comes by the device's nftables ingress chain: an ingress lane is refused, an egress
    lane is not. (A name is put in the kernel's place, for not every kernel has such chains.)"""
    monkeypatch.setattr(
        neighbours, "ingress_chain", lambda sk, device: "netdev filter in" if device == road.device else ""
    )
    before = Sight(road.near, road.device)
    with pytest.raises(libnlplug.NetlinkError, match="the nftables chain 'netdev filter in' would not see"):
        PlugLane(road.device, UDP, ingress=True, netns=road.near)
    before.expect(Sight(road.near, road.device))
    PlugLane(road.device, UDP, netns=road.near).close()


def test_an_nftables_chain_of_this_kernel_is_not_bypassed(road: Road) -> None:
    """An ingress lane beside a chain at the device's ingress is refused; without the chain it is made."""
    code = road.near.run(nft.add_chain, nft.NETDEV, 0, road.device)
    if code:
        pytest.skip(f"no nftables chain can be made at a device's ingress here: {errno.errorcode.get(code)}")
    try:
        with pytest.raises(libnlplug.NetlinkError, match="the nftables chain 'netdev t c' would not see"):
            PlugLane(road.device, UDP, ingress=True, netns=road.near)
        PlugLane(road.device, UDP, netns=road.near).close()
    finally:
        assert road.near.run(nft.delete_table, nft.NETDEV) == 0
    PlugLane(road.device, UDP, ingress=True, netns=road.near).close()


@in_turn("line", ["u32 {} action continue", "flower action continue", "flower ip_proto udp action ok"])
def test_filters_with_a_lanes_preference(road: Road, admin: Admin, line: str) -> None:
    """An administrator's filters with preferences that lanes use are neither deleted nor bypassed: no lane."""
    for prio, protocol in ((FIRST_PRIO, "ip"), (FIRST_PRIO + 1, "ip"), (FIRST_PRIO + 2, "802.1q")):
        admin.add(line.format(TO_PORT) if protocol == "ip" else "flower action ok", prio=prio, protocol=protocol)
        before = Sight(road.near, road.device)
        with pytest.raises(libnlplug.NetlinkError, match=f"of preference {prio} would not see"):
            admin.lane()
        before.uncounted().expect(Sight(road.near, road.device).uncounted())
        admin.delete(prio)
    made = admin.lane()
    admin.add("flower ip_proto udp action continue", prio=FIRST_PRIO)  # beside the lane's own, in one preference
    mine = tc_filters(road.near, road.device)
    made.close()
    left = [shown for shown in tc_filters(road.near, road.device)[admin.hook] if "options" in shown]
    assert len(left) == 1
    assert left[0] in mine[admin.hook]


@HOOKS
def test_a_filter_that_a_closed_lane_has_left(road: Road, admin: Admin) -> None:
    """Somebody replaced a lane's filter by one that redirects elsewhere. It stays when the lane is closed, and no lane
    is made beside it, because that would miss packets."""
    lane = admin.lane()
    start = f"filter {{}} dev {road.device} {admin.hook} protocol ip pref {FIRST_PRIO} handle 0x10001 flower"
    flower = f"ip_proto udp dst_port {PORT}"  # the kernel replaces a filter only by one on the same fields
    road.near.tc(f"{start.format('replace')} {flower} action mirred egress redirect dev lo")
    lane.close()
    with pytest.raises(libnlplug.NetlinkError, match=f"the flower filter of preference {FIRST_PRIO} would not see"):
        admin.lane()
    road.near.tc(start.format("del"))
    admin.lane().close()


@HOOKS
def test_an_administrators_u32_tables(road: Road, admin: Admin) -> None:
    """u32 tables share their numbers among both hooks: an administrator's, on either, are left alone."""
    for hook, table in (("egress", "7ff"), ("ingress", "7fe")):
        road.near.tc(f"filter add dev {road.device} {hook} protocol ip pref 9 handle {table}: u32 divisor 1")
    before = tc_filters(road.near, road.device)
    lanes = [PlugLane(road.device, UDP, ingress=ingress, netns=road.near) for ingress in (False, True)]
    with lanes[admin.ingress].hold():
        numbers = admin.flow.expect_held(lanes[admin.ingress])
    admin.flow.expect(numbers)
    for made in lanes:
        made.close()
    assert tc_filters(road.near, road.device) == before


def test_an_ingress_qdisc(road: Road) -> None:
    """Beside an ingress qdisc an ingress lane works, and the qdisc stays; an egress lane is refused, saying why."""
    road.near.tc(f"qdisc add dev {road.device} ingress")
    road.near.tc(f"filter add dev {road.device} parent ffff: protocol ip matchall action continue")
    before = Sight(road.near, road.device)
    with PlugLane(road.device, UDP, ingress=True, netns=road.near) as made:
        with made.hold():
            numbers = road.arriving.expect_held(made)
        road.arriving.expect(numbers)
        with pytest.raises(libnlplug.NetlinkError, match="its ingress qdisc excludes clsact; replace it by clsact"):
            PlugLane(road.device, UDP, netns=road.near)
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


@HOOKS
def test_a_shared_filter_block(road: Road, ingress: bool) -> None:
    """A clsact qdisc whose hook shares its filters with other devices takes no lane; the refusal says why."""
    hook = "ingress" if ingress else "egress"
    road.near.tc(f"qdisc add dev {road.device} {hook}_block 22 clsact")
    before = roots(road.near, road.device), len(road.near.links())
    with pytest.raises(libnlplug.NetlinkError, match="its clsact qdisc shares a filter block with other devices"):
        PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
    assert (roots(road.near, road.device), len(road.near.links())) == before


@HOOKS
def test_the_clsact_qdisc_stays(road: Road, ingress: bool) -> None:
    """A clsact qdisc that a lane had to add stays, empty, with what somebody puts at its hooks at any moment."""
    for hook in ("egress", "ingress"):
        made = PlugLane(road.device, UDP, ingress=ingress, netns=road.near)
        road.near.tc(f"filter add dev {road.device} {hook} protocol ip pref 3 matchall action continue")
        made.close()
        assert {shown["pref"] for shown in tc_filters(road.near, road.device)[hook]} == {3}
        road.near.tc(f"filter del dev {road.device} {hook} pref 3")
    assert road.near.kinds(road.device) == ["noqueue", "clsact"]
    assert tc_filters(road.near, road.device) == {"egress": [], "ingress": []}


def test_devices_whose_packets_do_not_come_by(road: Road) -> None:
    """A lane on a VRF, or on an ipvlan in l3s mode, would see no packet: refused, naming the devices that do."""
    need("vrf", "ipvlan")
    device = road.device
    road.near.ip("link add vrf77 type vrf table 77", f"link add ipv0 link {device} type ipvlan mode l3s")
    road.near.ip(f"link set {device} master vrf77")
    for ingress in (False, True):
        with pytest.raises(libnlplug.NetlinkError, match=rf"hooks of a VRF; make the lane on its ports \({device}\)"):
            PlugLane("vrf77", UDP, ingress=ingress, netns=road.near)
        with pytest.raises(libnlplug.NetlinkError, match=rf"ipvlan in l3s mode; use the device below it \({device}\)"):
            PlugLane("ipv0", UDP, ingress=ingress, netns=road.near)
    road.near.ip("link set ipv0 type ipvlan mode l3")
    PlugLane("ipv0", UDP, netns=road.near).close()
    road.near.ip("link del ipv0", "link del vrf77")
