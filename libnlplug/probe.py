# SPDX-License-Identifier: GPL-2.0-or-later
"""Probe: what this kernel and this process can do, found out by doing it.

    a child  -->  a network namespace of its own  -->  lo up
                    --> a plug, a packet held, a guard that releases it when told and when the holder is killed
                    --> an ifb, a clsact qdisc, a u32 filter, a mirred action: what a lane is made of

All of it goes with the child. Where no network namespace can be made, the kernel is asked by a request that it must
refuse, and what cannot be found out that way is a warning that says so.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
from _socket import AF_INET, SOCK_DGRAM, htons
from _socket import socket as Socket
from functools import partial

from ._libnl import ffi, lib
from ._record import Record
from .attributes import attribute
from .child import ANSWER, PATIENCE, in_child, trial
from .errors import DeviceNotFound, NetlinkError, NotPermitted, QdiscExists, check
from .qdisc import PlugQdisc, attach
from .route import RouteSocket, qdisc_message

__all__ = []

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._libnl import CData

# What the kernel calls each module, and its build option.
_MODULES = {
    "sch_plug": ("plug qdisc", "NET_SCH_PLUG"),
    "ifb": ("ifb device", "IFB"),
    "sch_ingress": ("clsact qdisc", "NET_SCH_INGRESS"),
    "cls_u32": ("u32 filter", "NET_CLS_U32"),
    "act_mirred": ("mirred action", "NET_ACT_MIRRED"),
}
_LANE = ("ifb", "sch_ingress", "cls_u32", "act_mirred")
_NEEDED = ("libnl", "functions", "kernel", "CAP_NET_ADMIN", "sch_plug", "guard")
NAMES = (*_NEEDED, "netns", "oom", "cgroup", "pid-namespace", "orphans", *_LANE)

CREATE

class Check(Record):
    """One answer.

    ``name`` is what was looked at, one of NAMES. ``state`` is 'ok'; 'warning', where there is a limit to know of, or
    where it could not be tried; or 'failed'. ``detail`` says what was found, ``advice`` what to do, None where nothing
    need be done. ``needed`` tells whether holding on a device depends on it.
    """

    __slots__ = ("name", "state", "detail", "advice", "needed")
    name: str
    state: str
    detail: str
    advice: str | None
    needed: bool


def _check(name: str, state: str, detail: str, advice: str | None = None) -> Check:
    return Check(name, state, detail, advice, name in _NEEDED)


def _unknown(name: str, why: str) -> Check:
    """Nothing was found out. Where holding depends on it that is a failure."""
    state = "failed" if name in _NEEDED else "warning"
    return _check(name, state, f"not known: {why}", "try it by hand in a network namespace: ip netns add trial")


def _ask_permission() -> None:
    """Raise where this process may not change qdiscs: the kernel asks for the right before it looks for the device."""
    try:
        _send(qdisc_message(lib.RTM_NEWQDISC, 0, _NO_DEVICE, lib.TC_H_ROOT, 0, None))
    except DeviceNotFound:
        pass
    except NotPermitted:
        raise PermissionError(errno.EPERM, "the kernel lets this process change no qdisc") from None


def _private_namespace() -> tuple[int, str]:
    """The flags that make a network namespace here, if need be in a user namespace, 0 where none do; and why not."""
    first = ""
    for flags in (lib.CLONE_NEWNET, lib.CLONE_NEWNET | lib.CLONE_NEWUSER):
        trouble = _trial(partial(_enter_new, flags))
        if not trouble:
            return flags, ""
        first = first or trouble
    return 0, first


def _enter_new(flags: int) -> None:
    if lib.unshare(flags) < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    _ask_permission()  # a user namespace may be had without any right inside (AppArmor's restriction)


def _lines(flags: int, refusal: str, out: int) -> Iterator[str]:
    for one in _probe(flags, refusal, out):
        yield json.dumps(list(one.as_dict().values()))


def _probe(flags: int, refusal: str, out: int) -> Iterator[Check]:
    if not flags:
        yield from _probe_without_namespace(refusal)
        return
    ifb_is_safe = _ifb_is_safe()
    _enter_new(flags)
    route = RouteSocket()
    lo = route.link("lo")
    _send(_message(lib.RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, lo, lib.IFF_UP, lib.IFF_UP)))
    try:
        plug = attach("lo")
    except NetlinkError as error:
        yield _missing("sch_plug", error)
        yield from _guard_alone(route, lo, "there is no plug to try it on")
    else:
        yield _check("sch_plug", "ok", "a plug qdisc can be made")
        yield from _guard(plug, out)
    yield from _lane_parts(lo, ifb_is_safe)


def _probe_without_namespace(refusal: str) -> Iterator[Check]:
    """Ask the kernel by a request that it must refuse: it looks for the kind before it reads the options."""
    why = f"no private network namespace can be made to try it in ({refusal})"
    route = RouteSocket()
    lo = route.link("lo")
    msg = qdisc_message(lib.RTM_NEWQDISC, _CREATE, lo, lib.TC_H_ROOT, 1 << 16, b"plug")
    check(lib.nla_put_string(msg, lib.TCA_OPTIONS, b""), "build a request")  # one byte: too short to be a plug's
    try:
        _send(msg)
        yield _unknown("sch_plug", "the kernel took what it should have refused")
    except NetlinkError as error:
        if error.errno == errno.EINVAL:
            yield _check("sch_plug", "ok", "the kernel knows the plug qdisc")
        elif isinstance(error, (NotPermitted, QdiscExists)):
            yield _check("sch_plug", "warning", f"not known: {why}", "run this as root")
        else:
            yield _missing("sch_plug", error)
    yield from _guard_alone(route, lo, why)
    for name in _LANE:
        yield _check(name, "warning", f"not known: {why}", "run this as root, a lane needs it")


def _guard(plug: PlugQdisc, out: int) -> Iterator[Check]:
    """A real guard holds a packet on lo: once until it is told to release, once until its holder is killed."""
    try:
        packets = Socket(AF_INET, SOCK_DGRAM)
        packets.bind(("127.0.0.1", 0))
        packets.connect(packets.getsockname())
        packets.settimeout(ANSWER)
        with plug.hold(timeout=PATIENCE) as held:
            packets.send(b"1")
        packets.recv(1)
        pid = plug._guard.pid if plug._guard else 0
        exempt = _oom(pid)
        _killed_holder(packets, out)
        packets.recv(1)
    except TimeoutError:
        yield _check("guard", "failed", "the guard did not release what it should have", "do not hold on this host")
        return
    except NetlinkError as error:
        yield _check("guard", "failed", str(error))
        return
    finally:
        plug.close()
    if not held.packets:
        yield _check("guard", "failed", "the plug let a packet pass that it should have held")
        return
    yield _check("guard", "ok", "held a packet, released it when told to, and another when its holder was killed")
    yield exempt


def _killed_holder(packets: Socket, out: int) -> None:
    """Kill a process that holds lo, with a packet of ``packets`` held."""
    ready, tell = os.pipe()
    wait, parent = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for fd in (out, ready, parent):
                os.close(fd)
            with PlugQdisc.open("lo").hold():
                packets.send(b"2")
                os.write(tell, b"!")
                os.read(wait, 1)  # nothing comes: it waits to be killed, and ends where its parent does
        finally:
            os._exit(0)
    for fd in (tell, wait):
        os.close(fd)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(parent)


def _guard_alone(route: RouteSocket, lo: int, why: str) -> Iterator[Check]:
    """Start a guard and end it, holding nothing."""
    from .hold import start_guard

    plug = PlugQdisc(route, "lo", lo, lib.TC_H_ROOT, 1 << 16)
    try:
        guard = start_guard(plug)
    except NetlinkError as error:
        yield _check("guard", "failed", str(error))
        return
    exempt = _oom(guard.pid)
    guard.end()
    yield _check("guard", "ok", f"starts and ends; that it releases was not tried, since {why}")
    yield exempt


def _oom(pid: int) -> Check:
    """Whether the OOM killer spares the guard: by its score it is exempt, also from the killing of its whole cgroup."""
    score = (_text(f"/proc/{pid}/oom_score_adj") or "").strip()
    if not score:
        return _unknown("oom", "the guard's oom_score_adj cannot be read")
    if score == "-1000":
        return _check("oom", "ok", "the OOM killer spares the guard (oom_score_adj -1000)")
    detail = f"the OOM killer may choose the guard (oom_score_adj {score})"
    for path in _memory_cgroups():
        if (_text(f"{path}/memory.oom.group") or "0").strip() != "0":
            detail = f"the OOM killer kills the guard with its holder (memory.oom.group is set in {path})"
            break
    return _check("oom", "warning", detail, "with CAP_SYS_RESOURCE the guard exempts itself")


def _memory_cgroups() -> list[str]:
    """The directories of this process's cgroup and those above it, in the unified hierarchy."""
    path, found = (_cgroup_path() or "/").strip("/"), []
    while path:
        found.append(f"/sys/fs/cgroup/{path}")
        path = path.rpartition("/")[0]
    return [*found, "/sys/fs/cgroup"]


