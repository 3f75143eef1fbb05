# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command's refusals advise: it fits what was typed, and following it leads on."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from libnlplug import PlugQdisc
from tests.support.command import Cli, let_end
from tests.support.hold import expect_flow
from tests.support.netlab import Wire, unable

PIDFD_OPEN, SOCKET, AF_NETLINK = 434, 41, 16
UDP = ("--ip-proto", "udp")


@pytest.fixture
def cli(wire: Wire) -> Cli:
    """The command in the wire's near namespace."""
    return Cli(wire.near)


def test_advice_repeats_the_namespace(wire: Wire) -> None:
    """Where --netns was given, the commands that are advised are for that namespace; as they stand they work."""
    outside = Cli(wire.far)
    where = wire.near.path
    why = outside.complaint("-n", where, "show", wire.device)
    assert why == f"no plug on {wire.device}: attach one with 'libnlplug -n {where} attach {wire.device}'"
    advised = why.split("'")[1].split()
    assert outside(*advised[1:]) == ("", "")
    outside("buffer", wire.device, "--timeout", "60", "--netns", where)
    why = outside.complaint("buffer", wire.device, "--netns", where)
    assert f"'libnlplug -n {where} release {wire.device}'" in why
    outside("-n", where, "release", wire.device)
    outside("-n", where, "detach", wire.device)
    why = outside.complaint("show", "nosuch", "--netns", where)
    assert f"'nsenter --net={where} ip link'" in why


def test_a_root_without_classes_offers_a_lane(wire: Wire, cli: Cli) -> None:
    """Where the root qdisc has no classes, none is advised; packet options are, and they work."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: pfifo")
    why = cli.complaint("hold", wire.device, "--", "true", status=125)
    assert "pfifo 1: is there and is not replaced" in why
    assert "class" not in why
    assert "give packet options, as --tcp-syn" in why
    assert f"'libnlplug lane add {wire.device}'" in cli.complaint("attach", wire.device)
    cli("hold", wire.device, *UDP, "--", "true")


def test_a_root_that_is_taken_names_the_lanes(wire: Wire, cli: Cli) -> None:
    """Where the root qdisc is another one and the device has a lane, hold without options says how to see the lanes."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: pfifo")
    assert "lane show" not in cli.complaint("hold", wire.device, "--", "true", status=125)
    cli("lane", "add", wire.device, *UDP)
    why = cli.complaint("hold", wire.device, "--", "true", status=125)
    assert f"give packet options, as --tcp-syn; 'libnlplug lane show {wire.device}' lists those that are there" in why


def test_a_root_with_classes_offers_one_and_a_lane(wire: Wire, cli: Cli) -> None:
    """Where the root qdisc has classes, both are advised."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    why = cli.complaint("hold", wire.device, "--", "true", status=125)
    assert f"hold at a class of it (--parent; 'tc class show dev {wire.device}' lists them), or hold chosen" in why
    cli("hold", wire.device, "--parent", "1:1", "--", "true")


def test_a_class_that_has_classes_says_where_to_hold(wire: Wire, cli: Cli) -> None:
    """An inner class of htb cannot have a plug: the line says that its own classes can."""
    if subprocess.run(["modprobe", "sch_htb"], capture_output=True).returncode:
        unable("this kernel has no htb")
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: htb")
    for parent, class_id in (("1:", "1:1"), ("1:1", "1:10")):
        rate = "rate 1gbit quantum 1500"  # newer kernels warn of the quantum that they compute
        wire.near.tc(f"class add dev {wire.device} parent {parent} classid {class_id} htb {rate}")
    why = cli.complaint("hold", wire.device, "--parent", "1:1", "--", "true", status=125)
    assert "if the class 1:1 has classes of its own, hold at one of those: 'tc class show dev" in why
    cli("hold", wire.device, "--parent", "1:10", "--", "true")


def test_a_class_that_is_not_there(wire: Wire, cli: Cli) -> None:
    """The command that is advised shows the classes that there are."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    why = cli.complaint("hold", wire.device, "--parent", "1:99", "--", "true", status=125)
    advised = why.split("'")[1].split()
    assert "class prio 1:1 parent 1:" in wire.near.command(*advised)


