# SPDX-License-Identifier: GPL-2.0-or-later
"""The lanes of a device as the kernel shows them: which there are, whose they are, whether they can hold.

Each lane has a slot of its device: a number that fixes the ifb's name, the preferences of the filters and the name of
its mark, which its process keeps while it lives. So lanes alive elsewhere, lanes kept for good and orphans are told
apart: an orphan is nobody's, or can no longer hold, and the next lane of the device cleans it up.

Whatever changes a device's lanes is done under the device's lock.
"""

from __future__ import annotations

from ..errors import DeviceNotFound, QdiscNotFound
from ..guard.holders import Mark
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc, open_by
from ..record import Record
from .filters import SLOTS, by_slot, in_place, slot_of
from .hook import Filter, filters
from .ifb import ADDRESS, Ifb, alias_of, ifb_of, ifbs, set_alias
from .marks import Lock, taken_names

__all__ = [
    "Hooks",
    "Lane",
    "LaneInfo",
    "all_lanes",
    "dead_slots",
    "hooks",
    "ifb_name",
    "is_dead",
    "is_whole",
    "lane_mark",
    "lanes",
    "lock",
    "now",
    "plug_of",
    "states",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    Hooks = dict[bool, list[Filter]]  # what is at each hook; the ingress hook is True's
else:
    Hooks = dict


class LaneInfo(Record):
    """A lane as it is found in the kernel. ``state`` is 'kept', 'alive' (``pid`` is its process), 'orphan', or 'drops':
    every packet that it matches is lost, and ``trouble`` says why and what to do."""

    __slots__ = ("device", "hook", "match", "state", "pid", "ifb", "slot", "ifindex", "trouble")
    device: str
    hook: str
    match: str
    state: str
    pid: int | None
    ifb: str
    slot: int
    ifindex: int
    trouble: str | None


class Lane(Record):
    """A lane's ifb, the device (its ``ifindex``) and slot that its name tells, and what its alias says.

    In the alias: 'hook'; 'kept'; 'pid'; 'filters', how many there are, 0 until the lane is complete; 'match'.
    """

    __slots__ = ("ifb", "ifindex", "slot", "words")
    ifb: Ifb
    ifindex: int
    slot: int
    words: dict[str, str]

    @property
    def ingress(self) -> bool:
        """Whether it is about arriving packets."""
        return self.words.get("hook") == "ingress"

    @property
    def kept(self) -> bool:
        """Whether it is meant to stay without a process."""
        return self.words.get("kept") == "1"

    @property
    def pid(self) -> int | None:
        """The process that made it."""
        pid = self.words.get("pid", "")
        return int(pid) if pid.isdecimal() else None

    @property
    def filters(self) -> int:
        """How many filters it has when it is complete."""
        count = self.words.get("filters", "")
        return int(count) if count.isdecimal() else 0

    def is_for(self, ingress: bool, match: str) -> bool:
        """Whether it is this hook's and match's."""
        return (self.ingress, self.words.get("match")) == (ingress, match)

    def rewrite(self, sk: RouteSocket, **words: object) -> Lane:
        """Change what the alias says; the lane as it is then."""
        now = {**self.words, **{name: str(value) for name, value in words.items()}}
        set_alias(sk, self.ifb.ifindex, self.ifb.name, alias_of(now))
        return Lane(self.ifb, self.ifindex, self.slot, now)


def ifb_name(ifindex: int, slot: int) -> str:
    """The name of a lane's ifb: at most 15 characters, as the kernel allows."""
    return f"plug{ifindex:x}-{slot}"


def lane_mark(name: str) -> Mark:
    """What the process of the lane on this ifb keeps while it lives."""
    return Mark(_lane_mark_name(name), silent=True)


def _lane_mark_name(name: str) -> str:
    return f"libnlplug-lane/{name}"


def lock(sk: RouteSocket, ifindex: int, device: str, operation: str) -> Lock:
    """What is held by who makes or undoes a lane of the device."""
    return Lock(sk, f"libnlplug-lanes/{ifindex:x}", operation, device)


def all_lanes(sk: RouteSocket) -> list[Lane]:
    """Every lane of the namespace, by the slots of its devices."""
    found = [lane for lane in map(_lane, ifbs(sk)) if lane is not None]
    return sorted(found, key=lambda lane: (lane.ifindex, lane.slot))


def _lane(ifb: Ifb) -> Lane | None:
    """The lane of an ifb: of one with the name and the address of a lane's, whoever made others with either."""
    head, _, slot = ifb.name.removeprefix("plug").partition("-")
    try:
        place = int(head, 16), int(slot)
    except ValueError:
        return None
    if ifb.name != ifb_name(*place) or ifb.address != ADDRESS or not 0 <= place[1] < SLOTS:
        return None
    return Lane(ifb, *place, ifb.words)


def now(sk: RouteSocket, lane: Lane) -> Lane | None:
    """The lane as it is now, None where its ifb is gone. (A renamed ifb is still the lane's.)"""
    ifb = ifb_of(sk, lane.ifb.ifindex)
    return None if ifb is None else Lane(ifb, lane.ifindex, lane.slot, ifb.words)


def hooks(sk: RouteSocket, ifindex: int, device: str) -> Hooks:
    """What is at the device's hooks."""
    return {ingress: filters(sk, ifindex, device, ingress) for ingress in (False, True)}


def plug_of(sk: RouteSocket, lane: Lane) -> PlugQdisc | None:
    """The plug on a lane's ifb; None where there is none yet, or none any more."""
    try:
        return open_by(sk, lane.ifb.name, lib.TC_H_ROOT)
    except (QdiscNotFound, DeviceNotFound):
        return None


def is_whole(sk: RouteSocket, lane: Lane, there: Hooks) -> bool:
    """Whether the lane can hold: plug, ifb and filters are as they were made."""
    return _is_whole(sk, lane, by_slot(there[lane.ingress]).get(lane.slot, []))


def _is_whole(sk: RouteSocket, lane: Lane, mine: list[Filter]) -> bool:
    return in_place(mine, lane.ifb.ifindex, lane.filters) and lane.ifb.up and plug_of(sk, lane) is not None


def states(sk: RouteSocket, found: list[Lane], there: Hooks) -> dict[str, str]:
    """Of each lane of a device, by its ifb's name: 'alive', 'kept' or 'orphan'."""
    names = {_lane_mark_name(lane.ifb.name): lane.ifb.name for lane in found}
    alive = {names[mark] for mark in taken_names(sk, list(names))}
    filters_at = {ingress: by_slot(at) for ingress, at in there.items()}
    are_now = {}
    for lane in found:
        name, mine = lane.ifb.name, filters_at[lane.ingress].get(lane.slot, [])
        kept = lane.kept and name not in alive and _is_whole(sk, lane, mine)
        are_now[name] = "alive" if name in alive else "kept" if kept else "orphan"
    return are_now


def dead_slots(there: Hooks) -> dict[bool, set[int]]:
    """The slots whose filters lead to an ifb that is gone. They throw away what they match."""
    return {
        ingress: {slot for one in at if is_dead(one) and (slot := slot_of(one)) is not None}
        for ingress, at in there.items()
    }


def is_dead(one: Filter) -> bool:
    """Whether the filter redirects to a device that is gone."""
    return one.redirects and not one.target


def lanes(sk: RouteSocket, device: str) -> list[LaneInfo]:
    """The lanes of a device, whoever made them, and what is left of any whose ifb was deleted."""
    ifindex = sk.link(device)
    there = hooks(sk, ifindex, device)
    here = [lane for lane in all_lanes(sk) if lane.ifindex == ifindex]
    are_now = states(sk, here, there)
    found = []
    for lane in here:
        is_now, name = are_now[lane.ifb.name], lane.ifb.name
        hook, match = lane.words.get("hook", "?"), lane.words.get("match", "?")
        pid = lane.pid if is_now == "alive" else None
        trouble = None
        if not lane.ifb.up and lane.slot in by_slot(there[lane.ingress]):
            is_now, trouble = "drops", f"{name} is down: 'ip link set dev {name} up'"
        found.append(LaneInfo(device, hook, match, is_now, pid, name, lane.slot, lane.ifb.ifindex, trouble))
    for ingress, slots in dead_slots(there).items():
        hook = "ingress" if ingress else "egress"
        for slot in slots:
            name = ifb_name(ifindex, slot)
            trouble = f"{name} was deleted: 'libnlplug lane del {device}'"
            found.append(LaneInfo(device, hook, "?", "drops", None, name, slot, 0, trouble))
    return sorted(found, key=lambda lane: lane.slot)
