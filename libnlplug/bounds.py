# SPDX-License-Identifier: GPL-2.0-or-later
"""The largest arguments. The command line checks them before libnl is loaded."""

from __future__ import annotations

__all__ = ["LIMIT_MAX", "NAME_MAX", "TIMEOUT_MAX"]

LIMIT_MAX = (1 << 31) - 1  # bytes; rtnl_qdisc_plug_set_limit() takes an int
NAME_MAX = 127  # bytes of a device's alternative name: ALTIFNAMSIZ of linux/if.h, less the NUL
TIMEOUT_MAX = 1e9  # seconds, 31 years
