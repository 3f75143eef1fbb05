# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of reference.c, carried out by libnlplug.plug_qdisc: one line printed per command."""

from __future__ import annotations

import sys

from libnlplug import plug_qdisc


def toggle(times: int) -> int:
    error = 0
    for _ in range(times):
        error = plug_qdisc.plug_qdisc_plug_buffer() or plug_qdisc.plug_qdisc_release_indefinite_buffer()
        if error:
            break
    return error


def carry_out(line: str) -> int:
    command, *arguments = line.split(" ")
    if command == "init":
        return plug_qdisc.qdisc_init()
    if command == "buffer":
        return plug_qdisc.plug_qdisc_plug_buffer()
    if command == "release":
        return plug_qdisc.plug_qdisc_release_indefinite_buffer()
    if command == "toggle":
        return toggle(int(arguments[0]))
    if command == "attach":
        device, parent, handle, limit = arguments
        return plug_qdisc.plug_qdisc_attach(device, parent, None if handle == "-" else handle, int(limit))
    sys.exit(f"port_driver: no command {command!r}")


for command_line in sys.argv[1:] or sys.stdin:
    print(carry_out(command_line.rstrip("\n")), flush=True)
