# SPDX-License-Identifier: GPL-2.0-or-later
"""Probe: try what this kernel lets this process do.

    a child  -->  a network namespace of its own, lo up  -->  a plug: hold a packet, let a guard release it
                                                         -->  an ifb, clsact, a flower filter, mirred: a lane's parts

Everything goes with the child. If no network namespace can be made, the probe sends a request that the kernel must
refuse and reads the refusal. A check that this cannot decide becomes a warning.
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

from ..attaching import attach
from ..errors import DeviceNotFound, NetlinkError, NotPermitted, QdiscExists
from ..netlink.libnl import ffi, lib
from ..netlink.messages import attribute, message, qdisc_message
from ..netlink.modules import load_ifb
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc
from .check import LANE, NEEDED, Check, in_own_namespace, result, text_of, unknown
from .child import AT_ONCE, PATIENCE, in_child, trial

__all__ = ["ask_permission", "libnl", "memory", "netns", "probe", "right"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


# What each module provides, and its build option.
_MODULES = {
    "sch_plug": ("plug qdisc", "NET_SCH_PLUG"),
    "ifb": ("ifb device", "IFB"),
    "sch_ingress": ("clsact qdisc", "NET_SCH_INGRESS"),
    "cls_flower": ("flower filter", "NET_CLS_FLOWER"),
    "act_mirred": ("mirred action", "NET_ACT_MIRRED"),
}
_NO_DEVICE = (1 << 31) - 1
_CREATE = lib.NLM_F_CREATE | lib.NLM_F_EXCL


def probe() -> tuple[list[Check], bool]:
    """Return the checks of sch_plug, guard, oom and a lane's parts, and whether a network namespace can be made."""
    flags, refusal = _private_namespace()

    def work(out: int) -> Iterator[str]:
        checks = _probe_inside(flags, out) if flags else _probe_outside(refusal)
        return (json.dumps(list(one.as_dict().values())) for one in checks)

    lines, trouble = in_child(work)
    found = [Check(*json.loads(line)) for line in lines]
    missing = {"sch_plug", "guard", "oom", *LANE} - {one.name for one in found}
    why = f"the attempt {trouble}" if trouble else "a check before it has failed"
    advice = "run this as root, outside of what restricts it" if trouble else "see the failed checks"
    return found + [unknown(name, why, advice) for name in missing], bool(flags)


def ask_permission() -> None:
    """Raise if this process may not change qdiscs: the kernel checks the right before it looks for the device."""
    try:
        _send(qdisc_message(lib.RTM_NEWQDISC, 0, _NO_DEVICE, lib.TC_H_ROOT, 0, None))
    except DeviceNotFound:
        pass
    except NotPermitted:
        raise PermissionError(errno.EPERM, "the kernel lets this process change no qdisc") from None
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise OSError(error.errno, "the kernel has no qdiscs at all (CONFIG_NET_SCHED)") from None
        raise


def _private_namespace() -> tuple[int, str]:
    """Return the flags that make a network namespace here, perhaps in a user namespace; or 0, and why that fails."""
    first = ""
    for flags in (lib.CLONE_NEWNET, lib.CLONE_NEWNET | lib.CLONE_NEWUSER):
        trouble = trial(partial(_enter_new, flags))
        if not trouble:
            return flags, ""
        first = first or trouble
    return 0, first


def _enter_new(flags: int) -> None:
    if lib.unshare(flags) < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    ask_permission()  # AppArmor may allow a user namespace and give no right inside it


def _probe_inside(flags: int, out: int) -> Iterator[Check]:
    ifb_is_safe = _ifb_is_safe()
    _enter_new(flags)
    sk = RouteSocket()
    lo = sk.ifindex_of("lo")
    _send(message(lib.RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, lo, lib.IFF_UP, lib.IFF_UP)))
    try:
        plug = attach("lo")
    except NetlinkError as error:
        yield _missing("sch_plug", error)
        yield from _guard_alone(sk, lo, "there is no plug to try it on")
    else:
        yield result("sch_plug", "ok", "a plug qdisc can be made")
        yield from _guard(plug, out)
    yield _ifb(ifb_is_safe)
    yield from _redirect(lo)


def _probe_outside(refusal: str) -> Iterator[Check]:
    """Ask with bad options: the kernel looks for the qdisc's kind first, and then refuses the options."""
    why = f"no network namespace can be made to try it in ({refusal})"
    sk = RouteSocket()
    lo = sk.ifindex_of("lo")
    plug = ffi.new("struct tcmsg *", {"tcm_ifindex": lo, "tcm_parent": lib.TC_H_ROOT, "tcm_handle": 1 << 16})
    bad_options = attribute(lib.TCA_KIND, b"plug\0") + attribute(lib.TCA_OPTIONS, b"\0")  # too short to be a plug's
    try:
        _send(message(lib.RTM_NEWQDISC, _CREATE, ffi.buffer(plug)[:] + bad_options))
    except NetlinkError as error:
        if error.errno == errno.EINVAL:
            yield result("sch_plug", "ok", "the kernel has the plug qdisc")
        elif isinstance(error, (NotPermitted, QdiscExists)):
            yield result("sch_plug", "warning", f"not known: {why}", "run this as root")
        else:
            yield _missing("sch_plug", error)
    yield from _guard_alone(sk, lo, why)
    for name in LANE:
        yield unknown(name, why, "run this as root; lanes need it")