def test_a_guard_at_a_class_is_ended_as_advised(wire: Wire, cli: Cli) -> None:
    """What ends the guard of a plug at a class names the class."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    cli("attach", wire.device, "--parent", "1:1")
    cli("buffer", wire.device, "--parent", "1:1", "--timeout", "60")
    why = cli.complaint("hold", wire.device, "--parent", "1:1", "--", "true", status=125)
    assert "--parent 1:1' ends it" in why
    cli(*why.split("'")[1].split()[1:])
    cli("hold", wire.device, "--parent", "1:1", "--", "true")


def test_a_plug_that_is_elsewhere_is_found(wire: Wire, cli: Cli) -> None:
    """A verb for the root's plug, where a lane holds: the line says where the lane's plug is."""
    process = cli.holding(wire.device, *UDP)
    for verb in ("release", "show"):
        why = cli.complaint(verb, wire.device)
        assert why.endswith(f"the plugs of its lanes are on their ifbs: 'libnlplug lane show {wire.device}' lists them")
    advised = why.split("'")[-2].split()
    ifb = cli(*advised[1:]).out.splitlines()[1].split()[3]
    assert f"pid {process.pid} " in cli("show", ifb).out
    let_end(process)


def test_a_lane_that_broke_is_not_looked_for(wire: Wire, cli: Cli) -> None:
    """A hold of a lane that broke meanwhile says so and where to look, and not where the plugs of lanes are."""
    cli("lane", "add", wire.device, *UDP)
    harm = ("tc", "qdisc", "del", "dev", wire.device, "clsact")
    err = cli("hold", wire.device, *UDP, "--", *harm, status=125).err
    assert "its filters are gone" in err
    assert f"'libnlplug lane show {wire.device}' says what to do; the command's status was 0" in err
    assert "add the lane again" in cli("lane", "show", wire.device).out
    assert "the plugs of its lanes" not in err


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("{}:1", "a name with a colon is the label of an address: give the device, {}"),
        ("10.9.0.1", "it is an address: give the device that has it ('ip -br address' lists both)"),
        ("::1", "it is an address: give the device that has it ('ip -br address' lists both)"),
    ],
)
def test_a_name_that_is_no_devices(wire: Wire, cli: Cli, name: str, why: str) -> None:
    """The label of an address, and an address: the line says what it is, and what to give."""
    assert cli.complaint("show", name.format(wire.device)).endswith(why.format(wire.device))


def test_a_pid_that_nobody_has(cli: Cli) -> None:
    """A namespace by the pid of no process: the list of the named ones would not help."""
    assert cli.complaint("-n", "4194999", "show").endswith("No such file or directory; no process has this pid")


def test_why_a_count_is_not_known(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """A hold whose counts are unknown says what happened, but as JSON it is one line."""
    for words in ((), ("--json",)):
        err = cli("hold", wire.device, *words, "--", "ip", "link", "set", wire.device, "txqueuelen", "7").err
        assert ("is unknown: its txqueuelen was changed" in err) is not bool(words)
        assert err.count("\n") == (1 if words else 2)
        wire.near.ip(f"link set {wire.device} txqueuelen 1000")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--ip-proto", "udp", "--dst-port", "53"), "option --handover needs --tcp-syn and --dst-port"),
        (("--ip-proto", "tcp", "--dst-port", "80"), "option --handover needs --tcp-syn and --dst-port"),
        (("--tcp-syn", "--dst-port", "80"), "option --handover needs --ingress"),
        (("--tcp-syn", "--dst-port", "80", "--ingress", "--timeout", "0"), "needs a --timeout that is not 0"),
    ],
)
def test_what_a_handover_needs(wire: Wire, cli: Cli, words: tuple[str, ...], why: str) -> None:
    """A handover that there cannot be is not understood, in the words of the command line; nothing is made."""
    assert why in cli.complaint_of_usage("hold", wire.device, *words, "--handover", "--", "true")
    assert "clsact" not in wire.near.kinds(wire.device)


def test_hold_finds_the_lane_for_all_packets(wire: Wire, cli: Cli) -> None:
    """Where another qdisc is the root, hold DEV holds the lane that 'lane add DEV' made, and leaves both there."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: pfifo")
    cli("lane", "add", wire.device)
    process = cli.holding(wire.device)
    numbers = wire.send(3)
    assert wire.arrived() == []
    _, err = let_end(process)
    assert f"held 3 packets ({3 * 100} bytes) of {wire.device} for " in err
    wire.expect(numbers)
    assert [one["state"] for one in json.loads(cli("lane", "show", wire.device, "-j").out)] == ["kept"]
    assert wire.near.qdisc(wire.device)["kind"] == "pfifo"
    cli("lane", "del", wire.device)


