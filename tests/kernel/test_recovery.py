# SPDX-License-Identifier: GPL-2.0-or-later
"""Lost answers: a call whose answer did not arrive says so, and the calls after it get their own answers."""

from __future__ import annotations

import os
import socket

import pytest

import libnlplug
from libnlplug import PlugQdisc
from libnlplug.netlink.libnl import ffi, lib
from libnlplug.netlink.messages import joined
from tests.support.netlab import Wire, eventually, random_name

SOL_NETLINK, ADD_MEMBERSHIP, DROP_MEMBERSHIP, RTNLGRP_LINK = 270, 1, 2, 1  # linux/netlink.h, linux/rtnetlink.h


def overflow(wire: Wire, plug: PlugQdisc) -> None:
    """Fill the receive queue of the plug's socket for real: subscribe it to link events, and make many."""
    with socket.socket(fileno=os.dup(plug._sk.fileno())) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        shared.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, RTNLGRP_LINK)
        name = random_name()
        for _ in range(40):
            wire.near.ip(f"link add {name} type dummy", f"link del {name}")
        shared.setsockopt(SOL_NETLINK, DROP_MEMBERSHIP, RTNLGRP_LINK)


@pytest.mark.parametrize("verb", ["buffer", "release_one", "release_indefinite", "stats"])
def test_after_an_overflow_one_call_fails_and_the_next_works(wire: Wire, plug: PlugQdisc, verb: str) -> None:
    """ENOBUFS: the call says that its answer did not arrive, with no errno; everything after it is in step."""
    overflow(wire, plug)
    with pytest.raises(libnlplug.NetlinkError, match="answer did not arrive: the request may or may not") as caught:
        getattr(plug, verb)()
    assert type(caught.value) is libnlplug.NetlinkError
    assert caught.value.errno is None
    assert caught.value.code < 0
    gone = PlugQdisc(plug._sk, wire.device, plug._ifindex, 0x7_0001, plug._handle)  # its calls are all refused
    for _ in range(3):
        plug.buffer()
        with pytest.raises(libnlplug.ParentNotFound):
            gone.buffer()
        assert plug.stats().qlen == 0
    numbers = wire.send(3)
    assert plug.stats().qlen == 3
    plug.release_indefinite()
    wire.expect(numbers)


def test_more_answers_than_the_queue_takes(wire: Wire, plug: PlugQdisc) -> None:
    """A send whose answers overflow the queue: none of them is taken for another's, and the next call is in step."""
    with socket.socket(fileno=os.dup(plug._sk.fileno())) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    buffer = plug._built(lib.rtnl_qdisc_plug_buffer)
    batch = bytearray(joined([buffer] * 200))
    for start in range(0, len(batch), len(buffer)):  # each asks for an answer
        ffi.cast("struct nlmsghdr *", ffi.from_buffer(batch) + start).nlmsg_flags |= lib.NLM_F_ACK
    failures = plug._sk.execute_all(bytes(batch), ["lo"] * 200, "buffer on")
    assert sorted(failures) == list(range(200))
    assert {failure.errno for failure in failures.values()} == {None}
    numbers = wire.send(2)
    assert plug.stats().qlen == 2  # all were carried out: it is only not known
    plug.release_indefinite()
    wire.expect(numbers)


def test_a_failed_release_of_a_new_plug_removes_it(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the release that follows the create is refused, attach() raises and leaves no plug that holds."""
    real = lib.rtnl_qdisc_build_add_request

    def spoil(qdisc, flags, result):
        code = real(qdisc, flags, result)
        if flags == 0:  # the release: give it the handle of a qdisc that is not there
            header = lib.nlmsg_hdr(result[0])
            ffi.cast("struct tcmsg *", ffi.cast("char *", header) + lib.NLMSG_HDRLEN).tcm_handle = 0x1234_0000
        return code

    class Spoiled:
        rtnl_qdisc_build_add_request = staticmethod(spoil)

        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

    monkeypatch.setattr("libnlplug.netlink.messages.lib", Spoiled())
    with pytest.raises(libnlplug.NetlinkError, match=f"cannot release the new plug of {wire.device}"):
        libnlplug.attach(wire.device, limit=10_000, netns=wire.near)
    assert wire.near.kinds(wire.device) == ["noqueue"]
    monkeypatch.undo()
    eventually(lambda: libnlplug.attach(wire.device, netns=wire.near).created, "the device takes a plug again")
