# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the lanes of a device in the kernel: which exist, whose they are, and whether they can hold.

Each lane has a slot of its device. This number is in the name and the alias of the ifb, in the handles of the filters,
and in the name of the mark, which the lane's process keeps while it lives. A renamed ifb is still found by its alias. A
lane is 'alive' if a process has its mark, and 'kept'
if it is meant to stay without one. Any other lane, or a kept one that can no longer hold, is an 'orphan': the next lane
of the device removes it.

Every change of a device's lanes happens under the device's lock.
"""

from __future__ import annotations

from ..errors import DeviceNotFound, QdiscNotFound
from ..guard.holders import Mark
from ..netlink.devices import Device
from ..netlink.libnl import lib
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc, open_by
from ..record import Record
from .filters import SLOTS, by_slot, digest, slot_of
from .hook import Filter, filters_at
from .ifb import ADDRESS, alias_of, ifb_of, ifbs, set_alias, words_of
from .lock import Lock, taken_marks

__all__ = [
    "Hooks",
    "Lane",
    "ShownLane",
    "all_lanes",
    "dead_slots",
    "fault",
    "hooks",
    "ifb_name",
    "is_dead",
    "lane_mark",
    "lanes_lock",
    "place_of",
    "plug_of",
    "read_again",
    "shown_lanes",
    "states",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    Hooks = dict[bool, list[Filter]]  # what is at each hook; the ingress hook is True's
else:
    Hooks = dict


class ShownLane(Record):
    """A lane as 'libnlplug lane show' prints it. ``state`` is 'kept', 'alive' (``pid`` is its process), 'orphan' or
    'drops': every packet that it matches is lost. If it cannot hold its packets, ``trouble`` says why, and what to do.
    """

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
    """A lane's ifb, its device (``ifindex``) and slot, and the ``words`` of the ifb's alias: 'at' (device and slot),
    'hook', 'kept', 'pid', 'match', 'filters' (their number, which is 0 until the lane is complete), and 'keys' (their
    digest).
    """

    __slots__ = ("ifb", "ifindex", "slot", "words")
    ifb: Device
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
    """Return the name that a lane's ifb is made with, at most 15 characters."""
    return f"plug{place_of(ifindex, slot)}"


def place_of(ifindex: int, slot: int) -> str:
    """Return the device and slot of a lane as its ifb's name and alias have them."""
    return f"{ifindex:x}-{slot}"


def lane_mark(ifindex: int, slot: int) -> Mark:
    """Return the mark that the process of the lane keeps while it lives."""
    return Mark(_lane_mark_name(ifindex, slot), silent=True)


def _lane_mark_name(ifindex: int, slot: int) -> str:
    return f"libnlplug-lane/{ifb_name(ifindex, slot)}"


def lanes_lock(sk: RouteSocket, ifindex: int, device: str, operation: str) -> Lock:
    """Return the lock of the device's lanes, for whoever makes or undoes one."""
    return Lock(sk, f"libnlplug-lanes/{ifindex:x}", operation, device)


def all_lanes(sk: RouteSocket) -> list[Lane]:
    """Return all lanes of the namespace, ordered by device and slot."""
    found = [lane for lane in map(_lane, ifbs(sk)) if lane is not None]
    return sorted(found, key=lambda lane: (lane.ifindex, lane.slot))


def _lane(ifb: Device) -> Lane | None:
    """Return the lane of this ifb, or None. The alias says which one. If it does not, an ifb with both the name and the
    address of a lane's is one."""
    words = words_of(ifb)
    place = _place(words.get("at", ""))
    if place is None and ifb.name.startswith("plug") and ifb.address == ADDRESS:
        place = _place(ifb.name[len("plug") :])
    return None if place is None else Lane(ifb, *place, words)


