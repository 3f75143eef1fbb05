# SPDX-License-Identifier: GPL-2.0-or-later
"""NetlinkError and its family: what each refusal becomes, which builtin it is too, what its sentence says."""

from __future__ import annotations

import copy
import errno
import pickle
import struct

import pytest

import libnlplug
from libnlplug.errors import NetlinkError
from libnlplug.netlink.libnl import check, lib
from libnlplug.netlink.refusals import refusal_in, unanswered
from tests.support.replies import ATTR_MSG, attribute, message

# errno, the kernel's sentence, the class, the builtin it is too, words of the advice
REFUSALS = [
    (errno.EPERM, None, libnlplug.NotPermitted, PermissionError, "CAP_NET_ADMIN"),
    (errno.ENOENT, "Specified qdisc kind is unknown.", libnlplug.PlugUnavailable, OSError, "modprobe sch_plug"),
    (errno.ENOENT, "Specified qdisc not found", libnlplug.PlugUnavailable, OSError, "modprobe sch_plug"),
    (
        errno.ENOENT,
        "Qdisc not found. To create specify NLM_F_CREATE flag",
        libnlplug.QdiscNotFound,
        FileNotFoundError,
        "attach",
    ),
    (errno.ENOENT, None, libnlplug.QdiscNotFound, FileNotFoundError, "attach"),
    (errno.ENOENT, "Failed to find specified qdisc", libnlplug.ParentNotFound, FileNotFoundError, "tc qdisc show"),
    (errno.ENOENT, "Specified class not found", libnlplug.ClassNotFound, FileNotFoundError, "tc class show"),
    (errno.EOPNOTSUPP, "Parent qdisc is not classful", libnlplug.ParentNotClassful, OSError, "prio or htb"),
    (errno.ENODEV, None, libnlplug.DeviceNotFound, FileNotFoundError, "ip link"),
    (errno.EEXIST, "Exclusivity flag on, cannot modify", libnlplug.QdiscExists, FileExistsError, "delete it first"),
    (errno.EEXIST, None, libnlplug.QdiscExists, FileExistsError, "not replaced"),
    (errno.EINVAL, "Cannot move an existing qdisc to a different parent", libnlplug.HandleInUse, OSError, "another"),
    (errno.EINVAL, "Invalid minor handle", libnlplug.InvalidHandle, ValueError, "'40:'"),
    (errno.EINVAL, "Invalid handle", libnlplug.QdiscNotFound, FileNotFoundError, "attach"),
    (errno.EINVAL, "Invalid qdisc name", libnlplug.QdiscNotFound, FileNotFoundError, "attach"),
]


@pytest.mark.parametrize(("number", "sentence", "kind", "builtin", "advice"), REFUSALS)
def test_each_refusal_is_its_own_class(
    number: int, sentence: str | None, kind: type[NetlinkError], builtin: type[Exception], advice: str
) -> None:
    """Errno and sentence decide the class; the message says what failed, on what, why in the kernel's words, and what
    to do; and one can catch it as NetlinkError, as OSError and as the builtin that fits."""
    attributes = attribute(ATTR_MSG, sentence.encode() + b"\0") if sentence else b""
    error = refusal_in(message(number, attributes), "attach a plug to", "eth0")
    assert type(error) is kind
    assert isinstance(error, (NetlinkError, OSError))
    assert isinstance(error, builtin)
    assert (error.errno, error.device, error.operation) == (number, "eth0", "attach a plug to")
    assert error.code == -lib.nl_syserr2nlerr(number)
    assert error.ext_ack == sentence
    assert str(error).startswith("cannot attach a plug to eth0: ")
    assert (sentence or "").rstrip(".") in str(error)
    assert error.hint is not None
    assert advice in error.hint
    assert str(error).endswith(f"; {error.hint}")
    assert "\n" not in str(error)


def test_an_unknown_refusal_is_the_base_class() -> None:
    """What is in no list is NetlinkError with the kernel's errno and sentence, and no advice."""
    error = refusal_in(message(errno.EINVAL, attribute(ATTR_MSG, b"Something new\0")), "buffer on", "eth0")
    assert type(error) is NetlinkError
    assert str(error) == "cannot buffer on eth0: Something new (Invalid argument)"
    assert (error.errno, error.hint) == (errno.EINVAL, None)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EEXIST, errno.EOPNOTSUPP])
def test_a_request_about_a_link_gets_no_advice_about_plugs(code: int) -> None:
    """The advice to attach a plug, or to choose another parent, is for requests about qdiscs."""
    about_link = struct.pack("=H", lib.RTM_NEWLINK)
    reply = bytearray(message(code))
    reply[24:26] = about_link  # the type in the request's header
    assert refusal_in(bytes(reply), "make the ifb", "ifb9").hint is None
    assert refusal_in(message(code), "buffer on", "eth0").hint


def test_no_answer_has_no_errno() -> None:
    """Where the kernel did not answer, errno is None: libnl's code alone would be a guess."""
    lost = unanswered(errno.ENOBUFS, "release", "eth0")
    for error in (lost, refusal_in(b"", "release", "eth0"), refusal_in(b"short", "release", "eth0")):
        assert type(error) is NetlinkError
        assert error.errno is None
        assert "answer did not arrive" in str(error)


def test_check_passes_every_success() -> None:
    """Zero and positive codes are successes (libnl has functions that return positive ones), negative ones raise."""
    assert [check(code, "x") for code in (0, 10)] == [0, 10]
    with pytest.raises(NetlinkError):
        check(-1, "x")


PUBLIC = [getattr(libnlplug, name) for name in libnlplug.__all__]
FAMILY = [kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, NetlinkError)]


@pytest.mark.parametrize("kind", FAMILY)
def test_every_class_pickles_and_copies(kind: type[NetlinkError]) -> None:
    """An error survives a process boundary with all that it says."""
    error = kind(errno.EPERM, "a sentence", "hold", "eth0", -28, "the kernel's", "a hint")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        for name in ("operation", "device", "code", "ext_ack", "hint"):
            assert getattr(again, name) == getattr(error, name)
        assert (again.errno, str(again), again.args) == (error.errno, "a sentence", error.args)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_class_says_what_it_means(kind: type[NetlinkError]) -> None:
    """Every class of the family is public and has a docstring of its own."""
    assert kind.__name__ in libnlplug.__all__
    assert kind.__doc__ != NetlinkError.__doc__ or kind is NetlinkError
    assert len(kind.__doc__ or "") > 20


def test_no_class_hides_another() -> None:
    """No class of the family but the base catches another one: each can be caught alone."""
    assert len(FAMILY) >= 16
    for kind in FAMILY:
        assert [other for other in FAMILY if issubclass(other, kind)] in ([kind], FAMILY)
