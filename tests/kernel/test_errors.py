# SPDX-License-Identifier: GPL-2.0-or-later
"""Every refusal of the kernel's has its own exception and its own sentence: what failed, why, and what to do."""

from __future__ import annotations

import errno
from contextlib import contextmanager

import pytest

import libnlplug
from libnlplug import PlugQdisc
from tests.support.netlab import CAP_NET_ADMIN, Netns, Wire, descriptors, random_name, unprivileged


@contextmanager
def complain(kind: type[libnlplug.NetlinkError], builtin: type[Exception], number: int | None, *words: str):
    """pytest.raises for one refusal: its class, the builtin it is too, the kernel's errno, and its sentence."""
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert isinstance(error, OSError)
    assert error.errno == number
    assert error.operation
    for word in words:
        assert word in str(error)
    assert "\n" not in str(error)


VERBS = ("buffer", "release_one", "release_indefinite", "stats", "detach")


@pytest.fixture
def prio(wire: Wire) -> Wire:
    """The wire's device with a prio qdisc at its root."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio bands 3")
    return wire


def test_no_such_device(netns: Netns) -> None:
    """A device that is not there, or whose name cannot be one, is DeviceNotFound: also for open()."""
    for device in ("nosuch0", "a" * 15, "a" * 16, "", "bad\0name", "lo:1", "a/b", "ü", "\udcff", "\ud800"):
        with pytest.raises(libnlplug.DeviceNotFound, match="cannot find "):
            libnlplug.attach(device, netns=netns)
        with pytest.raises(FileNotFoundError):
            PlugQdisc.open(device, netns=netns)


def test_no_such_device_says_what_to_do(netns: Netns) -> None:
    """The sentence names the device, the kernel's word, and the command that lists devices."""
    with complain(libnlplug.DeviceNotFound, FileNotFoundError, errno.ENODEV, "nosuch0: No such device; ", "'ip link'"):
        libnlplug.attach("nosuch0", netns=netns)


def test_a_parent_qdisc_that_is_not_there(wire: Wire) -> None:
    """A class of a qdisc the device does not have: ParentNotFound."""
    with complain(
        libnlplug.ParentNotFound,
        FileNotFoundError,
        errno.ENOENT,
        "Failed to find specified qdisc",
        "'tc qdisc show dev ",
    ):
        libnlplug.attach(wire.device, parent="7:1", netns=wire.near)


def test_a_class_that_is_not_there(prio: Wire) -> None:
    """A class that the parent qdisc does not have: ClassNotFound."""
    with complain(
        libnlplug.ClassNotFound, FileNotFoundError, errno.ENOENT, "Specified class not found", "'tc class show dev "
    ):
        libnlplug.attach(prio.device, parent="1:9", netns=prio.near)


def test_a_plug_is_no_parent(wire: Wire, plug: PlugQdisc) -> None:
    """A plug has no classes to attach another one to: ParentNotClassful."""
    words = ("the parent must be", "prio or htb")  # the kernel's own are newer than 5.10
    with complain(libnlplug.ParentNotClassful, OSError, errno.EOPNOTSUPP, *words):
        libnlplug.attach(wire.device, parent=f"{plug.handle}1", netns=wire.near)


def test_a_configured_qdisc(prio: Wire) -> None:
    """Another configured qdisc: QdiscExists, which says which one, and what to do."""
    with complain(libnlplug.QdiscExists, FileExistsError, None, "prio 1: is there", "delete it first, or hold at"):
        libnlplug.attach(prio.device, netns=prio.near)


def test_a_handle_that_is_elsewhere(prio: Wire) -> None:
    """A handle that the device has at another class already: HandleInUse."""
    libnlplug.attach(prio.device, parent="1:1", handle="40:", netns=prio.near).close()
    with complain(libnlplug.HandleInUse, OSError, errno.EINVAL, "different parent", "choose another handle"):
        libnlplug.attach(prio.device, parent="1:2", handle="40:", netns=prio.near)


def test_a_handle_that_is_none(wire: Wire) -> None:
    """A handle with a minor number, or no handle at all: InvalidHandle, a ValueError; nothing was attached."""
    for handle in ("1:3", "1:ffff", "root", "none", "ingress", "ffff:", "0:", "x", "", "\0", "\ud800"):
        with complain(libnlplug.InvalidHandle, ValueError, None, f"handle is {handle!r}", "as '40:'"):
            libnlplug.attach(wire.device, handle=handle, netns=wire.near)
    assert wire.near.kinds(wire.device) == ["noqueue"]


