# SPDX-License-Identifier: GPL-2.0-or-later
"""User-Mode Linux: a kernel that is an ordinary process, with one processor, on the host's files by hostfs."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from guest import PARAMETERS, Command, GuestFailed, Kernel

MEMORY = "768M"


def find(wanted: str | None) -> Kernel:
    """The kernel, and its modules beside it."""
    found = shutil.which(wanted or "linux.uml")
    if found:
        file = Path(found).resolve()
        return Kernel(file, file.parent.parent / "lib/uml/modules", "/dev/ttyS0", "hostfs")
    if wanted:
        raise GuestFailed(f"{wanted} is no program")
    raise GuestFailed("no linux.uml: install User-Mode Linux (apt-get install user-mode-linux kmod iproute2)")


def start_of(kernel: Path, root: Path) -> list[str]:
    """How to start a kernel: one from a root tree needs that tree's C library, in a mount namespace of its own."""
    if root == Path("/") or root not in kernel.parents:
        return [str(kernel)]
    if os.getuid() != 0:
        raise GuestFailed(f"only root can start the kernel of {root}")
    libraries = "usr/lib/x86_64-linux-gnu"
    bind = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, "sh", str(root / libraries), f"/{libraries}", str(kernel)]


def command(kernel: Kernel, job: Path, output: int, options: argparse.Namespace) -> Command:
    """The command that is the guest."""
    first = (
        "mount -t tmpfs run /run && mkdir /run/job"
        f" && {{ mount -t hostfs -o '{job}' job /run/job || mount -t hostfs -o 'hostfs={job}' job /run/job; }}"
        " && exec /bin/sh /run/job/init"
    )
    words = [
        *start_of(kernel.file, options.root),
        f"mem={options.mem >> 10}K",
        "uml_dir=./",
        "umid=guest",
        "root=/dev/root",
        "rootfstype=hostfs",
        f'rootflags="{options.root}"',
        "noreboot",
        "initcall_blacklist=raid6_select_algo",  # 0.8 s to find the fastest code for disks, of which there is none
        *PARAMETERS,
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        f"ssl0=null,fd:{output}",
        "init=/bin/sh",
        "--",
        f'-c "{first}"',
    ]
    return words, {"TMPDIR": memory_directory(options.mem)}


def memory_directory(size: int) -> str:
    """Where the guest's memory can be a file: in memory, but a container's /dev/shm may be too small for it."""
    try:
        shared = os.statvfs("/dev/shm")
        return "/dev/shm" if shared.f_bavail * shared.f_frsize >= size else tempfile.gettempdir()
    except OSError:
        return tempfile.gettempdir()
