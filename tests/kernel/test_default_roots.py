# SPDX-License-Identifier: GPL-2.0-or-later
"""On devices whose root is the kernel's default qdisc, of every sort: a plug takes its place and gives it back."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

import libnlplug
from tests.support.netlab import FRAME, HEADERS, PORT, Netns, Wire, eventually, need_guest, random_name, up
from tests.support.netlab import udp_socket as udp

TUNSETIFF, IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI = 0x400454CA, 0x2, 0x100, 0x1000


class Tap:
    """A tap device: unlike veth it has a queue, and so a default qdisc. Its frames are read from a file."""

    def __init__(self, netns: Netns, queues: int) -> None:
        self.netns, self.device = netns, random_name()
        self._file = netns.run(os.open, "/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = IFF_TAP | IFF_NO_PI | (IFF_MULTI_QUEUE if queues > 1 else 0)
        fcntl.ioctl(self._file, TUNSETIFF, struct.pack("16sH22x", self.device.encode(), flags))
        netns.ip(
            *up(self.device, Wire.NEAR),
            f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {self.device} nud permanent",
        )
        self._source = netns.run(udp)

    def send(self, count: int) -> list[int]:
        for number in range(count):
            self._source.sendto(struct.pack("!I", number).ljust(FRAME - HEADERS, b"."), (Wire.FAR, PORT))
        return list(range(count))

    def arrived(self) -> list[int]:
        numbers = []
        while True:
            try:
                numbers.append(struct.unpack_from("!I", os.read(self._file, 2048), HEADERS)[0])
            except BlockingIOError:
                return numbers

    def kinds(self) -> list[tuple[str, str]]:
        """Kind and handle of the root, then of what stands below it."""
        shown = sorted(self.netns.qdiscs(self.device), key=lambda each: "root" not in each)
        return [(each["kind"], each["handle"]) for each in shown]

    def close(self) -> None:
        self._source.close()
        os.close(self._file)


@pytest.fixture(params=[1, 256], ids=["one queue", "multi-queue"])
def tap(netns: Netns, request: pytest.FixtureRequest):
    """A tap device with one queue, or with many."""
    made = Tap(netns, request.param)
    yield made
    made.close()


@contextmanager
def default_qdisc(kind: str):
    """Devices that are made meanwhile get this default."""
    setting = Path("/proc/sys/net/core/default_qdisc")
    before = setting.read_text()
    setting.write_text(kind)
    try:
        yield
    finally:
        setting.write_text(before)


def hold_and_release(tap: Tap) -> None:
    before = tap.kinds()
    assert {handle for _, handle in before} == {"0:"}  # a default, not configured
    with libnlplug.attach(tap.device, netns=tap.netns) as plug:
        assert tap.kinds() == [("plug", "504c:")]
        plug.buffer()
        numbers = tap.send(50)
        assert (plug.stats().qlen, tap.arrived()) == (50, [])
        plug.release_indefinite()
        got: list[int] = []
        eventually(lambda: got.extend(tap.arrived()) or len(got) >= 50, "50 frames arrive")
        assert got == numbers
    assert tap.kinds() == before


def test_whatever_this_kernels_default_is(tap: Tap) -> None:
    """The default of a device with one queue, and mq with its children on one with many: all of them come back."""
    assert (tap.kinds()[0][0] == "mq") == (len(tap.kinds()) > 1)
    hold_and_release(tap)


@pytest.mark.parametrize("kind", ["pfifo_fast", "fq_codel"])
def test_both_common_defaults(netns: Netns, kind: str) -> None:
    """pfifo_fast, the kernel's own default, and fq_codel, systemd's."""
    need_guest("net.core.default_qdisc is the whole machine's")
    with default_qdisc(kind):
        tap = Tap(netns, 1)
        assert tap.kinds() == [(kind, "0:")]
        hold_and_release(tap)
        tap.close()


def test_detach_gives_the_current_default(netns: Netns) -> None:
    """Detaching gives the default that is current then, not the one that stood there before (here: changed)."""
    need_guest("net.core.default_qdisc is the whole machine's")
    tap = Tap(netns, 1)
    plug = libnlplug.attach(tap.device, netns=netns)
    with default_qdisc("fq_codel"):
        plug.detach()
        assert tap.kinds() == [("fq_codel", "0:")]
    plug.close()
    tap.close()


def test_noqueue(wire: Wire) -> None:
    """A veth has no queue at all: noqueue before and after, with a plug that holds between."""
    assert wire.near.kinds(wire.device) == ["noqueue"]
    with libnlplug.attach(wire.device, netns=wire.near) as plug:
        plug.buffer()
        numbers = wire.send(50)
        assert (plug.stats().qlen, wire.arrived()) == (50, [])
    wire.expect(numbers)
    assert wire.near.kinds(wire.device) == ["noqueue"]


def test_lo(netns: Netns) -> None:
    """The loopback device: a ping to oneself is held, and answered after the release."""
    netns.ip("link set lo up")
    with libnlplug.attach("lo", netns=netns) as plug:
        plug.buffer()
        ping = netns.run(
            subprocess.Popen, ["ping", "-n", "-c", "1", "-W", "5", "127.0.0.1"], stdout=subprocess.PIPE, text=True
        )
        eventually(lambda: plug.stats().qlen == 1, "the request waits")
        plug.release_indefinite()
        assert "1 received" in ping.communicate(timeout=20)[0]


@pytest.mark.parametrize("root", ["mq", "prio"])
def test_a_configured_multi_queue_root_stays(netns: Netns, root: str) -> None:
    """An mq that somebody configured has a handle, and is no default: it is not displaced. A class of it takes no plug,
    because the kernel would leave it without a queue; a class of prio does."""
    tap = Tap(netns, 256)
    netns.tc(f"qdisc replace dev {tap.device} root handle 8: {root}")
    with pytest.raises(libnlplug.QdiscExists, match=f"{root} 8: is there"):
        libnlplug.attach(tap.device, netns=netns)
    before = tap.kinds()
    if root == "mq":
        with pytest.raises(libnlplug.NetlinkError, match="mq 8: leaves a class without a queue"):
            libnlplug.attach(tap.device, parent="8:1", netns=netns)
    else:
        with libnlplug.attach(tap.device, parent="8:1", netns=netns) as plug:
            assert ("plug", plug.handle) in tap.kinds()
    assert tap.kinds()[0] == before[0] == (root, "8:")
    tap.close()