def _lane_parts(lo: int, ifb_is_safe: bool) -> Iterator[Check]:
    """Make what a lane is made of: an ifb, a clsact qdisc, a u32 filter at its hook, a filter with a mirred action."""
    if ifb_is_safe:
        linkinfo = attribute(lib.IFLA_LINKINFO, attribute(lib.IFLA_INFO_KIND, b"ifb\0"))
        yield _made("ifb", _message(lib.RTM_NEWLINK, _CREATE, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + linkinfo))
    else:
        detail = "not known: its module is not loaded, and loading it from here would make the links ifb0 and ifb1"
        yield _check("ifb", "warning", detail, "a lane needs it: as root on the host, modprobe ifb numifbs=0")
    major = lib.TC_H_CLSACT & 0xFFFF_0000
    clsact = _made("sch_ingress", qdisc_message(lib.RTM_NEWQDISC, _CREATE, lo, lib.TC_H_CLSACT, major, b"clsact"))
    yield clsact
    if clsact.state != "ok":
        for name in ("cls_u32", "act_mirred"):
            yield _check(name, "warning", "not known: without sch_ingress it could not be tried", "see sch_ingress")
        return
    filter_of = struct.pack("=BxHiIII", 0, 0, lo, 0, major | lib.TC_H_MIN_EGRESS, htons(lib.ETH_P_IP))
    filter_of += attribute(lib.TCA_KIND, b"u32\0")
    u32 = _made("cls_u32", _message(lib.RTM_NEWTFILTER, _CREATE, filter_of))
    yield u32
    if u32.state != "ok":
        yield _check("act_mirred", "warning", "not known: without cls_u32 it could not be tried", "see cls_u32")
        return
    redirect = struct.pack("=IIiiiiI", 0, 0, lib.TC_ACT_STOLEN, 0, 0, lib.TCA_EGRESS_REDIR, lo)  # struct tc_mirred
    parameters = attribute(lib.TCA_ACT_OPTIONS, attribute(lib.TCA_MIRRED_PARMS, redirect))
    action = attribute(1, attribute(lib.TCA_ACT_KIND, b"mirred\0") + parameters)
    all_packets = attribute(lib.TCA_U32_SEL, bytes(16))  # struct tc_u32_sel without keys
    options = attribute(lib.TCA_OPTIONS, all_packets + attribute(lib.TCA_U32_ACT, action))
    yield _made("act_mirred", _message(lib.RTM_NEWTFILTER, _CREATE, filter_of + options))


