# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors in the words of the command line."""

from __future__ import annotations

import errno
import os

import pytest

from libnlplug.command import advice
from libnlplug.command.parser import read
from libnlplug.errors import NetlinkError, NotPermitted, QdiscNotFound

MISSING = "CAP_NET_ADMIN is missing in this network namespace: run it as root or give the process that capability"


@pytest.mark.parametrize(
    ("netns", "command", "advised"),
    [
        ("blue", "libnlplug attach eth0", "libnlplug -n blue attach eth0"),
        ("blue", "tc qdisc show", "tc -n blue qdisc show"),
        ("blue", "ip link", "ip -n blue link"),
        ("blue", "ip netns", "ip netns"),
        ("a b", "ip link", "ip -n 'a b' link"),
        ("/run/x", "libnlplug release eth0", "libnlplug -n /run/x release eth0"),
        ("/run/x", "tc qdisc show", "nsenter --net=/run/x tc qdisc show"),
        ("4711", "libnlplug release eth0", "libnlplug -n 4711 release eth0"),
        ("4711", "ip link", "nsenter --net=/proc/4711/ns/net ip link"),
        ("4711", "ip netns", "ip netns"),
        ("blue", "modprobe sch_plug", "modprobe sch_plug"),
    ],
)
def test_advice_is_for_the_namespace_that_was_given(netns: str, command: str, advised: str) -> None:
    """What is advised works where the command was to work; without --netns it stays as it is."""
    error = QdiscNotFound(errno.ENOENT, f"cannot: there is none; try '{command}' first")
    args = read(["release", "eth0", "--netns", netns])
    assert advice.explained(error, args) == f"cannot: there is none; try '{advised}' first"
    assert advice.explained(error, read(["release", "eth0"])) == str(error)


def test_sockets_that_a_unit_forbids_are_named() -> None:
    """Where an address family is refused, the line says which setting does that, and what it must allow."""
    error = NetlinkError(errno.EAFNOSUPPORT, "cannot open a netlink socket: Address family not supported by protocol")
    said = advice.explained(error, read(["show"]))
    assert said.endswith("a unit's RestrictAddressFamilies= must allow AF_NETLINK and AF_UNIX")
    plain = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    assert "RestrictAddressFamilies=" in advice.explained(plain, read(["show"]))


@pytest.mark.parametrize("right", [MISSING, "CAP_SYS_ADMIN is needed to enter a network namespace"])
@pytest.mark.parametrize(
    ("status", "missing"),
    [("CapEff:\t3fffff\nSeccomp:\t2\n", False), ("CapEff:\t3fffff\nSeccomp:\t0\n", True), ("CapEff:\t0\n", True)],
)
def test_a_right_that_is_there_is_not_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path, right: str, status: str, missing: bool
) -> None:
    """EPERM with the capability and a seccomp filter is the filter's; without one of both it is a missing right."""
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(advice, "_STATUS", str(tmp_path / "status"))
    error = NotPermitted(errno.EPERM, f"cannot buffer on lo: Operation not permitted; {right}")
    said = advice.explained(error, read(["buffer", "lo"]))
    assert (right in said, "seccomp" in said) == (missing, not missing)
    assert said.startswith("cannot buffer on lo: Operation not permitted; ")


def test_options_are_named_as_they_were_typed() -> None:
    """An invalid argument is named by its option, by the name that was typed, and what is missing is not 'None'."""
    args = read(["hold", "lo", "--dst-port", "80", "-n", "x", "--", "true"])
    sentence = "dst_port needs ip_proto tcp, udp or sctp, and ip_proto is None"
    assert advice.as_typed(ValueError(sentence), args) == (
        "libnlplug hold: --dst-port needs --ip-proto tcp, udp or sctp, and --ip-proto is not given"
        " (try 'libnlplug hold --help')"
    )
    assert "hold: -n is 'x'" in advice.as_typed(ValueError("netns is 'x'"), args)
    assert "libnlplug hold: --parent is 'x'" in advice.as_typed(ValueError("parent is 'x'"), args)
    args = read(["limit", "lo", "5"])
    assert advice.as_typed(ValueError("limit is 5: give more"), args).startswith("libnlplug limit: SIZE is 5: give")