def _guard(plug: PlugQdisc, out: int) -> Iterator[Check]:
    """Have a guard hold a packet on lo twice: it releases one when told to, the other when its holder is killed."""
    packets = Socket(AF_INET, SOCK_DGRAM)
    packets.settimeout(AT_ONCE)
    try:
        packets.bind(("127.0.0.1", 0))
        packets.connect(packets.getsockname())
        with plug.hold(timeout=PATIENCE) as held:
            packets.send(b"1")
            holder = plug.holder()
            spared = memory(holder.guard if holder else 0)
        packets.recv(1)
        yield spared
        _kill_a_holder(packets, out)
        packets.recv(1)
    except NetlinkError as error:
        yield result("guard", "failed", str(error), "nothing can be held without a guard: fix what the message says")
    except OSError as error:
        words = error.strerror or "the released packet did not arrive"
        yield result("guard", "failed", f"holding a packet did not work: {words}", "do not hold on this host")
    else:
        if held.packets:
            done = "held a packet and released it when told to, and another one when its holder was killed"
            yield result("guard", "ok", done)
        else:
            yield result("guard", "failed", "a packet passed that should have been held", "do not hold on this host")
    finally:
        packets.close()
        plug.close()


def _kill_a_holder(packets: Socket, out: int) -> None:
    """Start a process that holds lo with a packet of ``packets`` in it, and kill the process."""
    ready, tell = os.pipe()
    wait, alive = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for fd in (out, ready, alive):
                os.close(fd)
            with PlugQdisc.open("lo").hold():
                packets.send(b"2")
                os.write(tell, b"!")
                os.read(wait, 1)  # until it is killed, or the parent ends
        finally:
            os._exit(0)
    for fd in (tell, wait):
        os.close(fd)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for fd in (ready, alive):
        os.close(fd)


def _guard_alone(sk: RouteSocket, lo: int, why: str) -> Iterator[Check]:
    """Start a guard and end it, holding nothing."""
    try:
        guard = PlugQdisc(sk, "lo", lo, lib.TC_H_ROOT, 1 << 16).guard()
    except NetlinkError as error:
        yield result("guard", "failed", str(error), "nothing can be held without a guard: fix what the message says")
        return
    yield memory(guard.pid)
    guard.end()
    yield result("guard", "ok", f"it starts and ends; whether it releases was not tried, because {why}")


def memory(guard: int) -> Check:
    """Check whether the OOM killer spares the guard. A score of -1000 also exempts it when a whole cgroup is killed."""
    score = (text_of(f"/proc/{guard}/oom_score_adj") or "").strip()
    if not score:
        return unknown("oom", "the guard's oom_score_adj cannot be read", "mount /proc")
    if score == "-1000":
        return result("oom", "ok", "the OOM killer spares the guard (oom_score_adj -1000)")
    detail = f"the OOM killer may choose the guard (oom_score_adj {score})"
    paths = (text_of("/proc/self/cgroup") or "").partition("0::")[2].partition("\n")[0].strip("/").split("/")
    for count in range(len(paths), -1, -1):
        file = "/".join(["/sys/fs/cgroup", *paths[:count], "memory.oom.group"])
        if (text_of(file) or "0").strip() != "0":
            detail = f"the OOM killer kills the guard together with its holder ({file} is set)"
            break
    return result("oom", "warning", detail, "with CAP_SYS_RESOURCE the guard exempts itself")


def _ifb(safe: bool) -> Check:
    if not safe:
        why = "its module is not loaded, and loading it now would make the links ifb0 and ifb1"
        return unknown("ifb", why, "lanes need it: as root on the host, modprobe ifb numifbs=0")
    linkinfo = attribute(lib.IFLA_LINKINFO, attribute(lib.IFLA_INFO_KIND, b"ifb\0"))
    return _made("ifb", message(lib.RTM_NEWLINK, _CREATE, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + linkinfo))


def _ifb_is_safe() -> bool:
    """Return whether an ifb can be made without the links ifb0 and ifb1, which come when the kernel loads the module.

    If modprobe has just failed here, and the kernel's modprobe sees the same files, the kernel cannot load it either.
    """
    if load_ifb():
        return True
    try:
        alike = os.path.samestat(os.stat("/proc/1/root"), os.stat("/"))
    except OSError:
        return False
    return alike and os.geteuid() == 0 and in_own_namespace("pid") is False


