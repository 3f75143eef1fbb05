# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugLane: hold only chosen packets, leaving or arriving, while everything else flows.

    device --> clsact hook --> u32: does it match? --no--> on, as ever
                                  |yes
                                  '--> ifb whose root is the plug --> back to where it was

The device's own root qdisc is not touched. Setting up makes the ifb, then its plug, released, then the filters: no
packet comes before the plug is open. Closing goes backwards: release, filters, wait until plug and ifb are empty, ifb,
and the clsact qdisc where a lane made it and nobody uses it.

Each lane has a slot of its device: a number that fixes the ifb's name, the filters' preferences and the name of its
mark, an abstract unix socket that its process keeps bound while it lives. So lanes in other processes, lanes kept for
good ('libnlplug lane add') and orphans, whose process has died, are told apart; only orphans are cleaned up, by the
next lane of the same device.

Threads: as PlugQdisc. Fork: the lane is the parent's; in a child it can only be forgotten.
"""

from __future__ import annotations

import errno
import os
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM
from _socket import socket as Socket

from ._libnl import lib
from ._record import Record
from .errors import DeviceNotFound, NetlinkError, NotDrained, PlugBusy, QdiscNotFound
from .ifb import Ifb, alias_of, create_ifb, delete_ifb, ifbs, set_alias
from .match import Match
from .qdisc import DRAIN_TIMEOUT, PlugQdisc, attach_by, checked_limit, open_by
from .redirect import (
    SLOTS,
    Filter,
    add_filters,
    clsact_message,
    delete_filters,
    ender,
    filters,
    hook_number,
    make_clsact,
    prio_of,
    tcx_programs,
)
from .route import RouteSocket

__all__ = ["LIMIT", "LaneInfo", "LaneShadowed", "PlugLane", "delete_lanes", "lanes"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from .hold import Hold
    from .route import Netns

LIMIT = 4 << 20  # an ifb's own default, about 48 KB, is full after some 650 SYNs


class LaneShadowed(UserWarning):
    """Something at the hook comes before the lane, and may take packets that the lane then does not see."""


class LaneInfo(Record):
    """A lane as it is found in the kernel. ``state`` is 'kept', 'alive' (``pid`` is its process) or 'orphan'."""

    __slots__ = ("device", "hook", "match", "state", "pid", "ifb", "slot", "ifindex")
    device: str
    hook: str
    match: str
    state: str
    pid: int | None
    ifb: str
    slot: int
    ifindex: int


class PlugLane:
    """A lane of ``device`` for the packets of ``match``: leaving ones, or with ``ingress`` arriving ones.

        lane = PlugLane("lo", Match(ip_proto="tcp", dst_port=8080, tcp_syn=True))
        with lane, lane.hold(timeout=5.0):
            reload_proxy()

    The constructor sets it up; leaving ``with``, or close(), undoes exactly what it made. A lane that is there for the
    same device, hook and match is adopted: it is sent nothing but a given ``limit``, and stays when this object is
    closed. ``limit`` is in bytes, 4 MiB where it is not given; ``netns`` as in attach(). What may keep packets from the
    lane, an earlier filter or a tcx program, is in ``shadowed``, and a LaneShadowed warning.

    Raises what attach() raises, ValueError for a match or limit that cannot be, and PlugUnavailable naming the module
    where the kernel lacks ifb, clsact, u32 or mirred.
    """

    def __init__(
        self, device: str, match: Match, *, ingress: bool = False, limit: int | None = None, netns: Netns = None
    ) -> None:
        self._set_up(device, match, ingress, limit, netns, kept=False)

    @classmethod
    def keep(
        cls, device: str, match: Match, *, ingress: bool = False, limit: int | None = None, netns: Netns = None
    ) -> PlugLane:
        """The same, but the lane stays when this object is closed and when the process ends: 'libnlplug lane add'."""
        lane = cls.__new__(cls)
        lane._set_up(device, match, ingress, limit, netns, kept=True)
        return lane

    def _set_up(self, device: str, match: Match, ingress: bool, limit: int | None, netns: Netns, *, kept: bool) -> None:
        if not isinstance(match, Match):
            raise TypeError(f"match is {match!r}: it must be a Match")
        checked = LIMIT if limit is None else checked_limit(limit)
        self._route = RouteSocket(netns)
        self._device = device
        self._match = match
        self._ingress = ingress
        self._ifindex = self._route.link(device)
        self._mark: Socket | None = None
        self._created = False
        self._closed = False
        try:
            adopted = self._find(kept)
            if adopted is not None:
                self._ifb, self._ifb_index, self._slot = adopted.name, adopted.ifindex, _slot_of(adopted.name)
                self._plug = attach_by(
                    self._route, adopted.name, lib.TC_H_ROOT, None, None if limit is None else checked
                )
            else:
                self._make(checked, kept)
        except BaseException:
            self._let_go()
            raise
        self.shadowed = self._shadows()
        if self.shadowed:
            import warnings

            warnings.warn(f"lane on {device}: {'; '.join(self.shadowed)}", LaneShadowed, stacklevel=3)

    def _find(self, kept: bool) -> Ifb | None:
        """The lane that is there for the same match, or None and a slot that is ours."""
        there = {ifb.name: ifb for ifb in ifbs(self._route)}
        for slot in range(SLOTS):
            name = _ifb_name(self._ifindex, slot)
            ifb = there.get(name)
            mark = self._take(name)
            if ifb is not None and (mark is None or _is_kept(ifb)):
                if mark is not None:
                    mark.close()
                if self._is_this(ifb):
                    return ifb
                continue
            if mark is None:  # another process is setting it up at this moment
                continue
            _keep_from_children(mark)
            self._mark, self._slot, self._ifb = mark, slot, name
            if ifb is not None:
                _clean(self._route, self._device, self._ifindex, ifb)
            # A later slot may have a lane for the same match.
            later = (_ifb_name(self._ifindex, other) for other in range(slot + 1, SLOTS))
            for name in later:
                ifb = there.get(name)
                if ifb is not None and self._is_this(ifb) and _state(self._route, ifb)[0] != "orphan":
                    self._let_go_of_mark()
                    return ifb
            return None
        raise NetlinkError(
            errno.EUSERS, f"cannot make a lane on {self._device}: it has {SLOTS} already", "make a lane", self._device
        )

    def _take(self, name: str) -> Socket | None:
        return self._route.in_netns(lambda: _take_mark(name))

    def _is_this(self, ifb: Ifb) -> bool:
        words = ifb.words or {}
        wanted = (str(self._ifindex), self._hook, str(self._match))
        return (words.get("ifindex"), words.get("hook"), words.get("match")) == wanted

    def _make(self, limit: int, kept: bool) -> None:
        route, device, hook = self._route, self._device, hook_number(self._ingress)
        self._made_clsact = False
        self._kept = kept
        # What an earlier life of this slot left behind without its ifb would throw packets away.
        delete_filters(route, self._ifindex, device, hook, self._slot, (4, 6))
        self._ifb_index = create_ifb(route, self._ifb, self._alias())
        self._created = True
        try:
            self._plug = attach_by(route, self._ifb, lib.TC_H_ROOT, None, limit)
            self._made_clsact = make_clsact(route, self._ifindex, device, self._ingress)
            set_alias(route, self._ifb_index, self._ifb, self._alias())
            self._refuse_to_bypass(filters(route, self._ifindex, device, hook))
            add_filters(route, self._ifindex, device, hook, self._slot, self._match, self._ifb_index)
        except BaseException:
            self._undo()
            raise
        if kept:
            self._let_go_of_mark()

    def _alias(self) -> str:
        words = {
            "ifindex": self._ifindex,
            "hook": self._hook,
            "kept": int(self._kept),
            "pid": os.getpid(),
            "clsact": int(self._made_clsact),
            "match": self._match,
        }
        return alias_of(**words)

    @property
    def _hook(self) -> str:
        return "ingress" if self._ingress else "egress"

    def _refuse_to_bypass(self, there: list[Filter]) -> None:
        first = prio_of(self._slot, 4)
        later = [one for one in there if one.prio > first + 1 and one.prio not in _prios_of_lanes() and one.chain == 0]
        if later:
            hint = f"give it a preference (pref) below {prio_of(0, 4)}"
            message = (
                f"cannot make a lane on {self._device}: the {later[0].kind} filter of preference {later[0].prio} would"
                f" come after the lane's, which would bypass it; {hint}"
            )
            raise NetlinkError(errno.EEXIST, message, "make a lane on", self._device, hint=hint)

    def _shadows(self) -> list[str]:
        """What comes before the lane at the hook and may keep packets from it."""
        hook, first = hook_number(self._ingress), prio_of(self._slot, 4)
        found = filters(self._route, self._ifindex, self._device, hook)
        lines = [
            f"the {one.kind} filter of preference {one.prio} comes first, and what it matches the lane does not see"
            for one in found
            if one.prio < first and one.prio not in _prios_of_lanes() and ender(one, self._match)
        ]
        unique = list(dict.fromkeys(lines))
        count = tcx_programs(self._ifindex, self._ingress)
        if count:
            unique.append(f"{count} tcx BPF programs come first, and what they pass or drop the lane does not see")
        return unique

    @property
    def device(self) -> str:
        """The device whose packets are chosen from."""
        return self._device

    @property
    def match(self) -> Match:
        """Which packets."""
        return self._match

    @property
    def ingress(self) -> bool:
        """Whether it is about arriving packets."""
        return self._ingress

    @property
    def ifb(self) -> str:
        """The name of the ifb that carries the plug."""
        return self._ifb

    @property
    def plug(self) -> PlugQdisc:
        """The plug itself: buffer(), release_one(), stats() and so on."""
        return self._plug

    @property
    def created(self) -> bool:
        """Whether this object made the lane, and will undo it, or adopted it."""
        return self._created

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def hold(self, timeout: float | None = None, on_death: str = "release") -> Hold:
        """Hold the lane's packets for a block, guarded: as PlugQdisc.hold()."""
        return self._plug.hold(timeout, on_death)

    def close(self, *, timeout: float = DRAIN_TIMEOUT) -> None:
        """Undo the lane: release, filters, wait ``timeout`` seconds at most until it is empty, ifb, clsact.

        Calling it again does nothing. PlugBusy (with the ``pid``) while a hold() is on, and NotDrained with the number
        of packets that could not leave; the lane stays then, and close() can be called again. An adopted or kept lane
        stays, released if this object's last word left it holding.
        """
        if self._closed:
            return
        if self._route.forked:
            self._let_go()
            return
        if self._created and not self._kept:
            self._plug._refuse_while_held("close the lane of")
            self._undo(timeout)
        elif self._plug.last_action in ("buffer", "release_one"):
            self._plug.release_indefinite()
        self._let_go()

    def _undo(self, timeout: float = DRAIN_TIMEOUT) -> None:
        ifb = Ifb(self._ifb_index, self._ifb, self._alias(), 0, 0)
        _tear_down(self._route, self._device, self._ifindex, ifb, timeout)
        self._created = False

    def _let_go(self) -> None:
        """Close what this object has open; the kernel's state stays."""
        self._closed = True
        self._let_go_of_mark()
        plug = getattr(self, "_plug", None)
        if plug is not None:
            plug.close()
        self._route.close()

    def _let_go_of_mark(self) -> None:
        mark, self._mark = self._mark, None
        if mark is not None:
            _marks.discard(mark)
            mark.close()

    def __enter__(self) -> PlugLane:
        self._route.fileno()  # a closed lane cannot be entered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"on {self._ifb}"
        return f"<PlugLane {self._device} {self._hook} {self._match} {state}>"


