# SPDX-License-Identifier: GPL-2.0-or-later
"""What hold() takes and what a report shows: no kernel is asked."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import libnlplug
from libnlplug import GuardUnavailable, HoldExpired, HoldReport, PlugBusy
from libnlplug.guard.holders import Holder, Place, busy, mark_name
from libnlplug.hold import Hold


@pytest.mark.parametrize(
    "timeout", [0, -1, 0.0, -0.001, math.nan, math.inf, -math.inf, 1e9 + 1, True, False, "5", b"5", [], 1j]
)
def test_a_timeout_that_is_none_is_refused(timeout: object) -> None:
    """A timeout is seconds, more than 0 and at most 1e9: anything else is ValueError before anything is done."""
    with pytest.raises(ValueError, match="timeout is .*: it must be seconds, more than 0 and at most 1e9, or None"):
        Hold(None, timeout, "release")  # type: ignore[arg-type]


@given(st.floats(min_value=0, exclude_min=True, max_value=1e9) | st.integers(1, 10**9) | st.none())
def test_every_other_timeout_is_taken(timeout: float | None) -> None:
    """Integers and floats in the range, and None for no timeout."""
    Hold(None, timeout, "release")  # type: ignore[arg-type]


@pytest.mark.parametrize("on_death", ["", "RELEASE", "delete", "releas", None, 0, True])
def test_on_death_is_release_or_drop(on_death: object) -> None:
    """A word that is neither is ValueError: a typo must not decide what happens to the packets."""
    with pytest.raises(ValueError, match="on_death is .*: it must be 'release' or 'drop'"):
        Hold(None, None, on_death)  # type: ignore[arg-type]


def test_a_report_begins_with_nothing_known() -> None:
    """Everything is None until the block has ended; the values are also to be had as a dict, and in the repr."""
    report = HoldReport()
    names = ["packets", "bytes", "dropped", "seconds", "limit_needed", "expired"]
    assert report.as_dict() == {**dict.fromkeys(names), "expired": False}
    assert repr(report) == (
        "HoldReport(packets=None, bytes=None, dropped=None, seconds=None, limit_needed=None, expired=False)"
    )


def test_a_mark_names_the_place_of_the_plug() -> None:
    """The mark's name is made of the device's index and the parent: one for each plug of a namespace."""
    assert mark_name(7, 0xFFFFFFFF) == "libnlplug-hold/7/ffffffff"
    assert mark_name(7, 0x10004) == "libnlplug-hold/7/10004"


def holder(**changes: object) -> Holder:
    values = dict.fromkeys(Holder.__slots__, 0)
    return Holder(*{**values, "pid": 12, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "cannot hold eth0: process 12 holds it"),
        ({"detached": True}, "cannot hold eth0: process 12, a guard, holds it until .* 'libnlplug release eth0'"),
        (
            {"foreign": True, "uid": 77},
            "process 12 of uid 77 has taken the plug's mark, an abstract unix socket; end it unless it is a guard",
        ),
    ],
)
def test_a_refusal_says_who_is_in_the_way(changes: dict, words: str) -> None:
    """PlugBusy has the pid, and words for a holder, for a guard that was left behind, and for a squatter."""
    with pytest.raises(PlugBusy, match=words) as caught:
        raise busy(Place("eth0", 2, 0x504C_0000, 0xFFFFFFFF), holder(**changes))
    assert caught.value.pid == 12


def test_a_guard_at_a_class_is_ended_there() -> None:
    """The command that is advised names the class of the plug that the guard holds."""
    error = busy(Place("eth0", 2, 0x5004_0000, 0x10004), holder(detached=True))
    assert str(error).endswith("'libnlplug release eth0 --parent 1:4' ends it")


def test_the_errors_survive_a_pickle() -> None:
    """A worker process may hand them to its parent: what they say, and the pid, arrive."""
    for error in (
        PlugBusy.by("eth0", 42, "process 42 holds it"),
        HoldExpired(None, "overstayed", "hold", "eth0"),
        GuardUnavailable(11, "no process", "hold", "eth0", hint="try again"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.errno, copy.device) == (type(error), str(error), error.errno, "eth0")
        assert getattr(copy, "pid", None) == getattr(error, "pid", None)


def test_the_package_names_what_a_hold_needs() -> None:
    """HoldReport, Holder and the errors of a hold are public names of the package."""
    for name in ("HoldReport", "Holder", "PacketsDropped", "HoldExpired", "PlugBusy", "GuardUnavailable"):
        assert getattr(libnlplug, name).__name__ == name
    assert issubclass(HoldExpired, TimeoutError)
    assert issubclass(libnlplug.PacketsDropped, RuntimeWarning)
