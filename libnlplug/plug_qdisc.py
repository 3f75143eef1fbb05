# SPDX-License-Identifier: GPL-2.0-or-later
"""The drop-in port of haproxy's plug_qdisc.c: its four functions, with their names, argument order and results.

    from libnlplug.plug_qdisc import plug_qdisc_attach, plug_qdisc_plug_buffer, plug_qdisc_release_indefinite_buffer

    plug_qdisc_attach("lo", "root", "1:", 32768)     # 0: the plug is there, and released
    plug_qdisc_plug_buffer()                         # 0: packets are held from now on
    plug_qdisc_release_indefinite_buffer()           # 0: they go, and new ones pass

As in the C, one socket and one qdisc serve the whole module: the last attach says which plug the other functions mean.
What differs, because the C ends the process there or worse: where libnl-cli would call exit(), -1 is returned and
nothing is sent; before any attach the two toggles return -1; ``limit`` 0 leaves the limit to the kernel, where the C
makes a plug that drops every packet for ever (or sends an earlier attach's limit once more); one link is looked up,
not all; an id that is no handle is refused, where libnl-cli would add it to libnl's classid file. New programs are
better served by libnlplug.attach().

Threads: one call at a time. Fork: in a child every function returns -1 until qdisc_init() is called there.
"""

from __future__ import annotations

import sys

from .errors import ForkedError, NetlinkError
from .netlink.libnl import ffi, lib
from .netlink.messages import built, parse_handle, qdisc_message
from .netlink.route_socket import RouteSocket

__all__ = [
    "plug_qdisc_attach",
    "plug_qdisc_plug_buffer",
    "plug_qdisc_release_indefinite_buffer",
    "qdisc_init",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .netlink.libnl import CData

# The C's statics. A module-wide socket is wrong everywhere else in this package; here it is the interface.
_socket: RouteSocket | None = None
_qdisc: CData | None = None
_attached = False
_messages: dict[Callable[..., int], bytes] = {}  # what the toggles send, until the next attach


def qdisc_init() -> int:
    """Open the module's socket and make its qdisc object; 0, or -1 with a line on stderr.

    plug_qdisc_attach() calls it when it is first needed. Calling it again forgets the qdisc of the last attach, which
    stays in the kernel as it is.
    """
    global _socket, _qdisc, _attached
    try:
        socket = RouteSocket()
    except (NetlinkError, MemoryError) as error:
        return _refused(str(error))
    qdisc = lib.rtnl_qdisc_alloc()
    if qdisc == ffi.NULL:
        return _refused("libnl has no memory for a qdisc")
    _socket, _qdisc, _attached = socket, ffi.gc(qdisc, lib.rtnl_qdisc_put), False
    return 0


def plug_qdisc_attach(device: str, parent: str, id: str | None, limit: int) -> int:
    """Attach a plug to ``device`` under ``parent`` with the handle ``id``, released; 0, or -1 and a line on stderr.

    ``limit`` is in bytes, link headers included, 0 to 2^32-1; 0 leaves it to the kernel, whose default is the device's
    txqueuelen times its MTU with link header. ``parent`` and ``id`` are what libnl reads: 'root', '1:', '1:4', or a
    name of its classid file. With ``id`` None the kernel chooses a handle. A plug that is there takes the limit.

    The same by hand::

        tc qdisc add dev DEVICE parent PARENT handle ID plug limit LIMIT
        tc qdisc change dev DEVICE parent PARENT handle ID plug release_indefinite

        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID plug --limit LIMIT
        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID --update plug --release-indefinite

    Unlike the C, a release that fails after the attach is a failure too: the plug would go on holding.
    """
    global _attached
    if not isinstance(limit, int):
        raise TypeError(f"limit is a number of bytes, not {limit!r}")
    if not 0 <= limit < 1 << 32:
        return _refused(f"limit is {limit}: it must be 0 to {(1 << 32) - 1} bytes")
    if _socket is None and qdisc_init() < 0:
        return -1
    assert _socket is not None
    try:
        ifindex = _socket.link(device)
    except (NetlinkError, ForkedError) as error:
        return _refused(str(error))
    parent_number = parse_handle(parent)
    if parent_number is None:
        return _refused(f"parent {parent!r} is neither 'root' nor a classid such as '1:4'")
    handle = 0
    if id is not None and parent_number != 0:
        number = parse_handle(id)
        if number is None:
            return _refused(f"id {id!r} is no handle such as '1:'")
        handle = number

    tc = ffi.cast("struct rtnl_tc *", _qdisc)
    lib.rtnl_tc_set_ifindex(tc, ifindex)
    lib.rtnl_tc_set_parent(tc, parent_number)
    _attached = True
    _messages.clear()
    if parent_number == 0:
        return _refused(f"parent {parent!r} names no place for a qdisc")
    if id is not None:
        lib.rtnl_tc_set_handle(tc, handle)
    lib.rtnl_tc_set_kind(tc, b"plug")
    try:
        if limit:
            lib.rtnl_qdisc_plug_set_limit(_qdisc, _as_int(limit))
            _socket.execute(
                built(lib.rtnl_qdisc_build_add_request, _qdisc, lib.NLM_F_CREATE), "attach a plug to", device
            )
        else:
            handle = lib.rtnl_tc_get_handle(tc)
            message = qdisc_message(lib.RTM_NEWQDISC, lib.NLM_F_CREATE, ifindex, parent_number, handle, b"plug")
            _socket.execute(message, "attach a plug to", device)
        lib.rtnl_qdisc_plug_release_indefinite(_qdisc)
        _socket.execute(built(lib.rtnl_qdisc_build_add_request, _qdisc, 0), "release the plug of", device)
    except NetlinkError as error:
        return _refused(str(error))
    return 0


def plug_qdisc_plug_buffer() -> int:
    """Hold what the attached plug is given from now on; libnl's return value, or -1 before any attach.

    The same by hand::

        tc qdisc change dev DEVICE parent PARENT handle ID plug block
        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID --update plug --buffer
    """
    return _toggle(lib.rtnl_qdisc_plug_buffer)


def plug_qdisc_release_indefinite_buffer() -> int:
    """Let go what is held and hold no more; libnl's return value, or -1 before any attach.

    The kernel queues the release: a moment may pass before the last packet is out.

    The same by hand::

        tc qdisc change dev DEVICE parent PARENT handle ID plug release_indefinite
        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID --update plug --release-indefinite
    """
    return _toggle(lib.rtnl_qdisc_plug_release_indefinite)


def _toggle(set_action: Callable[[CData | None], int]) -> int:
    if _socket is None or not _attached:
        return -1
    try:
        message = _messages.get(set_action)
        if message is None:
            set_action(_qdisc)
            message = _messages[set_action] = built(lib.rtnl_qdisc_build_add_request, _qdisc, 0)
        _socket.execute(message, "toggle the plug", None)
    except ForkedError:
        return -1
    except NetlinkError as error:
        return error.code if error.code is not None else -1
    return 0


def _as_int(limit: int) -> int:
    """The C's conversion of its uint32_t to libnl's int, which libnl undoes when it writes the message."""
    return int(ffi.cast("int", limit))


def _refused(sentence: str) -> int:
    """-1, and the sentence on stderr; as in the C, a stderr that cannot be written to changes nothing."""
    try:
        if sys.stderr is not None:
            print(f"plug_qdisc: {sentence}", file=sys.stderr)
    except (OSError, ValueError):
        pass
    return -1
