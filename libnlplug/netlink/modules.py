# SPDX-License-Identifier: GPL-2.0-or-later
"""Load the kernel module ifb."""

from __future__ import annotations

import os

__all__ = ["load_ifb"]


def load_ifb() -> bool:
    """Load the module ifb without links of its own. The kernel itself would load it with the links ifb0 and ifb1.

    Return False if the kernel may still do that. Return True if the module is loaded, or if the kernel has no program
    to load modules.
    """
    if any(map(os.path.isdir, ("/sys/module/ifb", "/sys/class/net/ifb0"))):
        return True
    try:
        with open("/proc/sys/kernel/modprobe") as file:
            program = file.read().strip()
        if not program:
            return True
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pid = os.posix_spawn(program, [program, "-q", "ifb", "numifbs=0"], os.environ, file_actions=nothing)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False