def _redirect(lo: int) -> Iterator[Check]:
    """Make a clsact qdisc, a flower filter at its egress hook, and a filter with a mirred action."""
    major = lib.TC_H_CLSACT & 0xFFFF_0000
    clsact = _made("sch_ingress", qdisc_message(lib.RTM_NEWQDISC, _CREATE, lo, lib.TC_H_CLSACT, major, b"clsact"))
    yield clsact
    if clsact.state != "ok":
        for name in ("cls_flower", "act_mirred"):
            yield unknown(name, "it cannot be tried without sch_ingress", "see sch_ingress")
        return
    flower = struct.pack("=BxHiIII", 0, 0, lo, 0, major | lib.TC_H_MIN_EGRESS, htons(lib.ETH_P_IP))
    flower += attribute(lib.TCA_KIND, b"flower\0")
    keys = attribute(lib.TCA_FLOWER_KEY_ETH_TYPE, struct.pack("!H", lib.ETH_P_IP))
    empty = _made("cls_flower", message(lib.RTM_NEWTFILTER, _CREATE, flower + attribute(lib.TCA_OPTIONS, keys)))
    yield empty
    if empty.state != "ok":
        yield unknown("act_mirred", "it cannot be tried without cls_flower", "see cls_flower")
        return
    mirred = struct.pack("=IIiiiiI", 0, 0, lib.TC_ACT_STOLEN, 0, 0, lib.TCA_EGRESS_REDIR, lo)  # struct tc_mirred
    parameters = attribute(lib.TCA_ACT_OPTIONS, attribute(lib.TCA_MIRRED_PARMS, mirred))
    action = attribute(1, attribute(lib.TCA_ACT_KIND, b"mirred\0") + parameters)
    options = attribute(lib.TCA_OPTIONS, keys + attribute(lib.TCA_FLOWER_ACT, action))
    yield _made("act_mirred", message(lib.RTM_NEWTFILTER, _CREATE, flower + options))


def _made(name: str, request: bytes) -> Check:
    """Ask the kernel to make it."""
    try:
        _send(request)
    except NetlinkError as error:
        return _missing(name, error)
    return result(name, "ok", f"the kernel has the {_MODULES[name][0]}, which lanes need")


def _missing(name: str, error: NetlinkError) -> Check:
    """Explain the kernel's refusal: it has no such kind (ENOENT, EOPNOTSUPP), or something else is wrong."""
    if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
        return result(name, "failed", str(error), f"'modprobe {name}' as root on the host may help")
    kind, option = _MODULES[name]
    words = (error.ext_ack or os.strerror(error.errno)).rstrip(".")
    use = "" if name in NEEDED else ", which lanes need,"
    detail = f"the kernel has no {kind}{use} and can load none ({words})"
    packages = f"Debian linux-image-amd64, Ubuntu linux-modules-extra-{os.uname().release}, Fedora kernel-modules-core"
    other = "; RHEL 9's kernel is built without it" if name == "sch_plug" else ""
    load = "ifb numifbs=0" if name == "ifb" else name
    advice = f"as root on the host 'modprobe {load}', or install a kernel that has it (CONFIG_{option}): {packages}"
    return result(name, "failed", detail, advice + other)


def _send(request: bytes) -> None:
    sk = RouteSocket()
    try:
        sk.execute(request, "ask the kernel", None)
    finally:
        sk.close()


def libnl() -> Iterator[Check]:
    version = f"{lib.nl_ver_maj}.{lib.nl_ver_min}.{lib.nl_ver_mic}"
    maps = text_of("/proc/self/maps") or ""
    files = sorted({line.split()[-1] for line in maps.splitlines() if "/libnl-" in line})
    yield result("libnl", "ok", ", ".join([f"version {version}", *files]))
    names = [name for name in dir(lib) if name.startswith(("nl_", "nla_", "nlmsg_", "rtnl_"))]
    count = sum(callable(getattr(lib, name)) for name in names)
    yield result("functions", "ok", f"the {count} functions of libnl that are called were bound when it was loaded")


def right() -> Check:
    trouble = trial(ask_permission)
    if not trouble:
        return result("CAP_NET_ADMIN", "ok", "this process may change the qdiscs of its network namespace")
    advice = "run as root; in a unit, AmbientCapabilities=CAP_NET_ADMIN; in a container, --cap-add NET_ADMIN"
    return result("CAP_NET_ADMIN", "failed", trouble, advice)


def netns(can_make: bool) -> Check:
    trouble = trial(lambda: RouteSocket("/proc/self/ns/net").close())
    if not trouble:
        words = "can be made and entered" if can_make else "can be entered, but none can be made"
        return result("netns", "ok", f"network namespaces {words}")
    advice = "--netns needs CAP_SYS_ADMIN; without it, start libnlplug inside the namespace"
    words = trouble.split("; ")[0].split(": ")[-1]
    return result("netns", "warning", f"no other network namespace can be entered ({words})", advice)
