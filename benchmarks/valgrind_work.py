# SPDX-License-Identifier: GPL-2.0-or-later
"""What is run under valgrind, on two devices, v0 and v1: the port, attach, toggles, limits, stats, a group, errors,
detach."""

from __future__ import annotations

import gc
import sys

import libnlplug
from libnlplug import plug_qdisc


def main(times: int) -> None:
    for _ in range(times):
        assert plug_qdisc.qdisc_init() == 0
        assert plug_qdisc.plug_qdisc_attach("v0", "root", "1:", 100_000) == 0
        assert plug_qdisc.plug_qdisc_plug_buffer() == plug_qdisc.plug_qdisc_release_indefinite_buffer() == 0
        with libnlplug.attach("v0") as adopted, libnlplug.attach("v1", limit=50_000) as made:
            for plug in (adopted, made):
                plug.set_limit(100_000)
                assert plug.stats().qlen == 0
            group = libnlplug.PlugGroup([adopted, made])
            group.buffer()
            group.release_indefinite()
            assert len(group.stats()) == 2
        for device in ("v1", "nothing"):
            try:
                libnlplug.PlugQdisc.open(device)
            except FileNotFoundError:
                pass
        with libnlplug.PlugQdisc.open("v0") as plug:
            for _ in range(10):
                plug.buffer()
                plug.release_one()
                plug.release_indefinite()
            plug.detach()
    del plug, adopted, made, group
    gc.collect()
    print(f"{times * (2 + 4 + 30):,} toggles, {times} times all the rest")


if __name__ == "__main__":
    main(int(sys.argv[1]))
