# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel that cannot list the sockets that listen, and the names of their processes."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from libnlplug import Match, NetlinkError
from libnlplug.lane.listeners import owners, sockets_of
from libnlplug.netlink.refusals import refusal
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.hold import Child, child, named_with_half_a_character


@pytest.mark.parametrize("known", [0, 1])
def test_families_that_the_kernel_cannot_list(monkeypatch: pytest.MonkeyPatch, known: int) -> None:
    """Without a module for IPv4 an error names the module; without one for IPv6, its sockets are none."""
    asked: list[bytes] = []

    def ask(sk: RouteSocket, message: bytes, operation: str, device: str | None) -> list[object]:
        asked.append(message)
        if len(asked) > known:
            raise refusal(errno.ENOENT, operation, device)
        return []

    monkeypatch.setattr(RouteSocket, "ask", ask)
    sk = RouteSocket()
    match = Match(ip_proto="tcp", dst_port=80)
    if known:
        assert sockets_of(sk, match).listeners == []
    else:
        why = "^cannot list the listening sockets: No such file or directory; .* try 'modprobe tcp_diag'$"
        with pytest.raises(NetlinkError, match=why):
            sockets_of(sk, match)
    sk.close()
    assert len(asked) == known + 1


def test_a_process_whose_name_is_cut_in_a_character() -> None:
    """The kernel keeps 15 bytes of a name, and does not look where a character ends."""

    def listen(this: Child) -> None:
        named_with_half_a_character()
        sitting = socket.socket()
        this.say(os.fstat(sitting.fileno()).st_ino)
        signal.pause()

    with child(listen) as server:
        assert owners({server.hear()}) == {server.pid: "server-of-caf\ufffd"}
