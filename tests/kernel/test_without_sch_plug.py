# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel without sch_plug: the module is taken out of the running test kernel, and put back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import libnlplug
from libnlplug import plug_qdisc
from tests.support.netlab import AUTOLOAD, Netns

MODULE = Path("/sys/module/sch_plug")


def test_a_kernel_without_sch_plug(netns: Netns, unloaded: str, capfd: pytest.CaptureFixture[str]) -> None:
    """PlugUnavailable, in a sentence that names the module and what to do; the port says the same; nothing changes."""
    AUTOLOAD.write_text("\n")
    with pytest.raises(libnlplug.PlugUnavailable) as caught:
        libnlplug.attach("lo", netns=netns)
    message = str(caught.value)
    sentence = r"cannot attach a plug to lo: Specified qdisc (kind is unknown|not found) \(No such file or directory\)"
    words = re.match(sentence, message)  # Linux 5.10 says the second
    assert words
    assert "modprobe sch_plug" in message
    assert "CONFIG_NET_SCH_PLUG" in message
    assert not isinstance(caught.value, FileNotFoundError)

    def port() -> int:
        assert plug_qdisc.qdisc_init() == 0
        return plug_qdisc.plug_qdisc_attach("lo", "root", "1:", 1000)

    assert netns.run(port) == -1
    assert words[1] in capfd.readouterr().err
    assert "plug" not in netns.kinds("lo")


def test_the_kernel_loads_the_module_by_itself(netns: Netns, unloaded: str) -> None:
    """Where the module is only not loaded, attach() has the kernel load it: there is nothing to do first."""
    assert not MODULE.exists()
    with libnlplug.attach("lo", netns=netns) as plug:
        assert plug.created
    assert MODULE.exists()