def lanes(route: RouteSocket, device: str) -> list[LaneInfo]:
    """The lanes of a device, whoever made them."""
    ifindex = route.link(device)
    found = []
    for ifb in ifbs(route):
        if _slot_of(ifb.name, ifindex) < 0:
            continue
        words = ifb.words or {}
        state, pid = _state(route, ifb)
        hook, match = words.get("hook", "?"), words.get("match", "?")
        found.append(LaneInfo(device, hook, match, state, pid, ifb.name, _slot_of(ifb.name), ifb.ifindex))
    return sorted(found, key=lambda lane: lane.slot)


def delete_lanes(route: RouteSocket, device: str, match: Match | None, ingress: bool | None) -> list[LaneInfo]:
    """Undo the kept and orphaned lanes of a device: those of one match and hook, or all. Which they were.

    A lane whose process is alive is PlugBusy, and nothing is undone.
    """
    ifindex = route.link(device)
    hook = None if ingress is None else "ingress" if ingress else "egress"
    chosen = [
        lane
        for lane in lanes(route, device)
        if (match is None or lane.match == str(match)) and (hook is None or lane.hook == hook)
    ]
    for lane in chosen:
        if lane.state == "alive":
            raise PlugBusy.by(device, lane.pid or 0, f"process {lane.pid} uses the lane", "delete the lane of")
    there = {ifb.ifindex: ifb for ifb in ifbs(route)}
    for lane in chosen:
        plug = _plug_of(route, lane.ifb)
        if plug is not None:
            plug._refuse_while_held("delete the lane of")
        _tear_down(route, device, ifindex, there[lane.ifindex], DRAIN_TIMEOUT)
    return chosen


