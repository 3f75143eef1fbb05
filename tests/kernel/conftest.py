# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests on a real kernel stand on: a kernel with sch_plug, asked once by making a plug, and wires."""

from __future__ import annotations

import functools
import gc
import subprocess
from pathlib import Path

import pytest

import libnlplug
from libnlplug import plug_qdisc
from tests.support.netlab import AUTOLOAD, Netns, Wire, eventually, need_guest, unable

TAKEN = Path("build/taken")


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
    """--part=1of3 is the first of three runs, on kernels of their own, that share the files."""
    parser.addoption("--part", metavar="NofM", help="begin with the Nth file, then take what no other run has")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each run has a file of its own, so that none has nothing to do, and begins with it."""
    if part := config.getoption("--part"):
        number, count = map(int, part.split("of"))
        first = sorted({item.path.name for item in items})[:count]
        own = first[number - 1 : number]
        for file in own:
            if not is_ours(file):
                raise pytest.UsageError(f"{TAKEN / file} is of another run; 'make test' begins without {TAKEN}")
        others = set(first) - set(own)
        items[:] = [item for item in items if item.path.name not in others]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Leave out the files that other runs have taken."""
    return True if item.config.getoption("--part") and not is_ours(item.path.name) else None


@functools.cache
def is_ours(file: str) -> bool:
    """Whether this run has taken the file, now or before: the first who makes its folder has."""
    TAKEN.mkdir(parents=True, exist_ok=True)
    try:
        (TAKEN / file).mkdir()
    except FileExistsError:
        return False
    return True


def pytest_collection_finish() -> None:
    """What a child that a test forks would look at for garbage, it would copy: in User-Mode Linux that takes long."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture
def usual_loader():
    """The program by which the test kernel loads modules; it is that again after the test."""
    found = AUTOLOAD.read_text().strip()
    yield found
    AUTOLOAD.write_text(found)


@pytest.fixture
def unloaded(netns: Netns, usual_loader: str):
    """The kernel without the module; it loads it again when it is asked for. Yields the program that loads modules."""
    need_guest("modules are taken out of the test kernel only, never out of a host's")
    if not Path("/sys/module/sch_plug").exists():
        pytest.skip("sch_plug is built into this kernel")
    plug_qdisc.qdisc_init()  # lets go of the namespace that the port's socket keeps alive

    def remove() -> bool:  # namespaces and their plugs go a moment after they were closed
        return subprocess.run(["rmmod", "sch_plug"], stderr=subprocess.DEVNULL).returncode == 0

    eventually(remove, "no plug uses the module any more", within=20)
    yield usual_loader
    subprocess.run([usual_loader, "sch_plug"], check=True)
