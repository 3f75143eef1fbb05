# SPDX-License-Identifier: GPL-2.0-or-later
"""attach(): create the plug of a device, or adopt the plug that it has.

    no plug:  create, release_indefinite     one send, while this process has the plug's mark
    a plug:   its limit, if one is given     nothing else is sent to it

The first call loads the rest of the package, so that a program that imports attach() starts fast.
"""

from __future__ import annotations

import errno

from .bounds import LIMIT_MAX
from .errors import HandleInUse, InvalidHandle, PlugBusy, QdiscExists
from .netlink.libnl import lib
from .netlink.messages import (
    ETHERNET_HEADER,
    checked_handle,
    checked_limit,
    handle_text,
    joined,
    parent_classid,
    plug_message,
    qdisc_message,
)

__all__ = ["attach"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .netlink.netns import Netns
    from .netlink.route_socket import LinkInfo, QdiscInfo, RouteSocket
    from .plug import PlugQdisc

DEFAULT_TXQUEUELEN = 1000  # the kernel's own (DEFAULT_TX_QUEUE_LEN)

_ROOT_HANDLE = 0x504C_0000  # "PL"
_CLASS_HANDLES = 0x5000_0000
_TEMPORARY = 0x2000_0000  # added to the handle of a temporary plug, which the last process that uses it removes
_OPERATION = "attach a plug to"


def attach(
    device: str, *, parent: str = "root", handle: str | None = None, limit: int | None = None, netns: Netns = None
) -> PlugQdisc:
    """Return the plug of ``device`` at ``parent``: the one that it has, or a new one, released.

    ``tc qdisc add dev DEV root handle 504c: plug limit BYTES`` and ``... plug release_indefinite``, in one send.

    ``parent`` is 'root' or the class of a classful qdisc, as '1:4'. ``handle`` is a handle, as '40:'; the default is
    504c: at the root, and 5000: plus the last three hex digits of the class's minor number at a class. 704c: at the
    root, and 7000: plus these digits at a class, are reserved for the plugs that ``libnlplug hold`` creates for itself.
    ``limit`` is in bytes, link headers included, 1 to 2^31-1. None is the kernel's default: the device's txqueuelen
    times its MTU with link header. If the txqueuelen is 0, that would drop every packet, so 1000 is used instead.
    ``netns`` is the network namespace: a name of ``ip netns``, a path, a pid (int) or an object with a fileno(); None
    is the caller's.

    The kernel may lose packets that leave while a qdisc is created or removed at the root. Keep the plug to avoid that.

    If the device has a plug there, it is adopted: only a given ``limit`` is sent to it. Raises QdiscExists if its
    handle differs from a given ``handle``, or if a configured qdisc of another kind is there; that is never replaced.

    Raises ValueError (InvalidHandle for a handle) for an invalid parent, handle or limit, and for a limit smaller than
    a packet of the device, because the plug would drop such packets for ever. Warns about a limit below the device's
    gso_max_size, usually 65536: the kernel may hand the device that many bytes at once. Raises DeviceNotFound,
    ParentNotFound, ClassNotFound, ParentNotClassful, HandleInUse, PlugUnavailable if the kernel has no sch_plug,
    NotPermitted without CAP_NET_ADMIN, and NetlinkError for a class of hfsc, drr, qfq, ets, mq, mqprio, taprio, multiq,
    tbf, red or sfb, where a plug would stop other classes or leave the class without a queue.
    """
    return _attach(device, parent, handle, limit, netns)


def attach_temporary(device: str, *, parent: str = "root", limit: int | None = None, netns: Netns = None) -> PlugQdisc:
    """attach(), but a plug that it creates is temporary: its handle marks it for removal by the last process that uses
    it. So several processes may use one such plug at once, in any order. The handle is 704c: at the root, and 7000:
    plus the last three hex digits of the class's minor number at a class.
    """
    return _attach(device, parent, None, limit, netns, temporary=True)


def _attach(
    device: str, parent: str, handle: str | None, limit: int | None, netns: Netns, *, temporary: bool = False
) -> PlugQdisc:
    """Check the arguments, and attach."""
    classid = parent_classid(parent)
    major = None if handle is None else checked_handle(handle)
    if major == _default_handle(classid) | _TEMPORARY:
        why = "that is the handle of a plug which 'libnlplug hold' creates and removes: choose another one"
        raise InvalidHandle(None, f"handle is {handle!r}: {why}", "read the handle")
    checked = None if limit is None else checked_limit(limit)
    from .netlink.route_socket import RouteSocket

    sk = RouteSocket(netns)
    try:
        if checked is not None:
            from .netlink.devices import refuse_small_limit

            refuse_small_limit(sk, sk.ifindex_of(device), device, checked, stacklevel=4)
        return attach_by(sk, device, classid, major, checked, temporary=temporary)
    except BaseException:
        sk.close()
        raise


def attach_by(
    sk: RouteSocket, device: str, parent: int, handle: int | None, limit: int | None, *, temporary: bool = False
) -> PlugQdisc:
    """attach() with an open socket and checked arguments."""
    from .plug import PlugQdisc, qdisc_at

    link = sk.link_info(device)
    found = qdisc_at(sk, link.ifindex, parent, device)
    if _is_free(found):
        wanted = handle or _default_handle(parent) | (_TEMPORARY if temporary else 0)
        if parent != lib.TC_H_ROOT:
            from .netlink.parents import refuse_parent

            _refuse_elsewhere(sk, link.ifindex, wanted, device)
            refuse_parent(sk, link.ifindex, device, parent)
        new = _own_default(link) if limit is None and link.txqueuelen == 0 else limit
        plug = PlugQdisc(sk, device, link.ifindex, parent, wanted, created=True, temporary=temporary, limit=new)
        from .guard.holders import Taken

        try:
            with Taken(sk, plug.place, _OPERATION):
                found = qdisc_at(sk, link.ifindex, parent, device)
                if _is_free(found):
                    _create(sk, plug)
                    return plug
        except (PlugBusy, QdiscExists):  # another process has created a plug, and perhaps holds it
            found = qdisc_at(sk, link.ifindex, parent, device)
            if found is None or found.kind != "plug":
                raise
    assert found is not None
    return _adopt(sk, device, found, handle, limit)


def _is_free(found: QdiscInfo | None) -> bool:
    """Return whether no qdisc, or only the kernel's default one, is there."""
    return found is None or found.handle == 0


def _create(sk: RouteSocket, plug: PlugQdisc) -> None:
    """Create the plug and release it in one send. A new plug holds until it is released; in one send, no kill or
    interrupt can come between.

    With CREATE, EXCL and an explicit handle, the kernel refuses to replace a configured qdisc. It runs the release even
    after a refused creation. That ends nobody's hold, because this process has the plug's mark. Without a limit
    TCA_OPTIONS is left out, so that the kernel uses its default.
    """
    where = plug.place.ifindex, plug.place.parent, plug.place.handle
    flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL
    limit = plug.limit
    if limit is None:
        creation = qdisc_message(lib.RTM_NEWQDISC, flags, *where, b"plug")
    else:
        creation = plug_message(*where, lambda qdisc: lib.rtnl_qdisc_plug_set_limit(qdisc, limit), flags)
    requests = [creation, plug.message("release_indefinite")]
    failures = sk.execute_all(joined(requests), [plug.device] * len(requests), _OPERATION)
    if 0 in failures:
        raise failures[0]
    if 1 in failures:
        deletion = qdisc_message(lib.RTM_DELQDISC, 0, *where, b"plug")
        sk.execute(deletion, "detach the plug of", plug.device)
        failed = failures[1]
        if failed.errno is None:
            raise failed
        from .netlink.refusals import refusal

        raise refusal(failed.errno, "release the new plug of", plug.device, failed.ext_ack)


def _own_default(link: LinkInfo) -> int:
    """Return the kernel's default limit for the usual txqueuelen, for a link where it would be 0."""
    return min(DEFAULT_TXQUEUELEN * (link.mtu + ETHERNET_HEADER), LIMIT_MAX)


def _refuse_elsewhere(sk: RouteSocket, ifindex: int, handle: int, device: str) -> None:
    """Raise HandleInUse if a qdisc has this handle. Linux 5.10 would attach the same qdisc at a second parent."""
    try:
        there = sk.qdisc(ifindex, lib.TC_H_UNSPEC, device, handle)
    except FileNotFoundError:
        return
    if there is not None:
        hint = "choose another handle (handle=, --handle)"
        sentence = f"cannot {_OPERATION} {device}: {there.kind} {handle_text(handle)} has a different parent; {hint}"
        raise HandleInUse(errno.EINVAL, sentence, _OPERATION, device, hint=hint)


def _adopt(sk: RouteSocket, device: str, found: QdiscInfo, handle: int | None, limit: int | None) -> PlugQdisc:
    there = f"{found.kind} {handle_text(found.handle)}"
    if found.kind != "plug":
        hint = "delete it first, or hold at a class of it"
        sentence = f"cannot {_OPERATION} {device}: {there} is there and is not replaced; {hint}"
        raise QdiscExists(None, sentence, _OPERATION, device, hint=hint)
    if handle not in (None, found.handle):
        hint = f"leave the handle out, or give {handle_text(found.handle)}"
        sentence = f"cannot {_OPERATION} {device} as {handle_text(handle or 0)}: {there} is there; {hint}"
        raise QdiscExists(None, sentence, _OPERATION, device, hint=hint)
    temporary = found.handle == _default_handle(found.parent) | _TEMPORARY
    from .plug import PlugQdisc

    plug = PlugQdisc(sk, device, found.ifindex, found.parent, found.handle, temporary=temporary)
    if limit is not None:
        plug.apply_limit(limit)
    return plug


def _default_handle(parent: int) -> int:
    if parent == lib.TC_H_ROOT:
        return _ROOT_HANDLE
    return _CLASS_HANDLES | (parent & 0xFFF) << 16
