# SPDX-License-Identifier: GPL-2.0-or-later
"""The drop-in port of haproxy's plug_qdisc.c: its four functions, with their names, argument order and results.

    plug_qdisc_attach("lo", "root", "1:", 32768)     # 0: the plug is there, and released
    plug_qdisc_plug_buffer()                         # 0: packets are held from now on
    plug_qdisc_release_indefinite_buffer()           # 0: they go, and new ones pass

As in the C, one socket and one qdisc serve the whole module: the last attach says which plug the other functions mean.
Each function makes the libnl calls that the C makes, in the same order with the same arguments. The differences:

- They return -1 and send nothing where libnl-cli would end the process, and before the first attach.
- ``limit`` 0 leaves the limit to the kernel. The C makes a plug that drops every packet for ever.
- A release that fails after the attach is a failure. The C ignores it, and the plug goes on holding.
- If the kernel's answer to the attach is lost, the plug is released and the attach fails. The C leaves it holding.
- An unknown id is refused; libnl-cli would add it to libnl's classid file. One link is looked up; the C lists all.

A wrong type raises TypeError. Threads: requests take turns. Fork: a child calls qdisc_init() first, or all return -1.
"""

from __future__ import annotations

import contextlib
import os
import sys
from _thread import RLock

from .netlink.libnl import ffi, lib

