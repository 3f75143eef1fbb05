# SPDX-License-Identifier: GPL-2.0-or-later
"""What a filter in a dump does to the classification, whose it is, and what stands beside clsact."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libnlplug import Match
from libnlplug.lane.filters import FIRST_PRIO, SLOTS, by_slot, digest, ender, is_lanes, slot_of
from libnlplug.lane.hook import Filter, _read, ingress_chain, tcx_programs
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.messages import attribute
from libnlplug.netlink.route_socket import RouteSocket
from tests.support import bpf, nft
from tests.support.netlab import Netns

OK, SHOT, PIPE, STOLEN, CONTINUE = 0, 2, 3, 4, -1  # linux/pkt_cls.h
GOTO_CHAIN_5 = 0x20000005
EGRESS_REDIRECT, EGRESS_MIRROR = 1, 2  # linux/tc_act/tc_mirred.h
ACTIONS = lib.TCA_U32_ACT


def gact(verdict: int, *more: bytes) -> bytes:
    return action("gact", attribute(2, struct.pack("=IIiii", 1, 0, verdict, 1, 1)), *more)


def mirred(verdict: int, does: int, ifindex: int) -> bytes:
    return action("mirred", attribute(2, struct.pack("=IIiiiiI", 1, 0, verdict, 1, 1, does, ifindex)))


def action(kind: str, *options: bytes) -> bytes:
    return attribute(1, kind.encode() + b"\0") + attribute(0x8002, b"".join(options))


def shown(
    *actions: bytes, kind="u32", handle=0x80000800, prio=10, protocol=0x0800, chain=0, options=b"", where=ACTIONS
) -> Filter:
    """A filter as it is read from the kernel's message."""
    listed = b"".join(attribute(number, one) for number, one in enumerate(actions, 1))
    if actions:
        options += attribute(where, listed)
    head = struct.pack("=BxxxiIII", 0, 1, handle, 0xFFFFFFF3, prio << 16 | socket.htons(protocol))
    body = attribute(lib.TCA_KIND, kind.encode() + b"\0") + attribute(lib.TCA_CHAIN, struct.pack("=I", chain))
    read = _read(head + body + attribute(lib.TCA_OPTIONS, options))
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("actions", "goes_on"),
    [
        ((), False),  # only a class: the classification ends there
        ((gact(OK),), False),
        ((gact(SHOT),), False),
        ((gact(CONTINUE),), True),
        ((gact(PIPE),), False),  # no further action follows
        ((gact(PIPE), gact(CONTINUE)), True),
        ((gact(CONTINUE), gact(SHOT)), True),  # the first verdict but 'pipe' counts
        ((gact(OK), gact(CONTINUE)), False),
        ((gact(GOTO_CHAIN_5),), False),
        ((gact(CONTINUE, attribute(3, bytes(8))),), False),  # at random another verdict
        ((mirred(PIPE, EGRESS_MIRROR, 7), gact(CONTINUE)), True),
        ((mirred(CONTINUE, EGRESS_MIRROR, 7),), True),
        ((mirred(STOLEN, EGRESS_REDIRECT, 7),), False),
        ((action("skbedit", attribute(2, bytes(40))), gact(CONTINUE)), True),
        ((action("police"),), False),
        ((b"",), False),
    ],
)
def test_where_the_classification_ends(actions: tuple[bytes, ...], goes_on: bool) -> None:
    """It goes on only where the verdict that counts is 'continue'; what cannot be known is an end."""
    one = shown(*actions)
    assert one.goes_on is goes_on
    assert ender(one, Match()) is not goes_on


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("flower", lib.TCA_FLOWER_ACT),
        ("matchall", lib.TCA_MATCHALL_ACT),
        ("basic", lib.TCA_BASIC_ACT),
        ("fw", lib.TCA_FW_ACT),
        ("bpf", lib.TCA_BPF_ACT),
    ],
)
def test_actions_of_other_kinds(kind: str, where: int) -> None:
    """Each kind of filter keeps its actions in an attribute of its own; of a kind not known an end is assumed."""
    assert not ender(shown(gact(CONTINUE), kind=kind, handle=1, where=where), Match())
    assert ender(shown(gact(OK), kind=kind, handle=1, where=where), Match())
    assert ender(shown(gact(CONTINUE), kind="other", handle=1, where=where), Match())


def lanes(slot: int, number: int, target: int, prio: int = FIRST_PRIO, **options) -> Filter:
    """A filter as a lane makes it."""
    options = {"kind": "flower", "where": lib.TCA_FLOWER_ACT, "handle": (slot + 1) << 16 | number, **options}
    return shown(mirred(STOLEN, EGRESS_REDIRECT, target), prio=prio, **options)


@pytest.mark.parametrize("prio", [FIRST_PRIO, FIRST_PRIO + 1, FIRST_PRIO + 2])
@pytest.mark.parametrize("slot", [0, 1, SLOTS - 1])
def test_the_slot_of_a_filter(slot: int, prio: int) -> None:
    """A lane's filter tells the slot by its number."""
    for number in (1, 0xFFFF):
        assert slot_of(lanes(slot, number, 7, prio)) == slot


