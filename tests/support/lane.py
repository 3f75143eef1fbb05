# SPDX-License-Identifier: GPL-2.0-or-later
"""What tc, ip and the list of lanes show of a device, and who has its lanes."""

from __future__ import annotations

import difflib
import json
import signal
import subprocess

import pytest

from libnlplug import Match, PlugLane
from libnlplug.lane.inventory import ShownLane, shown_lanes
from libnlplug.lane.remove import delete_lanes
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.hold import Child
from tests.support.netlab import PORT, Netns, Wire, unable

UDP = Match(ip_proto="udp", dst_port=PORT)
TCP = Match(ip_proto="tcp")


def tc(netns: Netns, *lines: str) -> str:
    """Run lines of tc(8) by one process of its own; what they print, which Netns.tc() takes to be one line each."""
    argv, text = ["tc", "-s", "-j", "-batch", "-"], "".join(f"{line}\n" for line in lines)
    done = netns.run(subprocess.run, argv, input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


class Sight:
    """What tc and ip show of a device: its qdiscs with their counters, its filters, and every link of the namespace.
    An empty clsact qdisc, which a lane leaves there, is passed over."""

    def __init__(self, netns: Netns, device: str) -> None:
        self.qdiscs = netns.qdiscs(device)
        hooked = any(shown["kind"] in ("clsact", "ingress") for shown in self.qdiscs)
        self.filters = tc_filters(netns, device) if hooked else {}  # elsewhere there can be none
        if not any(self.filters.values()):
            self.filters = {}
            self.qdiscs = [shown for shown in self.qdiscs if shown["kind"] != "clsact"]
        self.links = [(link["ifname"], link["ifindex"], link["flags"], link.get("operstate")) for link in netns.links()]
        self.marks = marks(netns)

    def uncounted(self) -> Sight:
        """The same with every counter at zero: for a device that has seen traffic."""
        _zero(self.qdiscs)
        _zero(self.filters)
        return self

    def expect(self, other: Sight) -> None:
        """The other sight must be the same; a failure shows the lines in which they differ."""
        lines = [json.dumps(vars(sight), indent=1).splitlines() for sight in (self, other)]
        different = list(difflib.unified_diff(*lines, "expected", "seen", lineterm="", n=1))
        if different:
            pytest.fail("\n".join(different))


AGES = ("installed", "last_used", "first_used")
COUNTERS = ("bytes", "packets", "maxpacket", "new_flow_count", "new_flows_len", "old_flows_len", "rule_hit", "success")
COUNTERS += ("success_cnt", "drops", "overlimits", "hw_packets", "sw_packets")


def _zero(shown: object) -> None:
    """Set every counter in what tc shows to zero."""
    if isinstance(shown, list):
        for one in shown:
            _zero(one)
    elif isinstance(shown, dict):
        shown.update((name, 0) for name in COUNTERS if name in shown)
        for value in shown.values():
            _zero(value)


def _ageless(shown: dict) -> dict:
    """Without the seconds for which something has been there, and without where tc says that it looked."""
    where = ("parent", "ingress", "egress")
    return {name: value for name, value in shown.items() if name not in (*AGES, *where)}


def tc_filters(netns: Netns, device: str) -> dict[str, list]:
    """The filters at each hook as tc shows them."""
    hooks = ("egress", "ingress")
    shown = tc(netns, *(f"filter show dev {device} {hook}" for hook in hooks))
    found, decoder = [], json.JSONDecoder(object_hook=_ageless)
    while shown := shown.lstrip():  # of some kinds of filters tc prints more than one line
        try:
            document, end = decoder.raw_decode(shown)
        except json.JSONDecodeError:
            unable("this tc shows u32 filters in something that is no JSON")
        found.append(document)
        shown = shown[end:]
    return dict(zip(hooks, found))


def qlen(netns: Netns, ifb: str) -> int:
    """How many packets wait in a lane, as tc shows it. (Netns.qdisc() has a memory for names, and ifbs' come again.)"""
    return json.loads(tc(netns, f"qdisc show dev {ifb}"))[0]["qlen"]


def marks(netns: Netns) -> list[str]:
    """The marks and locks of lanes, and the marks of holds, that are taken in the namespace."""

    def read() -> list[str]:
        with open("/proc/thread-self/net/unix") as lines:
            return sorted(line.split()[-1] for line in lines if "@libnlplug" in line)

    return netns.run(read)


def roots(netns: Netns, device: str) -> list[dict]:
    """The device's qdiscs without those of its ingress."""
    return [shown for shown in netns.qdiscs(device) if shown["kind"] not in ("clsact", "ingress")]


def listed(netns: Netns, device: str) -> list[ShownLane]:
    """The lanes of a device as any process finds them."""
    sk = RouteSocket(netns)
    try:
        return shown_lanes(sk, device)
    finally:
        sk.close()


def states(wire: Wire) -> list[tuple[str, str, int | None]]:
    """The match of each lane of the wire, whose it is, and whose process."""
    return [(lane.match, lane.state, lane.pid) for lane in listed(wire.near, wire.device)]


def delete(wire: Wire, match: Match | None = None, ingress: bool | None = None) -> list[str]:
    """'libnlplug lane del': the matches of the lanes that it found."""
    sk = RouteSocket(wire.near)
    try:
        return [lane.match for lane in delete_lanes(sk, wire.device, match, ingress)]
    finally:
        sk.close()


def having(this: Child, wire: Wire, hold: bool = False, **options) -> None:
    """In a child: have a lane, and hold it if told to, until a signal ends the child."""
    lane = PlugLane(wire.device, UDP, netns=wire.near, **options)
    with lane.hold(timeout=30) if hold else lane:
        this.say(lane.created)
        while True:
            signal.pause()