def _place(text: str) -> tuple[int, int] | None:
    """Return the device and slot that place_of() has written, or None."""
    head, _, slot = text.partition("-")
    try:
        ifindex, number = int(head, 16), int(slot)
    except ValueError:
        return None
    return (ifindex, number) if text == place_of(ifindex, number) and ifindex > 0 and 0 <= number < SLOTS else None


def read_again(sk: RouteSocket, lane: Lane) -> Lane | None:
    """Read the lane again. Return None if its ifb is gone."""
    ifb = ifb_of(sk, lane.ifb.ifindex)
    return None if ifb is None else Lane(ifb, lane.ifindex, lane.slot, words_of(ifb))


def hooks(sk: RouteSocket, ifindex: int, device: str) -> Hooks:
    """Return the filters at the device's two hooks."""
    return {ingress: filters_at(sk, ifindex, device, ingress) for ingress in (False, True)}


def plug_of(sk: RouteSocket, lane: Lane) -> PlugQdisc | None:
    """Return the plug on a lane's ifb, or None if there is none (yet, or any more)."""
    try:
        return open_by(sk, lane.ifb.name, lib.TC_H_ROOT)
    except (QdiscNotFound, DeviceNotFound):
        return None


def fault(sk: RouteSocket, lane: Lane, mine: list[Filter]) -> str | None:
    """Return why the lane with the filters ``mine`` cannot hold its packets, or None if plug, ifb and filters are as
    they were made."""
    name = lane.ifb.name
    if not lane.words:
        return f"the alias of its ifb {name} does not describe it"
    if not lane.filters:
        return "it is not complete"
    if len(mine) < lane.filters:
        return "its filters are gone, or the clsact qdisc with them"
    if digest(mine) != lane.words.get("keys"):
        return "its filters were changed"
    if not lane.ifb.up:
        return f"its ifb {name} is down, which drops what the lane takes"
    return f"the plug of its ifb {name} is gone" if plug_of(sk, lane) is None else None


def states(sk: RouteSocket, found: list[Lane], there: Hooks) -> dict[str, str]:
    """Return 'alive', 'kept' or 'orphan' for each lane of a device, by its ifb's name."""
    names = {_lane_mark_name(lane.ifindex, lane.slot): lane.ifb.name for lane in found}
    alive = {names[mark] for mark in taken_marks(sk, list(names))}
    lanes_filters = {ingress: by_slot(at) for ingress, at in there.items()}
    are_now = {}
    for lane in found:
        name, mine = lane.ifb.name, lanes_filters[lane.ingress].get(lane.slot, [])
        kept = lane.kept and name not in alive and fault(sk, lane, mine) is None
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
    lanes_filters = {ingress: by_slot(at) for ingress, at in there.items()}
    found = []
    for lane in here:
        is_now, name, mine = are_now[lane.ifb.name], lane.ifb.name, lanes_filters[lane.ingress].get(lane.slot, [])
        hook, match = lane.words.get("hook", "?"), lane.words.get("match", "?")
        pid = lane.pid if is_now == "alive" else None
        trouble = _trouble(device, is_now, fault(sk, lane, mine))
        if mine and not lane.ifb.up:
            is_now, trouble = "drops", f"{name} is down: 'ip link set dev {name} up'"
        found.append(ShownLane(device, hook, match, is_now, pid, name, lane.slot, lane.ifb.ifindex, trouble))
    for ingress, slots in dead_slots(there).items():
        hook = "ingress" if ingress else "egress"
        for slot in slots:
            name = ifb_name(ifindex, slot)
            why = _trouble(device, "drops", f"{name} was deleted")
            found.append(ShownLane(device, hook, "?", "drops", None, name, slot, 0, why))
    return sorted(found, key=lambda lane: lane.slot)


def _trouble(device: str, state: str, why: str | None) -> str | None:
    """Return what is wrong with a lane, and what to do, or None."""
    if why is None:
        return None
    if state == "alive":
        return f"{why}: its program must close it and make it again"
    return f"{why}: add the lane again; or 'libnlplug lane del {device}' deletes all lanes of {device}"