def _plug_of(route: RouteSocket, name: str) -> PlugQdisc | None:
    """The plug on an ifb; None where its maker died before there was one, or it is gone."""
    try:
        return open_by(route, name, lib.TC_H_ROOT)
    except (QdiscNotFound, DeviceNotFound):
        return None


def _clean(route: RouteSocket, device: str, ifindex: int, ifb: Ifb) -> None:
    """Undo an orphan, unless its guard is at work: then wait for it a moment."""
    deadline = time.monotonic() + DRAIN_TIMEOUT
    plug = _plug_of(route, ifb.name)
    while plug is not None and plug.holder() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    if plug is not None:
        plug._refuse_while_held("clean up a lane of")
    _tear_down(route, device, ifindex, ifb, DRAIN_TIMEOUT)


def _tear_down(route: RouteSocket, device: str, ifindex: int, ifb: Ifb, timeout: float) -> None:
    """The exact undo, in the order in which no packet is lost; what is gone already is passed over."""
    slot, words = _slot_of(ifb.name), ifb.words or {}
    hooks = [words["hook"] == "ingress"] if "hook" in words else [False, True]
    plug = _plug_of(route, ifb.name)
    if plug is not None:
        plug.release_indefinite()
    for ingress in hooks:
        try:
            delete_filters(route, ifindex, device, hook_number(ingress), slot, (4, 6))
        except DeviceNotFound:  # the device went, and its filters with it
            pass
    _drain(route, device, ifb, plug, timeout)
    try:
        delete_ifb(route, ifb.ifindex, ifb.name)
    except DeviceNotFound:
        pass
    if words.get("clsact") == "1":
        _hand_over_clsact(route, device, ifindex)


