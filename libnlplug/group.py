# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugGroup: many plugs, one send.

    buffer()   |  buffer eth0  |  buffer eth1  | ... |  buffer eth999, ACK  |  --one sendmsg-->  kernel
                                                                            <--one recvmsg--   the ACK

The kernel carries out the messages one after the other within that send. So the devices of a group begin and end to
hold at nearly the same moment, and it costs a fraction of a call for each. A failure does not stop the messages after
it.
"""

from __future__ import annotations

import errno

from .errors import ClosedError, ForkedError, HandleInUse, NetlinkError, PlugBusy, QdiscExists
from .guard.holders import Taken, holder_of
from .hold import Holdable
from .netlink.messages import joined
from .plug import PlugQdisc, PlugStats

__all__ = ["GroupError", "PlugGroup"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .guard.holders import Holder, Place
    from .netlink.route_socket import QdiscInfo, RouteSocket

_OPERATIONS = {
    "buffer": "buffer on",
    "release_one": "release one epoch on",
    "release_indefinite": "release",
}


class GroupError(NetlinkError):
    """Some plugs of a group could not be toggled; the others were. ``failures`` has their errors, by plug."""

    failures: dict[PlugQdisc, NetlinkError]

    @classmethod
    def of(cls, operation: str, count: int, failures: dict[PlugQdisc, NetlinkError]) -> GroupError:
        """Return the error of an ``operation`` on ``count`` plugs. Its errno is that of all failures, or None."""
        sentences = [str(failure) for failure in failures.values()]
        more = f"; and {len(sentences) - 3} more" if len(sentences) > 3 else ""
        sentence = f"{len(failures)} of {count} plugs failed, the others are done: {'; '.join(sentences[:3])}{more}"
        codes = {failure.errno for failure in failures.values()}
        error = cls(codes.pop() if len(codes) == 1 else None, sentence, operation)
        error.failures = failures
        return error

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:  # type: ignore[override]
        # A plug cannot be pickled: its device's name stands for it.
        named = {getattr(plug, "device", plug): failure for plug, failure in getattr(self, "failures", {}).items()}
        return (*super().__reduce__(), {"failures": named})


class PlugGroup(Holdable):
    """Any number of plugs of one network namespace that are toggled together.

        with contextlib.ExitStack() as stack:
            group = PlugGroup(stack.enter_context(attach(device)) for device in devices)
            group.buffer()
            checkpoint()
            group.release_indefinite()

    The group uses the socket of its first open plug, and toggles all its plugs as long as one is open. It does not own
    the plugs: it never closes or detaches them. hold() starts a guard, which ends with close(), at the end of a
    ``with``, or with this process.

    Threads: it locks, so that a group is toggled as a whole. Fork: use in a child raises ForkedError.
    """

    def __init__(self, plugs: Iterable[PlugQdisc]) -> None:
        super().__init__()
        self._plugs = tuple(plugs)
        self._sk: RouteSocket | None = None
        self._closed = False
        self._sends: dict[str, list[tuple[list[PlugQdisc], bytes]]] = {action: [] for action in _OPERATIONS}
        places = set()
        for plug in self._plugs:
            if not isinstance(plug, PlugQdisc):
                raise TypeError(f"a group is made of PlugQdisc objects, not of {plug!r}")
            places.add(plug.place.at)
        if len({plug.socket().netns_id() for plug in self._plugs}) > 1:
            raise ValueError("the plugs of a group must be in one network namespace: make a group for each")
        if len(places) < len(self._plugs):
            raise ValueError("a plug is in the group twice")
        if self._plugs:
            self._open()

    @property
    def plugs(self) -> tuple[PlugQdisc, ...]:
        """The plugs, in the order in which they are toggled."""
        return self._plugs

    def buffer(self) -> None:
        """PlugQdisc.buffer() on all plugs: hold from now on, or begin a new epoch.

        Raises GroupError if plugs could not be toggled; its ``failures`` say which and why. The others were toggled.
        """
        self._act("buffer")

    def release_one(self) -> None:
        """PlugQdisc.release_one() on all plugs: release the epoch before the latest buffer(). Raises as buffer()."""
        self._act("release_one")

    def release_indefinite(self) -> None:
        """PlugQdisc.release_indefinite() on all plugs: release everything. Raises as buffer()."""
        self._act("release_indefinite")

    def close(self) -> None:
        """End the group's guard; a hold() of the group is released. Calling it again does nothing. The plugs stay
        open."""
        self.end_guard()
        self._closed = True

    def __enter__(self) -> PlugGroup:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stats(self) -> dict[PlugQdisc, PlugStats]:
        """Return the counters of each plug, from one dump of the namespace's qdiscs. Plugs that are gone are left out.

        A dump can miss qdiscs while links are deleted (tc_dump_qdisc counts links). So the kernel is asked again for
        each plug that the dump lacks.
        """
        if not self._plugs:
            return {}
        sk = self._open()
        found = {(info.ifindex, info.parent): info for info in sk.qdiscs({plug.place.at for plug in self._plugs})}
        stats = {}
        for plug in self._plugs:
            info = found.get(plug.place.at) or _asked_for(plug, sk)
            if info is not None and (info.kind, info.handle) == ("plug", plug.place.handle):
                stats[plug] = PlugStats(info.qlen, info.backlog, info.drops, info.packets, info.bytes)
        return stats

    def __len__(self) -> int:
        return len(self._plugs)

    def __repr__(self) -> str:
        return f"<PlugGroup of {len(self._plugs)} plugs>"

    def _act(self, action: str) -> None:
        if not self._plugs:
            return
        failures: dict[PlugQdisc, NetlinkError] = {}
        self._open()  # refuses a forked child before it waits for the lock, which may never be free there
        with self._lock:
            self._open()
            for plugs, messages in tuple(self._sends[action]):
                self._send(action, plugs, messages, failures)
        if failures:
            raise GroupError.of(_OPERATIONS[action], len(self._plugs), failures)

    def _send(
        self, action: str, plugs: list[PlugQdisc], messages: bytes, failures: dict[PlugQdisc, NetlinkError]
    ) -> None:
        """Send once. Actions that hold are noted first, because an interrupt may come, and taken back only if they were
        certainly not carried out."""
        holds = action != "release_indefinite"
        before = [plug.last_action for plug in plugs]
        if holds:
            for plug in plugs:
                plug.note(action)
        try:
            errors = self._batch(messages, [plug.device for plug in plugs], _OPERATIONS[action])
        except (ClosedError, ForkedError):
            for plug, last in zip(plugs, before):
                plug.note(last)
            raise
        if not holds:
            done = [plug for seq, plug in enumerate(plugs) if seq not in errors] if errors else plugs
            for plug in done:
                plug.note(action)
        for seq, error in errors.items():
            plug = plugs[seq]
            gone = isinstance(error, (QdiscExists, HandleInUse))
            failures[plug] = plug.refusal(_OPERATIONS[action], errno.EEXIST) if gone else error
            if error.errno is not None:
                plug.note(before[seq])

    def _batch(self, messages: bytes, devices: list[str], operation: str) -> dict[int, NetlinkError]:
        """RouteSocket.execute_all() with an open socket: if a plug was closed meanwhile, with the next plug's."""
        while True:
            try:
                return self._open().execute_all(messages, devices, operation)
            except ClosedError:  # nothing was sent
                if self.closed:
                    raise

    # What a hold needs of them (hold.Holdable). The report's packets, bytes and dropped are sums over the plugs.

    @property
    def limit(self) -> None:
        """None: the plugs may have different limits."""
        return None

    def limit_for(self, held: int, dropped: int) -> None:
        """Return None: each plug has its own limit, and which of them was too small is unknown."""

    @property
    def device(self) -> str:
        """The device of the only plug, or 'eth0 and 4 more'."""
        more = len(self._plugs) - 1
        return f"{self._plugs[0].device} and {more} more" if more else self._plugs[0].device

    @property
    def closed(self) -> bool:
        """True after close(), or if all plugs are closed."""
        return self._closed or all(plug.closed for plug in self._plugs)

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that made the group."""
        return self._sk is not None and self._sk.forked

    def socket(self) -> RouteSocket:
        """Return the socket of the first open plug. Raises ClosedError if all are closed, ForkedError in a child."""
        return self._open()

    def places(self) -> list[Place]:
        """Return the places of the plugs."""
        return [plug.place for plug in self._plugs]

    def messages(self) -> dict[int, bytes]:
        """Return what the guard sends to the first plug. The messages to the others differ only in the place."""
        return self._plugs[0].messages()

    def note(self, action: str | None, *, deleted: bool = False) -> None:
        """Remember what the guard has sent to all plugs."""
        for plug in self._plugs:
            plug.note(action, deleted=deleted)

    def error_for(self, operation: str, codes: dict[int, int]) -> NetlinkError:
        """Return the error for an ``operation`` that the kernel refused for some plugs. ``codes`` has the errno of each
        plug that failed, by its index."""
        failures = {self._plugs[at]: self._plugs[at].refusal(operation, code) for at, code in codes.items()}
        return GroupError.of(operation, len(self._plugs), failures)

    def is_gone(self, error: NetlinkError) -> bool:
        """Return whether the error says that every plug that failed does not exist any more."""
        failures = error.failures.values() if isinstance(error, GroupError) else (error,)
        return all(isinstance(failure, FileNotFoundError) for failure in failures)

    def release_without(self, guard: int) -> None:
        """Release without the guard of this pid the plugs that nobody else holds. GroupError names the others."""
        sk = self._open()
        failures: dict[PlugQdisc, NetlinkError] = {}
        for plug in self._plugs:
            try:
                with Taken(sk, plug.place, "release", guard):
                    self._send("release_indefinite", [plug], joined([plug.message("release_indefinite")]), failures)
            except PlugBusy as error:
                failures[plug] = error
        if failures:
            raise GroupError.of("release", len(self._plugs), failures)

    def holder(self) -> Holder | None:
        """Return who holds the first plug that is held by a hold(), or None."""
        sk = self._open()
        return next((holder for plug in self._plugs if (holder := holder_of(sk, plug.place.mark)) is not None), None)

    def _open(self) -> RouteSocket:
        """Return the socket of the first open plug, and divide the messages into portions that fit."""
        if self._closed:
            raise ClosedError("this group is closed")
        if self._sk is None or self._sk.closed:
            with self._lock:
                plug = next((plug for plug in self._plugs if not plug.closed), None)
                if plug is None:
                    raise ClosedError("all plugs of the group are closed")
                self._sk = plug.socket()
                self._fill(self._sk)
        self._sk.fileno()
        return self._sk

    def _fill(self, sk: RouteSocket) -> None:
        """Make the sends. Each fits into the socket's send buffer, and its answers into the receive buffer."""
        size, answers = sk.make_room(len(self._plugs))
        for action, sends in self._sends.items():
            sends.clear()
            plugs: list[PlugQdisc] = []
            messages: list[bytes] = []
            length = 0
            for plug in self._plugs:
                message: bytes = plug.message(action)
                if length + len(message) > size or len(plugs) == answers:
                    sends.append((plugs, joined(messages)))
                    plugs, messages, length = [], [], 0
                plugs.append(plug)
                messages.append(message)
                length += len(message)
            sends.append((plugs, joined(messages)))


def _asked_for(plug: PlugQdisc, sk: RouteSocket) -> QdiscInfo | None:
    """Return what the kernel shows of one plug, or None if it is gone."""
    place = plug.place
    try:
        return sk.qdisc(place.ifindex, place.parent, place.device, place.handle, b"plug")
    except FileNotFoundError:
        return None
