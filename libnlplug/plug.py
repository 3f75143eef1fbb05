# SPDX-License-Identifier: GPL-2.0-or-later
"""PlugQdisc: one plug on one device, which holds the packets that leave through it and lets them go again.

    buffer()               release_one()                     release_indefinite()
    |-- epoch 2 --|-- epoch 1 --|                            everything goes, and new packets
     still waiting               goes: the packets of         pass at once until the next buffer()
                                 the last complete epoch

``buffer`` starts to hold, or starts a new epoch if the plug already holds. ``release_one`` releases the epoch before
the latest ``buffer`` and goes on holding. ``release_indefinite`` releases everything. Call ``release_one`` between two
``buffer`` calls. Otherwise the kernel loses the count of the first epoch (net/sched/sch_plug.c counts one complete
epoch, not a list): ``release_one`` then releases as many packets from the head of the queue as the latest complete
epoch had, and the rest waits for ``release_indefinite``. A release takes a moment: a ``buffer`` right after it may hold
packets that have not left yet.

The kernel does not tell whether a plug holds, nor its limit (sch_plug has no dump). ``last_action`` is what this object
sent last.

Threads: several threads may use one object; it locks. Fork: use in a child raises ForkedError. Signals: a signal
handler may use it too.
"""

from __future__ import annotations

import errno
import sys
import time

from .bounds import LIMIT_MAX
from .errors import (
    ClosedError,
    DeviceNotFound,
    ForkedError,
    HandleInUse,
    NetlinkError,
    NotDrained,
    PlugBusy,
    QdiscExists,
    QdiscNotFound,
)
from .hold import RELEASE_TRIES, Holdable, end_detached, hold_detached
from .netlink.libnl import lib
from .netlink.messages import (
    attribute,
    checked_limit,
    handle_text,
    link_message,
    parent_classid,
    plug_message,
    qdisc_message,
    without_ack,
)
from .netlink.refusals import refusal
from .netlink.route_socket import RouteSocket
from .record import Record

