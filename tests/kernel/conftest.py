# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests on a real kernel stand on: a kernel with sch_plug, asked once by making a plug, and wires."""

from __future__ import annotations

import functools

import pytest

import libnlplug
from tests.support.netlab import Netns, Wire, unable


@functools.cache
def why_not() -> str:
    """Why no plug can be made here; empty where one can."""
    try:
        netns = Netns()
        libnlplug.attach("lo", netns=netns).close()
        netns.close()
    except OSError as error:
        return str(error)
    return ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """--part=1of2 runs the first of two parts."""
    parser.addoption("--part", metavar="NofM", help="of M parts of the files run the Nth")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is in the other parts: every Mth file is in one."""
    if part := config.getoption("--part"):
        number, count = map(int, part.split("of"))
        files = sorted({item.path for item in items})
        items[:] = [item for item in items if files.index(item.path) % count == number - 1]


def pytest_runtest_setup() -> None:
    """Every test here needs a plug, a real one. (A hook, and no fixture: then one line tells for all.)"""
    if reason := why_not():
        unable(f"no plug can be made here, run these tests with 'make kernel-test': {reason}")


@pytest.fixture
def wire():
    """A veth pair between two namespaces, with a source and a sink of numbered packets."""
    made = Wire()
    yield made
    made.close()


@pytest.fixture
def plug(wire: Wire):
    """A plug at the root of the wire's device."""
    made = libnlplug.attach(wire.device, netns=wire.near)
    yield made
    made.close()
