# SPDX-License-Identifier: GPL-2.0-or-later
"""Many devices with a plug each, for groups."""

from __future__ import annotations

import contextlib

import libnlplug
from tests.support.netlab import Netns, random_name, udp_socket


class Fleet:
    """Devices that swallow what reaches them, each with a plug, in one namespace."""

    def __init__(self, count: int) -> None:
        self.netns = Netns()
        self.devices = [random_name() for _ in range(count)]
        lines = []
        for number, device in enumerate(self.devices):
            network = f"10.{number >> 8}.{number & 255}"
            lines += [
                f"link add {device} type dummy",
                f"addr add {network}.1/24 dev {device}",
                f"link set {device} up",
                f"neigh replace {network}.2 lladdr 02:00:00:00:00:02 dev {device} nud permanent",
            ]
        self.netns.ip(*lines)
        self.plugs = self.netns.run(lambda: [libnlplug.attach(device) for device in self.devices])
        self._source = self.netns.run(udp_socket)

    def send(self, count: int) -> None:
        """Packets to every device."""
        for number in range(len(self.devices)):
            for _ in range(count):
                self._source.sendto(b"x" * 50, (f"10.{number >> 8}.{number & 255}.2", 7009))

    def waiting(self) -> list[int]:
        """How many packets wait at each device that still has a plug, as tc counts them."""
        return [self.netns.qdisc(device)["qlen"] for device in self.devices]

    def remove(self, *numbers: int) -> None:
        """Remove devices from the system; their plugs' objects do not know."""
        self.netns.ip(*(f"link del {self.devices[number]}" for number in numbers))
        for number in sorted(numbers, reverse=True):
            del self.devices[number]

    def close(self) -> None:
        for part in (self._source, *self.plugs, self.netns):
            part.close()


@contextlib.contextmanager
def fleet_of(count: int):
    made = Fleet(count)
    try:
        yield made
    finally:
        made.close()
