# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the lanes of a device in the kernel: which exist, whose they are, and whether they can hold.

Each lane has a slot of its device. This number is in the name of the ifb, in the handles of the filters, and in the
name of the mark, which the lane's process keeps while it lives. A lane is 'alive' if a process has its mark, and 'kept'
if it is meant to stay without one. Any other lane, or a kept one that can no longer hold, is an 'orphan': the next lane
of the device removes it.

Every change of a device's lanes happens under the device's lock.
"""

from __future__ import annotations

from ..errors import DeviceNotFound, QdiscNotFound
from ..guard.holders import Mark
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc, open_by
from ..record import Record
from .filters import SLOTS, by_slot, in_place, slot_of
from .hook import Filter, filters_at
from .ifb import ADDRESS, Ifb, alias_of, ifb_of, ifbs, set_alias
from .lock import Lock, taken_marks

__all__ = [
    "Hooks",
    "Lane",
    "ShownLane",
    "all_lanes",
    "dead_slots",
    "hooks",
    "ifb_name",
    "is_dead",
    "is_whole",
    "lane_mark",
    "shown_lanes",
    "lanes_lock",
    "plug_of",
    "read_again",
    "states",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    Hooks = dict[bool, list[Filter]]  # what is at each hook; the ingress hook is True's
else:
    Hooks = dict


class ShownLane(Record):
    """A lane as 'libnlplug lane show' prints it. ``state`` is 'kept', 'alive' (``pid`` is its process), 'orphan' or
    'drops': every packet that it matches is lost, and ``trouble`` says why and what to do."""

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
    """A lane's ifb, the device (``ifindex``) and slot from its name, and the ``words`` of its alias: 'hook', 'kept',
    'pid', 'match', and 'filters', the number of filters, which is 0 until the lane is complete.
    """

    __slots__ = ("ifb", "ifindex", "slot", "words")
    ifb: Ifb
    ifindex: int
    slot: int
    words: dict[str, str]

    @property
    def ingress(self) -> bool:
        """Whether it holds arriving packets."""
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
        """How many filters it has, or 0 if it is not complete."""
        count = self.words.get("filters", "")
        return int(count) if count.isdecimal() else 0

    def is_for(self, ingress: bool, match: str) -> bool:
        """Return whether it is for this hook and match."""
        return (self.ingress, self.words.get("match")) == (ingress, match)

    def rewrite(self, sk: RouteSocket, **changes: object) -> Lane:
        """Change words of the alias. Return the changed lane."""
        words = {**self.words, **{name: str(value) for name, value in changes.items()}}
        set_alias(sk, self.ifb.ifindex, self.ifb.name, alias_of(words))
        return Lane(self.ifb, self.ifindex, self.slot, words)


def ifb_name(ifindex: int, slot: int) -> str:
    """Return the name of a lane's ifb, at most 15 characters."""
    return f"plug{ifindex:x}-{slot}"


def lane_mark(name: str) -> Mark:
    """Return the mark that the process of the lane on this ifb keeps while it lives."""
    return Mark(_lane_mark_name(name), silent=True)


def _lane_mark_name(name: str) -> str:
    return f"libnlplug-lane/{name}"


def lanes_lock(sk: RouteSocket, ifindex: int, device: str, operation: str) -> Lock:
    """Return the lock of the device's lanes, for whoever makes or undoes one."""
    return Lock(sk, f"libnlplug-lanes/{ifindex:x}", operation, device)


def all_lanes(sk: RouteSocket) -> list[Lane]:
    """Return all lanes of the namespace, ordered by device and slot."""
    found = [lane for lane in map(_lane, ifbs(sk)) if lane is not None]
    return sorted(found, key=lambda lane: (lane.ifindex, lane.slot))


def _lane(ifb: Ifb) -> Lane | None:
    """Return the lane of this ifb, or None: a lane's ifb has both the name and the address of one."""
    head, _, slot = ifb.name.removeprefix("plug").partition("-")
    try:
        ifindex, number = int(head, 16), int(slot)
    except ValueError:
        return None
    if ifb.name != ifb_name(ifindex, number) or ifb.address != ADDRESS or not 0 <= number < SLOTS:
        return None
    return Lane(ifb, ifindex, number, ifb.words)


def read_again(sk: RouteSocket, lane: Lane) -> Lane | None:
    """Read the lane again. Return None if its ifb is gone. (A renamed ifb is still the lane's.)"""
    ifb = ifb_of(sk, lane.ifb.ifindex)
    return None if ifb is None else Lane(ifb, lane.ifindex, lane.slot, ifb.words)


def hooks(sk: RouteSocket, ifindex: int, device: str) -> Hooks:
    """Return the filters at the device's two hooks."""
    return {ingress: filters_at(sk, ifindex, device, ingress) for ingress in (False, True)}


def plug_of(sk: RouteSocket, lane: Lane) -> PlugQdisc | None:
    """Return the plug on a lane's ifb, or None if there is none (yet, or any more)."""
    try:
        return open_by(sk, lane.ifb.name, lib.TC_H_ROOT)
    except (QdiscNotFound, DeviceNotFound):
        return None


def is_whole(sk: RouteSocket, lane: Lane, there: Hooks) -> bool:
    """Return whether the lane can hold: plug, ifb and filters are as they were made."""
    return _is_whole(sk, lane, by_slot(there[lane.ingress]).get(lane.slot, []))


def _is_whole(sk: RouteSocket, lane: Lane, mine: list[Filter]) -> bool:
    return in_place(mine, lane.ifb.ifindex, lane.filters) and lane.ifb.up and plug_of(sk, lane) is not None


def states(sk: RouteSocket, found: list[Lane], there: Hooks) -> dict[str, str]:
    """Return 'alive', 'kept' or 'orphan' for each lane of a device, by its ifb's name."""
    names = {_lane_mark_name(lane.ifb.name): lane.ifb.name for lane in found}
    alive = {names[mark] for mark in taken_marks(sk, list(names))}
    lanes_filters = {ingress: by_slot(at) for ingress, at in there.items()}
    are_now = {}
    for lane in found:
        name, mine = lane.ifb.name, lanes_filters[lane.ingress].get(lane.slot, [])
        kept = lane.kept and name not in alive and _is_whole(sk, lane, mine)
        are_now[name] = "alive" if name in alive else "kept" if kept else "orphan"
    return are_now


def dead_slots(there: Hooks) -> dict[bool, set[int]]:
    """Return the slots whose filters lead to an ifb that is gone. These filters drop every packet that they match."""
    return {
        ingress: {slot for one in at if is_dead(one) and (slot := slot_of(one)) is not None}
        for ingress, at in there.items()
    }


def is_dead(one: Filter) -> bool:
    """Return whether the filter redirects to a device that is gone."""
    return one.redirects and not one.target


def shown_lanes(sk: RouteSocket, device: str) -> list[ShownLane]:
    """Return all lanes of a device, also those of which only the filters are left because the ifb was deleted."""
    ifindex = sk.ifindex_of(device)
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
        found.append(ShownLane(device, hook, match, is_now, pid, name, lane.slot, lane.ifb.ifindex, trouble))
    for ingress, slots in dead_slots(there).items():
        hook = "ingress" if ingress else "egress"
        for slot in slots:
            name = ifb_name(ifindex, slot)
            trouble = f"{name} was deleted: 'libnlplug lane del {device}'"
            found.append(ShownLane(device, hook, "?", "drops", None, name, slot, 0, trouble))
    return sorted(found, key=lambda lane: lane.slot)