__all__ = ["PlugQdisc", "PlugStats"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Callable

    from .guard.holders import Holder, Place
    from .netlink.libnl import CData
    from .netlink.netns import Netns
    from .netlink.route_socket import QdiscInfo

DRAIN_TIMEOUT = 2.0  # seconds


class PlugStats(Record):
    """The kernel's counters of the plug: ``qlen`` packets and ``backlog`` bytes are in the queue now, ``drops`` packets
    found it full, ``packets`` and ``bytes`` have left it. Bytes include the link header."""

    __slots__ = ("qlen", "backlog", "drops", "packets", "bytes")
    qlen: int
    backlog: int
    drops: int
    packets: int
    bytes: int


class PlugQdisc(Holdable):
    """One plug on one device. attach() and PlugQdisc.open() make the object; do not call the class.

    Leaving ``with`` removes a plug that attach() created, after releasing and emptying it. A plug that attach() adopted
    stays; if this object left it holding, it is released. Without ``with``, the plug outlives the process.
    """

    def __init__(
        self,
        sk: RouteSocket,
        device: str,
        ifindex: int,
        parent: int,
        handle: int,
        *,
        created: bool = False,
        temporary: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self._sk = sk
        self._device = device
        self._ifindex = ifindex
        self._parent = parent
        self._handle = handle
        self._buffer = self._built(lib.rtnl_qdisc_plug_buffer)
        self._release_one = self._built(lib.rtnl_qdisc_plug_release_one)
        self._release_indefinite = self._built(lib.rtnl_qdisc_plug_release_indefinite)
        self._limit = limit
        self._last_action: str | None = "release_indefinite" if created else None
        self._created = created
        self._temporary = temporary
        self._detached = False

    @classmethod
    def open(cls, device: str, *, parent: str = "root", netns: Netns = None) -> PlugQdisc:
        """Return the plug that the device has, or raise QdiscNotFound. This creates no plug, and sends it nothing."""
        classid = parent_classid(parent)
        sk = RouteSocket(netns)
        try:
            return open_by(sk, device, classid)
        except BaseException:
            sk.close()
            raise

    @property
    def device(self) -> str:
        """The device's name when the plug was attached or opened. A renamed device is still the same one."""
        return self._device

    @property
    def handle(self) -> str:
        """The plug's handle, as '504c:'."""
        return handle_text(self._handle)

    @property
    def parent(self) -> str:
        """The plug's parent: 'root' or a classid, as '1:4'."""
        return handle_text(self._parent)

    @property
    def limit(self) -> int | None:
        """The limit in bytes if this object has set it, else None, because the kernel does not tell it."""
        return self._limit

    @property
    def last_action(self) -> str | None:
        """What this object sent last: 'buffer', 'release_one', 'release_indefinite', or None. The plug may do something
        else: another process may have toggled it, and the kernel does not tell."""
        return self._last_action

    @property
    def created(self) -> bool:
        """True if this object made the plug and removes it on leaving ``with``; False if it adopted the plug."""
        return self._created

    @property
    def temporary(self) -> bool:
        """True if 'libnlplug hold' created the plug for its own use, in this process or another. Then each ``with``
        block of attach() removes the plug at its end, unless it is held."""
        return self._temporary

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._sk.closed

    def buffer(self) -> None:
        """Hold packets from now on. If the plug already holds, begin a new epoch.

        ``tc qdisc change dev DEV handle H: plug block``. Raises QdiscNotFound if the plug is gone, DeviceNotFound if
        the device is gone, NotPermitted without CAP_NET_ADMIN. If the plug is full, the kernel drops packets and counts
        them in ``stats().drops``. Nothing releases these packets by itself; hold() does.
        """
        self._hold_on("buffer", self._buffer, "buffer on")

    def release_one(self) -> None:
        """Release the packets from before the latest buffer(), and go on holding later ones.

        ``tc qdisc change dev DEV handle H: plug release``. Raises as buffer() does.
        """
        self._hold_on("release_one", self._release_one, "release one epoch on")

    def release_indefinite(self) -> None:
        """Release everything, and hold nothing until the next buffer().

        ``tc qdisc change dev DEV handle H: plug release_indefinite``. Raises as buffer() does. The kernel only starts
        the release: right after it, stats() may still show packets.
        """
        self._change(self._release_indefinite, "release")
        self._last_action = "release_indefinite"

    def set_limit(self, limit: int) -> None:
        """Change how many bytes the plug may hold, link headers included, 1 to 2^31-1; allowed while it holds.

        ``tc qdisc change dev DEV handle H: plug limit BYTES``. Packets above a smaller limit stay; only new ones are
        refused. Raises ValueError for any other limit and for one that is smaller than a packet of the device (with 0,
        the plug would drop every packet for ever), else as buffer() does. Below the device's gso_max_size it warns.
        """
        from .netlink.devices import refuse_small_limit

        checked = checked_limit(limit)
        refuse_small_limit(self._sk, self._ifindex, self._device, checked)
        self.apply_limit(checked)

    def apply_limit(self, checked: int) -> None:
        """set_limit() with a limit that was checked."""
        message = self._built(lambda qdisc: lib.rtnl_qdisc_plug_set_limit(qdisc, checked))
        self._change(message, "set the limit of the plug on")
        self._limit = checked

    def stats(self) -> PlugStats:
        """Return the plug's counters, with one question to the kernel. This needs no right.

        ``tc -s qdisc show dev DEV``. Raises QdiscNotFound if the plug is gone or another qdisc took its place.
        """
        found = self._sk.qdisc(self._ifindex, self._parent, self._device, self._handle, b"plug")
        if found is None:
            raise self._gone("read the plug of")
        return PlugStats(found.qlen, found.backlog, found.drops, found.packets, found.bytes)

    # What a hold needs of a plug (hold.Holdable).

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that made the object."""
        return self._sk.forked

    def limit_for(self, held: int, dropped: int) -> int | None:
        """Return a limit that has room for ``held`` bytes and ``dropped`` packets of any size, or None if no limit is
        large enough or the device is gone."""
        from .netlink.devices import device_of

        try:
            limit = held + dropped * device_of(self._sk, self._ifindex).most_bytes
        except OSError:
            return None
        return limit if limit <= LIMIT_MAX else None

    def socket(self) -> RouteSocket:
        """Return the socket. Raise ClosedError if it is closed, ForkedError in a forked child."""
        self._sk.fileno()
        return self._sk

    @property
    def place(self) -> Place:
        """The place of the plug."""
        from .guard.holders import Place

        return Place(self._device, self._ifindex, self._handle, self._parent)

    def places(self) -> list[Place]:
        """Return the one place."""
        return [self.place]

    def messages(self) -> dict[int, bytes]:
        """Return what the guard sends to the plug, by guard_message (guard/protocol.h)."""
        place = self._ifindex, self._parent, self._handle
        brief = attribute(lib.IFLA_EXT_MASK, lib.RTEXT_FILTER_SKIP_STATS.to_bytes(4, sys.byteorder))
        messages = {
            lib.GUARD_SEND_BUFFER: self._buffer,
            lib.GUARD_SEND_RELEASE: self._release_indefinite,
            lib.GUARD_SEND_DROP: self._deletion(),
            lib.GUARD_ASK_COUNTERS: qdisc_message(lib.RTM_GETQDISC, lib.NLM_F_ECHO, *place, None),
            lib.GUARD_ASK_LINK: link_message(lib.RTM_GETLINK, 0, self._ifindex, brief),
        }
        return {what: without_ack(message) for what, message in messages.items()}

    def message(self, action: str) -> bytes:
        """Return the message for 'buffer', 'release_one' or 'release_indefinite'."""
        return {
            "buffer": self._buffer,
            "release_one": self._release_one,
            "release_indefinite": self._release_indefinite,
        }[action]

    def note(self, action: str | None, *, deleted: bool = False) -> None:
        """Remember what the guard or a group has sent to the plug."""
        self._last_action = action
        self._detached = self._detached or deleted

    def error_for(self, operation: str, codes: dict[int, int]) -> NetlinkError:
        """Return the error for an ``operation`` that the kernel refused. ``codes`` has the errno of this plug."""
        return self.refusal(operation, next(iter(codes.values())))

    def refusal(self, operation: str, code: int) -> NetlinkError:
        """Return the error for an errno. The kernel says EEXIST if another qdisc has taken the plug's place, and EINVAL
        if its handle is used elsewhere or by a qdisc of another kind (sch_api.c)."""
        if code in (errno.ENOENT, errno.EEXIST, errno.EINVAL):
            return self._gone(operation)
        return refusal(code, operation, self._device)

    def release_without(self, guard: int) -> None:
        """Release without the guard. Raise PlugBusy if another process than the guard of this pid holds the plug."""
        from .guard.holders import Taken

        try:
            with Taken(self.socket(), self.place, "release", guard):
                self._release_with_retries()
        except PlugBusy as error:
            if not error.pid:  # somebody has the mark who does not answer, and perhaps holds nothing
                raise
            why = f"this hold's guard has gone, and process {error.pid} holds it now: it will release"
            raise PlugBusy.by(self._device, error.pid, why, "release") from None

    def _release_with_retries(self) -> None:
        for left in reversed(range(RELEASE_TRIES)):
            try:
                return self.release_indefinite()
            except NetlinkError as failure:
                if not left or isinstance(failure, FileNotFoundError):  # the plug is gone: no retry
                    raise
                time.sleep(0.01)
        return None

    def holder(self) -> Holder | None:
        """Return the process that holds this plug by hold(), or None. It may be this process.

        None does not mean that the plug is released: a plain buffer() has no holder.
        """
        from .guard.holders import holder_of

        return holder_of(self._sk, self.place.mark)

    def hold_detached(self, timeout: float) -> None:
        """Hold for ``timeout`` seconds. The guard releases then, even if this process has ended.

        end_detached() and ``libnlplug release`` end it earlier. After release_indefinite() alone, the plug counts as
        held until the timeout. Raises the errors of entering hold().
        """
        hold_detached(self, timeout)

    def end_detached(self) -> bool:
        """End a hold that hold_detached() began, in any process: its guard releases and ends. Return whether nobody
        holds the plug now. Other holds go on."""
        return end_detached(self)

    def refuse_while_held(self, operation: str) -> None:
        """Raise PlugBusy, with the holder's pid, if the plug is held."""
        holder = self.holder()
        if holder is not None:
            from .guard.holders import busy

            raise busy(self.place, holder, operation)

    def detach(self, *, timeout: float = DRAIN_TIMEOUT) -> None:
        """Release, wait until the queue is empty, and delete the plug. The device gets its default qdisc back.

        ``tc qdisc del dev DEV PARENT handle H:`` alone would drop the held packets. If the queue is not empty after
        ``timeout`` seconds, raises NotDrained with the number of packets left; the plug stays, released. Raises
        PlugBusy (with the ``pid``) while a hold() is on, even if it began meanwhile.
        """
        from .guard.holders import Taken

        deadline = time.monotonic() + timeout
        operation = "detach the plug of"
        with Taken(self.socket(), self.place, operation):
            self.release_indefinite()
        while True:
            waiting = self.stats().qlen
            if not waiting:
                with Taken(self.socket(), self.place, operation):  # from here on no hold can begin
                    waiting = self.stats().qlen
                    if not waiting:
                        return self._delete()
            if not time.monotonic() < deadline:
                sentence = (
                    f"cannot {operation} {self._device}: {waiting} released packets have not left within "
                    f"{timeout:g} s; the plug stays, released, so that they are not lost"
                )
                raise NotDrained(None, sentence, operation, self._device)
            time.sleep(0.001)

    def _delete(self) -> None:
        self._sk.execute(self._deletion(), "detach the plug of", self._device)
        self._detached = True

    def close(self) -> None:
        """Close the socket and end the guard. Calling it again does nothing. The plug stays in the kernel as it is; a
        hold() of this object is released."""
        self.end_guard()
        self._sk.close()

    def __enter__(self) -> PlugQdisc:
        self._sk.fileno()  # a closed object cannot be entered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        holding = self._last_action in ("buffer", "release_one")
        try:
            if self.closed or self._detached or self._sk.forked:
                return
            if self._created or self._temporary:
                self.detach()
            elif holding:
                self.release_indefinite()
        except (QdiscNotFound, DeviceNotFound):
            if holding:  # the held packets went with the plug, so say it
                raise
        finally:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"last_action={self._last_action}"
        return f"<PlugQdisc {self._device} parent {self.parent} handle {self.handle} {state}>"

    def _hold_on(self, action: str, message: bytes, operation: str) -> None:
        """Send an action after which the plug holds. It is noted before it is sent, because an interrupt may come. The
        note is taken back only if the kernel certainly did not carry out the action."""
        before, self._last_action = self._last_action, action
        try:
            self._change(message, operation)
        except NetlinkError as error:
            if error.errno is not None:
                self._last_action = before
            raise
        except (ClosedError, ForkedError):
            self._last_action = before
            raise

    def _change(self, message: bytes, operation: str) -> None:
        """Send one action to the plug. The kernel answers EEXIST if another qdisc has taken its place, and EINVAL if a
        qdisc elsewhere has its handle (sch_api.c)."""
        try:
            self._sk.execute(message, operation, self._device)
        except (QdiscExists, HandleInUse):
            raise self._gone(operation) from None

    def _gone(self, operation: str) -> QdiscNotFound:
        sentence = f"cannot {operation} {self._device}: the plug {self.handle} is gone; attach one"
        return QdiscNotFound(errno.ENOENT, sentence, operation, self._device)

    def _built(self, set_action: Callable[[CData], int], flags: int = 0) -> bytes:
        return plug_message(self._ifindex, self._parent, self._handle, set_action, flags)

    def _deletion(self) -> bytes:
        return qdisc_message(lib.RTM_DELQDISC, 0, self._ifindex, self._parent, self._handle, b"plug")


def open_by(sk: RouteSocket, device: str, parent: int) -> PlugQdisc:
    """PlugQdisc.open() with an open socket."""
    ifindex = sk.ifindex_of(device)
    found = qdisc_at(sk, ifindex, parent, device)
    if found is None or found.kind != "plug":
        there = f"the {found.kind} there is no plug" if found and found.handle else "it has none"
        sentence = f"cannot open the plug of {device} at {handle_text(parent)}: {there}; attach one first"
        raise QdiscNotFound(None, sentence, "open the plug of", device)
    return PlugQdisc(sk, device, ifindex, parent, found.handle)


def qdisc_at(sk: RouteSocket, ifindex: int, parent: int, device: str) -> QdiscInfo | None:
    """Return the qdisc at ``parent``, or None if there is none, also if the parent itself does not exist."""
    try:
        return sk.qdisc(ifindex, parent, device)
    except NetlinkError as error:
        if isinstance(error, DeviceNotFound) or not isinstance(error, FileNotFoundError):
            raise
        return None