def test_errors_of_a_lane_name_what_was_asked_for(wire: Wire, cli: Cli) -> None:
    """Not the ifb, which nobody has asked for: the device and the packets."""
    process = cli.holding(wire.device, *UDP)
    why = cli.complaint("hold", wire.device, *UDP, "--", "true", status=125)
    assert why.startswith(f"cannot hold {wire.device} (ip_proto=udp): process {process.pid} holds it")
    let_end(process)
    late = let_end(cli.holding(wire.device, *UDP, "--timeout", "0.2", script="sleep 0.5"), 124).err
    assert f"the hold of {wire.device} (ip_proto=udp) overstayed" in late


def test_a_device_is_named_as_ip_link_shows_it(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """eth0@if2 is eth0, unless a device has that very name; an alternative name may be long."""
    assert cli("release", f"{wire.device}@if2") == ("", "")
    assert wire.device in cli("show", f"{wire.device}@if2").out
    assert f"of {wire.device} for " in cli("hold", f"{wire.device}@if2", "--", "true").err
    assert "cannot find nosuch: No such device" in cli.complaint("release", "nosuch@if2")
    wire.near.ip(f"link property add dev {wire.device} altname enp195s0f4u1u4u4u3")
    assert cli("release", "enp195s0f4u1u4u4u3") == ("", "")
    cli("hold", "enp195s0f4u1u4u4u3", "--", "true")
    cli("lane", "add", "enp195s0f4u1u4u4u3", *UDP)
    assert cli("lane", "show", "enp195s0f4u1u4u4u3") == cli("lane", "show", wire.device)
    cli("lane", "del", "enp195s0f4u1u4u4u3")
    wire.near.ip("link add we@ird type dummy")
    cli("attach", "we@ird")
    assert "we@ird" in cli("show", "we@ird").out
    expect_flow(wire, [])


def test_a_filtered_system_call_is_not_a_missing_right(wire: Wire, cli: Cli) -> None:
    """Where a seccomp filter refuses pidfd_open with EPERM, as old container engines do, CAP_NET_ADMIN is not said to
    be missing."""
    if platform.machine() != "x86_64":
        unable("the number of the system call is not known here")
    for filtered in (FILTERED, FILTERED.replace(str(EPERM), str(EACCES))):
        refused = (sys.executable, "-c", filtered)
        err = cli("hold", wire.device, "--", "true", before=refused, status=125).err
        assert "CAP_NET_ADMIN is missing" not in err
        assert "must be executable" not in err
        assert "pidfd_open" in err
        assert "seccomp" in err
    assert "plug" not in wire.near.kinds(wire.device)


@pytest.mark.parametrize(("words", "status"), [(("show",), 1), (("hold", "lo", "--", "true"), 125)])
def test_a_unit_without_netlink_sockets(wire: Wire, cli: Cli, words: tuple[str, ...], status: int) -> None:
    """Where the kernel refuses AF_NETLINK as RestrictAddressFamilies= of a unit has it do, the line names that setting,
    and no missing right."""
    if platform.machine() != "x86_64":
        unable("the number of the system call is not known here")
    err = cli(*words, before=(sys.executable, "-c", WITHOUT_NETLINK), status=status).err
    assert "CAP_NET_ADMIN is missing" not in err
    assert "RestrictAddressFamilies= must allow AF_NETLINK" in err


FILTER = """
import ctypes, os, struct, sys
code = CODE
text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(Program(len(code), ctypes.cast(text, ctypes.c_void_p)))) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
ALLOW, EPERM, EACCES, EAFNOSUPPORT = ((6, 0, 0, code) for code in (0x7FFF0000, 0x50001, 0x5000D, 0x50061))
FILTERED = FILTER.replace("CODE", str([(0x20, 0, 0, 0), (0x15, 0, 1, PIDFD_OPEN), EPERM, ALLOW]))
# The system call, then its first argument: the address family.
NO_NETLINK = [(0x20, 0, 0, 0), (0x15, 0, 3, SOCKET), (0x20, 0, 0, 16), (0x15, 0, 1, AF_NETLINK), EAFNOSUPPORT, ALLOW]
WITHOUT_NETLINK = FILTER.replace("CODE", str(NO_NETLINK))
