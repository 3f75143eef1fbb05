# SPDX-License-Identifier: GPL-2.0-or-later
"""Check: one result of the doctor, and helpers that need no libnl."""

from __future__ import annotations

import os

from ..record import Record

__all__ = ["LANE", "NAMES", "NEEDED", "Check", "in_own_namespace", "result", "text_of", "unknown"]

LANE = ("ifb", "sch_ingress", "cls_flower", "act_mirred")
NEEDED = ("libnl", "functions", "kernel", "CAP_NET_ADMIN", "sch_plug", "guard")
NAMES = (*NEEDED, "netns", "oom", "cgroup", "pid-namespace", "orphans", *LANE)

# The inodes of the namespaces that the system booted with (include/linux/proc_ns.h, the same since Linux 3.8).
_FIRST_NAMESPACE = {"pid": 0xEFFFFFFC, "cgroup": 0xEFFFFFFB}


class Check(Record):
    """One result.

    ``name`` is what was checked, one of NAMES. ``state`` is 'ok', 'failed', or 'warning': holding has a limit on
    this host, or the check could not run. ``detail`` says what was found. ``advice`` says what to do, or is None.
    ``needed`` is True if holding on a device depends on it.
    """

    __slots__ = ("name", "state", "detail", "advice", "needed")
    name: str
    state: str
    detail: str
    advice: str | None
    needed: bool


def result(name: str, state: str, detail: str, advice: str | None = None) -> Check:
    """Return the Check of that name."""
    return Check(name, state, detail, advice, name in NEEDED)


def unknown(name: str, why: str, advice: str | None = None) -> Check:
    """Return the Check for what could not be found out: failed if holding needs it, otherwise a warning."""
    return result(name, "failed" if name in NEEDED else "warning", f"not known: {why}", advice)


def in_own_namespace(kind: str) -> bool | None:
    """Return whether this process is in another namespace than the system's first, or None if that is unknown."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino != _FIRST_NAMESPACE[kind]
    except OSError:
        return None


def text_of(path: str) -> str | None:
    """Return the file's text, or None if it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return None
