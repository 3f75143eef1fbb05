# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: hypothesis's settings, and a network namespace for each test that asks for one."""

from __future__ import annotations

import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests.support.netlab import Netns, unable

# A fixture is shared by the examples of a property on purpose: making a namespace for each would take minutes.
settings.register_profile(
    "libnlplug",
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("libnlplug")

# What runs in the background of a script has Ctrl-C's signal ignored, and would hand that on to what is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """pytest.exit() with status 0 is no success, in a test or a fixture: the tests after it did not run."""
    if getattr(excinfo.value, "returncode", None) == 0:
        sys.exit(f"the run was ended with status 0 before its last test: {excinfo.value}")


@pytest.fixture
def netns():
    """A network namespace of the test's own."""
    try:
        made = Netns.take()
    except PermissionError:
        unable("no right to make a network namespace: run as root, or under 'unshare --map-root-user --net'")
    yield made
    made.give_back()