def test_a_plug_that_was_deleted(wire: Wire, plug: PlugQdisc) -> None:
    """A plug that is no longer there: QdiscNotFound from every call."""
    wire.near.tc(f"qdisc del dev {wire.device} root")
    for verb in VERBS:
        with pytest.raises(libnlplug.QdiscNotFound, match=f"{wire.device}: .*attach one"):
            getattr(plug, verb)()


@pytest.mark.parametrize("other", ["handle 504c: prio", "handle 1: prio", "handle 1: plug limit 10000"])
def test_a_plug_that_was_replaced(wire: Wire, plug: PlugQdisc, other: str) -> None:
    """A plug whose place another qdisc has taken, whatever its kind or handle: QdiscNotFound, and that one stays."""
    wire.near.tc(f"qdisc del dev {wire.device} root")
    wire.near.tc(f"qdisc add dev {wire.device} root {other}")
    before = wire.near.qdiscs(wire.device)
    for verb in VERBS:
        with pytest.raises(libnlplug.QdiscNotFound, match=f"{wire.device}: .*attach one"):
            getattr(plug, verb)()
    with pytest.raises(libnlplug.QdiscNotFound):
        plug.set_limit(100_000)
    assert wire.near.qdiscs(wire.device) == before


def test_a_plug_whose_class_was_deleted(prio: Wire) -> None:
    """A plug below a qdisc that was deleted with its classes: an error that is a FileNotFoundError."""
    plug = libnlplug.attach(prio.device, parent="1:2", netns=prio.near)
    prio.near.tc(f"qdisc del dev {prio.device} root")
    for verb in ("buffer", "stats", "detach"):
        with pytest.raises(FileNotFoundError):
            getattr(plug, verb)()
    plug.close()


def test_without_the_right(wire: Wire, plug: PlugQdisc) -> None:
    """Without CAP_NET_ADMIN every change is NotPermitted, on a socket that root opened, too; nothing changes."""
    before = wire.near.qdiscs(wire.device)
    for verb in ("buffer", "release_one", "release_indefinite", "detach"):
        denied = complain(
            libnlplug.NotPermitted, PermissionError, errno.EPERM, "Operation not permitted", "CAP_NET_ADMIN"
        )
        with unprivileged(), denied:
            getattr(plug, verb)()
    assert wire.near.qdiscs(wire.device) == before
    plug.buffer()  # the right is back, and the socket works


def test_without_the_right_to_attach(wire: Wire) -> None:
    """attach() without CAP_NET_ADMIN: NotPermitted, and the device's root is as it was."""

    def attach() -> None:
        with unprivileged():
            libnlplug.attach(wire.device)

    with complain(libnlplug.NotPermitted, PermissionError, errno.EPERM, f"attach a plug to {wire.device}"):
        wire.near.run(attach)
    assert wire.near.kinds(wire.device) == ["noqueue"]


def test_one_capability_is_enough(wire: Wire) -> None:
    """CAP_NET_ADMIN alone does everything in the caller's own namespace: attach, buffer, release, detach."""

    def use() -> list[int]:
        with unprivileged(CAP_NET_ADMIN), libnlplug.attach(wire.device, limit=100_000) as plug:
            plug.buffer()
            numbers = wire.send(3)
            assert plug.stats().qlen == 3
            plug.release_indefinite()
        return numbers

    wire.expect(wire.near.run(use))
    assert wire.near.kinds(wire.device) == ["noqueue"]


def test_reading_needs_no_right(wire: Wire, plug: PlugQdisc) -> None:
    """stats() and open() work without any capability."""

    def read() -> int:
        with unprivileged(), PlugQdisc.open(wire.device) as opened:
            return opened.stats().qlen + plug.stats().qlen

    plug.buffer()
    wire.send(2)
    assert wire.near.run(read) == 4


def test_no_such_namespace() -> None:
    """A namespace that is not there: NetnsNotFound."""
    with complain(libnlplug.NetnsNotFound, FileNotFoundError, errno.ENOENT, "nosuchns: No such file", "'ip netns'"):
        libnlplug.attach("lo", netns="nosuchns")


def test_failed_calls_leak_nothing(prio: Wire) -> None:
    """A hundred refused attaches leave no descriptor behind."""
    before = descriptors()
    for device, parent in ((random_name(), "root"), (prio.device, "root"), (prio.device, "1:9")) * 33:
        with pytest.raises(libnlplug.NetlinkError):
            libnlplug.attach(device, parent=parent, netns=prio.near)
        with pytest.raises(libnlplug.NetlinkError):
            PlugQdisc.open(device, parent=parent, netns=prio.near)
    assert descriptors() == before
