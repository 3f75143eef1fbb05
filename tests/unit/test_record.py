# SPDX-License-Identifier: GPL-2.0-or-later
"""Record, through PlugStats: values by name that do not change."""

from __future__ import annotations

import copy
import pickle

import pytest

from libnlplug import PlugStats


def test_read_by_name() -> None:
    """The values are attributes, and a dict in their order."""
    stats = PlugStats(1, 2, 3, 4, 5)
    assert (stats.qlen, stats.backlog, stats.drops, stats.packets, stats.bytes) == (1, 2, 3, 4, 5)
    assert list(stats.as_dict().items()) == [("qlen", 1), ("backlog", 2), ("drops", 3), ("packets", 4), ("bytes", 5)]


def test_compared_by_value() -> None:
    """Equal values make equal records with equal hashes; other values, and other things, do not."""
    assert PlugStats(1, 2, 3, 4, 5) == PlugStats(1, 2, 3, 4, 5)
    assert len({PlugStats(1, 2, 3, 4, 5), PlugStats(1, 2, 3, 4, 5), PlugStats(0, 2, 3, 4, 5)}) == 2
    assert PlugStats(1, 2, 3, 4, 5) != PlugStats(1, 2, 3, 4, 6)
    assert PlugStats(1, 2, 3, 4, 5) != (1, 2, 3, 4, 5)


def test_they_do_not_change() -> None:
    """Setting a value is an AttributeError that says why."""
    stats = PlugStats(1, 2, 3, 4, 5)
    with pytest.raises(AttributeError, match="PlugStats.qlen is read-only"):
        stats.qlen = 0
    with pytest.raises(AttributeError):
        stats.other = 0  # type: ignore[attr-defined]
    assert stats.qlen == 1


def test_shown_and_sent() -> None:
    """repr names every value; pickle and copy keep them."""
    stats = PlugStats(1, 2, 3, 4, 5)
    assert repr(stats) == "PlugStats(qlen=1, backlog=2, drops=3, packets=4, bytes=5)"
    assert pickle.loads(pickle.dumps(stats)) == copy.copy(stats) == copy.deepcopy(stats) == stats


def test_every_value_has_its_name() -> None:
    """A record with too few or too many values is a TypeError; none of its values can be deleted."""
    for count in (4, 6):
        with pytest.raises(TypeError, match=f"PlugStats has 5 values, not {count}"):
            PlugStats(*range(count))
    stats = PlugStats(1, 2, 3, 4, 5)
    with pytest.raises(AttributeError, match="PlugStats.qlen is read-only"):
        del stats.qlen
    assert stats.qlen == 1