def _drain(route: RouteSocket, device: str, ifb: Ifb, plug: PlugQdisc | None, timeout: float) -> None:
    """Wait until plug and ifb are empty: the ifb has given back as many packets as it took in, twice in a row, so that
    a packet that was on its way through the filters when they were deleted has arrived too."""
    deadline = time.monotonic() + timeout
    empty = 0
    while empty < 2:
        now = {one.ifindex: one for one in ifbs(route)}.get(ifb.ifindex)
        try:
            waiting = plug.stats().qlen if plug is not None else 0
        except (QdiscNotFound, DeviceNotFound):
            waiting = 0
        if now is None:
            return
        waiting += now.taken - now.given
        empty = 0 if waiting else empty + 1
        if waiting and time.monotonic() >= deadline:
            message = (
                f"cannot close the lane of {device}: {waiting} released packets have not left {ifb.name} within"
                f" {timeout:g} s; it stays, released, so that they are not lost"
            )
            raise NotDrained(errno.ETIMEDOUT, message, "close the lane of", device)
        time.sleep(0.001)


def _hand_over_clsact(route: RouteSocket, device: str, ifindex: int) -> None:
    """Delete the clsact qdisc that a lane made, where it is empty; else another lane of the device has it to delete."""
    for other in ifbs(route):
        words = other.words
        if words is not None and _slot_of(other.name, ifindex) >= 0:
            set_alias(route, other.ifindex, other.name, alias_of(**{**words, "clsact": 1}))
            return
    try:
        if not any(filters(route, ifindex, device, hook_number(ingress)) for ingress in (False, True)):
            route.send_one(clsact_message(ifindex), "delete the clsact qdisc of", device)
    except (QdiscNotFound, DeviceNotFound):
        pass


def _prios_of_lanes() -> range:
    return range(prio_of(0, 4), prio_of(SLOTS, 4))


def _ifb_name(ifindex: int, slot: int) -> str:
    return f"plug{ifindex}-{slot}"


def _slot_of(name: str, ifindex: int | None = None) -> int:
    """The slot that the ifb's name says, -1 where it is no lane's, or not of the device ``ifindex``."""
    head, _, slot = name.removeprefix("plug").partition("-")
    if not name.startswith("plug") or not head.isdecimal() or not slot.isdecimal():
        return -1
    return int(slot) if ifindex in (None, int(head)) else -1


def _is_kept(ifb: Ifb) -> bool:
    return (ifb.words or {}).get("kept") == "1"


def _state(route: RouteSocket, ifb: Ifb) -> tuple[str, int | None]:
    words = ifb.words or {}
    if route.in_netns(lambda: _mark_is_taken(ifb.name)):
        pid = words.get("pid", "")
        return "alive", int(pid) if pid.isdecimal() else None
    return ("kept" if _is_kept(ifb) else "orphan"), None


_marks: set[Socket] = set()


def _keep_from_children(mark: Socket) -> None:
    """A forked child would keep a mark alive that should vanish with this process."""
    _marks.add(mark)


def _close_marks() -> None:
    for mark in _marks:
        mark.close()
    _marks.clear()


os.register_at_fork(after_in_child=_close_marks)


def _mark_of(name: str) -> str:
    return f"\0libnlplug-lane/{name}"


def _take_mark(name: str) -> Socket | None:
    """Bind the mark; None where another process has it."""
    mark = Socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        mark.bind(_mark_of(name))
        return mark
    except OSError as error:
        mark.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise


def _mark_is_taken(name: str) -> bool:
    visitor = Socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        visitor.connect(_mark_of(name))
        return True
    except ConnectionRefusedError:
        return False
    except OSError:  # somebody's socket of another type
        return True
    finally:
        visitor.close()