@pytest.mark.parametrize(
    "other",
    [
        lanes(0, 1, 7, FIRST_PRIO - 1),
        lanes(0, 1, 7, FIRST_PRIO + 3),
        lanes(0, 1, 7, 65535),
        lanes(0, 1, 7, chain=1),
        lanes(0, 1, 7, kind="u32", where=ACTIONS),
        *(lanes(0, 1, 7, handle=handle) for handle in (1, 0xFFFF, (SLOTS + 1) << 16 | 1, 0xFFFFFFFF)),
    ],
)
def test_filters_that_are_no_lanes(other: Filter) -> None:
    """Another preference, chain or kind, or a number as the kernel gives it to a filter that was added without one:
    somebody else's."""
    assert slot_of(other) is None
    assert not is_lanes(other)


def test_a_lanes_filter_that_was_replaced() -> None:
    """A filter that does not redirect is in the slot whose number it has, and not a lane's; nor is one that redirects
    in a slot without a lane."""
    replaced = shown(gact(OK), prio=FIRST_PRIO, kind="flower", where=lib.TCA_FLOWER_ACT, handle=0x10001)
    assert (slot_of(replaced), is_lanes(replaced)) == (0, False)
    assert [is_lanes(lanes(slot, 1, 7), {2, 3}) for slot in (1, 2, 3, 4)] == [False, True, True, False]


def test_the_filters_of_a_slot_and_their_digest() -> None:
    """A slot's filters are found among others. Their digest tells another field, target, handle or number, and neither
    their order, nor what their action has counted, nor whether a card runs them."""
    root = shown(kind="flower", handle=0, prio=FIRST_PRIO)
    first, second = lanes(3, 1, 7), lanes(3, 2, 7, FIRST_PRIO + 1)
    others = [shown(gact(OK)), lanes(4, 1, 9), lanes(2, 1, 7)]
    assert by_slot([root, first, second, *others]) == {3: [first, second], 4: [lanes(4, 1, 9)], 2: [lanes(2, 1, 7)]}
    port = attribute(lib.TCA_FLOWER_KEY_TCP_DST, b"\0P")
    changed = [lanes(3, 2, 8, FIRST_PRIO + 1), lanes(3, 4, 7, FIRST_PRIO + 1), lanes(3, 2, 7), lanes(3, 2, 0)]
    changed.append(lanes(3, 2, 7, FIRST_PRIO + 1, options=port))
    kept = digest([first, second])
    assert digest([second, first]) == kept
    assert kept not in [digest([first]), *(digest([first, other]) for other in changed)]
    ran = attribute(lib.TCA_FLOWER_FLAGS, b"\x09\0\0\0") + attribute(lib.TCA_FLOWER_IN_HW_COUNT, bytes(4))
    assert digest([first, lanes(3, 2, 7, FIRST_PRIO + 1, options=ran)]) == kept


@given(st.binary(max_size=120))
def test_any_message_can_be_read(data: bytes) -> None:
    """Whatever is in a message, reading it ends without an error."""
    _read(data)
    _read(
        struct.pack("=BxxxiIII", 0, 1, 1, 0, 0) + attribute(lib.TCA_KIND, b"u32\0") + attribute(lib.TCA_OPTIONS, data)
    )


@pytest.fixture
def fresh(netns: Netns):
    """A namespace that no other test uses: programs and chains stay in it."""
    made = Netns()
    yield made
    made.close()


@pytest.fixture
def sk(fresh: Netns):
    """A socket in that namespace, while the test's thread is elsewhere."""
    made = RouteSocket(fresh)
    yield made
    made.close()


def test_tcx_programs_are_counted(fresh: Netns, sk: RouteSocket) -> None:
    """Programs at each hook of a device of another namespace; none before, and none for a device that is gone."""
    lo = 1
    assert [tcx_programs(sk, lo, ingress) for ingress in (False, True)] == [0, 0]
    programs = [bpf.load(), bpf.load(OK)]
    for program in programs:
        fresh.run(bpf.attach_tcx, program, lo, ingress=False)
    try:
        assert [tcx_programs(sk, lo, ingress) for ingress in (False, True)] == [2, 0]
        assert tcx_programs(sk, 4711, False) == 0
    finally:
        for program in programs:
            os.close(program)


def test_the_kernels_answer_about_tcx_fits(fresh: Netns) -> None:
    """The kernel writes its answer however short it was told that the structure is: 64 bytes, as many as hook.c has."""
    written = fresh.run(bpf.query_tcx, 1, told=32, kept=128)
    assert written[64:] == bytes(64)


@pytest.mark.parametrize(("family", "hook", "shown_as"), [(nft.NETDEV, 0, "netdev t c"), (nft.INET, 5, "inet t c")])
def test_an_nftables_chain_at_the_ingress_is_found(
    fresh: Netns, sk: RouteSocket, family: int, hook: int, shown_as: str
) -> None:
    """A chain at a device's ingress, of either family that has such a hook, is named; other devices have none."""
    fresh.ip("link add other type veth peer name another")
    assert ingress_chain(sk, "lo") is None
    refused = fresh.run(nft.add_chain, family, hook, "lo")
    if refused:
        pytest.skip(f"no nftables chain can be made at a device's ingress here: {errno.errorcode.get(refused)}")
    assert ingress_chain(sk, "lo") == shown_as
    assert ingress_chain(sk, "other") is None
    assert ingress_chain(sk, "l") is None
    assert ingress_chain(sk, "lo0") is None


def test_other_nftables_chains_are_no_concern(fresh: Netns, sk: RouteSocket) -> None:
    """A chain that sees what a lane gives back, as one at prerouting, is none of those."""
    refused = fresh.run(nft.add_chain, nft.INET, 0, "lo")
    if refused:
        pytest.skip(f"no nftables chain can be made here: {errno.errorcode.get(refused)}")
    assert ingress_chain(sk, "lo") is None