__all__ = ["plug_qdisc_attach", "plug_qdisc_plug_buffer", "plug_qdisc_release_indefinite_buffer", "qdisc_init"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .netlink.libnl import CData

    Statics = tuple[CData, CData]

_statics: Statics | None = None  # the C's nl_sock and qdisc; never changed, only replaced
_beginning = RLock()  # only one thread opens the first socket
_forked = False  # True in a forked child, whose _statics belong to the parent


def qdisc_init() -> int:
    """Open the module's socket and make its qdisc object; 0, or -1 with a line on stderr.

    plug_qdisc_attach() calls it when it is first needed. Called again, it forgets the last attach, whose plug stays.
    """
    global _statics, _forked
    nl_sock = ffi.gc(lib.nl_socket_alloc(), lib.nl_socket_free)
    qdisc = ffi.gc(lib.rtnl_qdisc_alloc(), lib.rtnl_qdisc_put)
    if not nl_sock or not qdisc:
        return _failed("cannot start: libnl has no memory")
    if (error := lib.nl_connect(nl_sock, lib.NETLINK_ROUTE)) < 0:
        return _failed("cannot open a netlink socket", error)
    lib.nl_socket_disable_msg_peek(nl_sock)  # one receive for an answer; libnl would make two, the first to size it
    lib.nl_socket_set_nonblocking(nl_sock)  # the kernel answers before the send returns
    lib.libnlplug_match_answers(nl_sock)
    _statics, _forked = (nl_sock, qdisc), False
    return 0


def plug_qdisc_release_indefinite_buffer() -> int:
    """Release what the attached plug holds, and hold no more. Return libnl's value, or -1 before any attach.

    The kernel queues the release: a moment may pass before the last packet is out. By hand::

        tc qdisc change dev DEVICE parent PARENT handle ID plug release_indefinite
        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID --update plug --release-indefinite
    """
    return _in_turn(_statics, lib.rtnl_qdisc_plug_release_indefinite, lib.rtnl_qdisc_add, 0)


def plug_qdisc_plug_buffer() -> int:
    """Hold what the attached plug gets from now on. Return libnl's value, or -1 before any attach. By hand::

        tc qdisc change dev DEVICE parent PARENT handle ID plug block
        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID --update plug --buffer

    Packets that do not fit into the limit are dropped.
    """
    return _in_turn(_statics, lib.rtnl_qdisc_plug_buffer, lib.rtnl_qdisc_add, 0)


def plug_qdisc_attach(device: str, parent: str, id: str | None, limit: int) -> int:
    """Attach a plug to ``device`` under ``parent`` with the handle ``id``, released; 0, or -1 and a line on stderr.

    ``limit`` is in bytes, link headers included, 0 to 2^32-1; 0 leaves it to the kernel. ``parent`` and ``id`` are what
    libnl reads: 'root', '1:', '1:4', or a name of its classid file. With ``id`` None, the plug gets the handle of the
    last attach; the first time, the kernel chooses one. An existing plug gets the new limit, released. By hand::

        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID plug --limit LIMIT
        nl-qdisc-add --dev=DEVICE --parent=PARENT --id=ID --update plug --release-indefinite
    """
    global _statics
    if type(limit) is not int:  # a bool is none
        raise TypeError(f"limit must be an int, not {limit!r}")
    if not 0 <= limit < 1 << 32:
        return _failed(f"limit is {limit}: it must be a number of bytes, 0 to {(1 << 32) - 1}")
    with _beginning:
        if _statics is None and qdisc_init() == -1:
            return -1
    if _forked or _statics is None:
        return _failed("the socket belongs to the parent process: call qdisc_init() in the child")
    nl_sock, shared = _statics
    copy = lib.nl_object_clone(ffi.cast("struct nl_object *", shared))  # other threads toggle the last attach's plug
    if not copy:
        raise MemoryError("libnl has no memory for a qdisc")
    qdisc = ffi.gc(ffi.cast("struct rtnl_qdisc *", copy), lib.rtnl_qdisc_put)
    tc, number = ffi.cast("struct rtnl_tc *", qdisc), ffi.new("uint32_t *")
    if (ifindex := lib.libnlplug_ifindex(nl_sock, _encoded(device))) < 0:
        return _failed(f"cannot find device {device!r}: {os.strerror(-ifindex)}: 'ip link' lists the devices")
    lib.rtnl_tc_set_ifindex(tc, ifindex)
    if lib.rtnl_tc_str2handle(_encoded(parent), number) < 0:
        return _failed(f"parent {parent!r} is neither 'root' nor a classid such as '1:4'")
    lib.rtnl_tc_set_parent(tc, number[0])
    if not number[0]:
        _statics = nl_sock, qdisc
        return _failed(f"parent {parent!r} names no place for a qdisc: use 'root' or a classid such as '1:4'")
    if id is not None:
        if lib.rtnl_tc_str2handle(_encoded(id), number) < 0:
            return _failed(f"id {id!r} is no handle such as '1:'")
        lib.rtnl_tc_set_handle(tc, number[0])
    lib.rtnl_tc_set_kind(tc, b"plug")
    if limit:
        lib.rtnl_qdisc_plug_set_limit(qdisc, ffi.cast("int", limit))
    add = lib.rtnl_qdisc_add if limit else lib.libnlplug_add_without_options

    _statics = ours = nl_sock, qdisc
    said = ffi.new("char[200]")  # the kernel's sentence, or that its answer was lost
    try:
        error = _in_turn(ours, ffi.NULL, add, lib.NLM_F_CREATE, said)
        if error < 0 and ffi.string(said) == ffi.string(lib.libnlplug_lost):  # there may be a new plug, which holds
            _in_turn(ours, lib.rtnl_qdisc_plug_release_indefinite, lib.rtnl_qdisc_add, 0)
        if error < 0:
            return _failed(f"cannot attach a plug to {device}", error, said)
        error = _in_turn(ours, lib.rtnl_qdisc_plug_release_indefinite, lib.rtnl_qdisc_add, 0, said)
    except BaseException:  # an interrupt: a new plug holds until it is released
        _in_turn(ours, lib.rtnl_qdisc_plug_release_indefinite, lib.rtnl_qdisc_add, 0)
        raise
    if error < 0:
        return _failed(f"cannot release the plug of {device}, which may still hold: release it again", error, said)
    return 0


def _in_turn(statics: Statics | None, set_action: object, add: object, flags: int, said: CData = ffi.NULL) -> int:
    """Call ``set_action(qdisc)`` and ``add(nl_sock, qdisc, flags)`` under the lock. Return what add() returns."""
    if statics is None or _forked:
        return -1
    return lib.libnlplug_in_turn(set_action, add, *statics, flags, said)


def _leave_to_the_parent() -> None:
    global _forked, _beginning
    _forked, _beginning = _statics is not None, RLock()
    lib.libnlplug_new_turn()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def _encoded(text: str) -> bytes:
    """Return the text as bytes, or b"", which names nothing, if it has a NUL or a surrogate."""
    if not isinstance(text, str):
        raise TypeError(f"device, parent and id must be str, not {text!r}")
    try:
        return b"" if "\0" in text else os.fsencode(text)
    except UnicodeEncodeError:
        return b""


def _failed(sentence: str, error: int = 0, said: CData = ffi.NULL) -> int:
    """Return -1 after a line on stderr: what failed, why, what to do. Errors of stderr are ignored, as in the C."""
    if error:
        why = (said and ffi.string(said) or ffi.string(lib.nl_geterror(error))).decode(errors="replace")
        sentence += f": {why}: 'tc qdisc show' lists the qdiscs, 'libnlplug doctor' says what is missing"
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(f"plug_qdisc: {sentence}", file=sys.stderr)
    return -1