def _made(name: str, msg: CData) -> Check:
    """Whether the kernel makes it."""
    try:
        _send(msg)
    except NetlinkError as error:
        return _missing(name, error)
    return _check(name, "ok", f"the kernel has the {_MODULES[name][0]}, which lanes need")


def _missing(name: str, error: NetlinkError) -> Check:
    """The kernel's refusal: it has no such kind (ENOENT, EOPNOTSUPP), or there is another reason."""
    if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
        return _check(name, "failed", str(error))
    kind, option = _MODULES[name]
    words = error.ext_ack or os.strerror(error.errno)
    release = os.uname().release
    use = "" if name in _NEEDED else ", which lanes need"
    detail = f"the kernel has no {kind}{use}, and can load none ({words.rstrip('.')})"
    advice = f"as root on the host: modprobe {name}; if there is no such module, install what has it: Debian's"
    advice += f" linux-image-amd64, Ubuntu's linux-modules-extra-{release}, Fedora's kernel-modules-core"
    advice += f", or a kernel built with CONFIG_{option}"
    if name == "sch_plug":
        advice += " (that of RHEL 9 is not)"
    return _check(name, "failed", detail, advice)


def _send(msg: CData) -> None:
    route = RouteSocket()
    try:
        route.send_one(msg, "ask the kernel", None)
    finally:
        route.close()


def _message(kind: int, flags: int, body: bytes) -> CData:
    msg = lib.nlmsg_alloc_simple(kind, flags)
    if msg == ffi.NULL:
        raise MemoryError("libnl has no memory for a message")
    msg = ffi.gc(msg, lib.nlmsg_free)
    check(lib.nlmsg_append(msg, ffi.new("char[]", body), len(body), lib.NLMSG_ALIGNTO), "build a request")
    return msg


def _ifb_is_safe() -> bool:
    """Whether an ifb can be made without loading its module as the kernel would, with the links ifb0 and ifb1.

    It is where the module is there already, where it can be loaded without links, and where the kernel can load none:
    it has no program for that, or its program, which sees what we see, has just failed.
    """
    if any(map(os.path.isdir, ("/sys/module/ifb", "/sys/class/net/ifb0"))):
        return True
    program = _text("/proc/sys/kernel/modprobe")
    if program is None or not program.strip():
        return program is not None
    try:
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        argv = [program.strip(), "-q", "ifb", "numifbs=0"]
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=nothing)
        if os.waitpid(pid, 0)[1] == 0:
            return True
        alike = os.path.samestat(os.stat("/proc/1/root"), os.stat("/"))
    except OSError:
        return False
    return alike and os.geteuid() == 0 and _in_own_namespace("pid") is False
def _in_own_namespace(kind: str) -> bool | None:
    """Whether this process is in another namespace than the system's first; None where that cannot be known."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino != _FIRST_NAMESPACE[kind]
    except OSError:
        return None


def _text(path: str) -> str | None:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return None


