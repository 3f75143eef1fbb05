# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin where nothing can be held: it costs nothing, and says once why."""

from __future__ import annotations

import pytest

from tests.support.netlab import unprivileged

pytest_plugins = ["pytester"]

USES = """
import pytest

@pytest.mark.parametrize("fixture", ["plug_net", "plug", "hold"])
def test_it(fixture, request):
    request.getfixturevalue(fixture)
"""


def the_reason(result: pytest.RunResult) -> str:
    """Why tests were skipped, which is one reason for all of them. (Whether it is one line, too, is pytest's age.)"""
    (reason,) = {line.split(": ", 1)[1] for line in result.outlines if line.startswith("SKIPPED")}
    return reason


def test_pytest_finds_the_plugin_by_itself(pytestconfig: pytest.Config) -> None:
    """Where libnlplug is installed, its fixtures are there: no conftest has to name them."""
    assert pytestconfig.pluginmanager.get_plugin("libnlplug").__name__ == "libnlplug.pytest_plugin"


def test_a_run_that_uses_no_fixture_does_not_import_the_library(pytester: pytest.Pytester) -> None:
    """pytest's start loads two small files, the package's table of names and the plugin, and not libnl."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert "libnlplug.pytest_plugin" in sys.modules
            loaded = {name for name in sys.modules if name.split(".")[0] in ("libnlplug", "_cffi_backend")}
            assert loaded == {"libnlplug", "libnlplug.pytest_plugin"}
            with open("/proc/self/maps") as maps:
                assert "libnl-" not in maps.read()
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_without_the_right_all_is_skipped_for_one_reason(pytester: pytest.Pytester) -> None:
    """A process without capabilities: every test is skipped, none fails, and all for the same reason."""
    pytester.makepyfile(USES)
    with unprivileged():
        result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=3)
    reason = the_reason(result)
    assert reason.startswith("this host cannot hold packets ('libnlplug doctor' says more): ")
    assert "CAP_SYS_ADMIN" in reason


def test_without_libnl_all_is_skipped_for_one_reason(pytester: pytest.Pytester) -> None:
    """A library that cannot be imported is a reason like any other, in the import's own words."""
    pytester.makeconftest("import sys; sys.modules['libnlplug.netlink.libnl'] = None")
    pytester.makepyfile(USES)
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=3)
    assert "import of libnlplug" in the_reason(result)
