# SPDX-License-Identifier: GPL-2.0-or-later
"""Check: one answer of the doctor, and what can be looked at without libnl."""

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
    """One answer.

    ``name`` is what was looked at, one of NAMES. ``state`` is 'ok'; 'warning', where there is a limit to know of, or
    where it could not be tried; or 'failed'. ``detail`` says what was found, ``advice`` what to do, None where nothing
    need be done. ``needed`` tells whether holding on a device depends on it.
    """

    __slots__ = ("name", "state", "detail", "advice", "needed")
    name: str
    state: str
    detail: str
    advice: str | None
    needed: bool


def result(name: str, state: str, detail: str, advice: str | None = None) -> Check:
    """The Check of that name."""
    return Check(name, state, detail, advice, name in NEEDED)


def unknown(name: str, why: str, advice: str | None = None) -> Check:
    """Nothing was found out. Where holding depends on it, that is a failure."""
    return result(name, "failed" if name in NEEDED else "warning", f"not known: {why}", advice)


def in_own_namespace(kind: str) -> bool | None:
    """Whether this process is in another namespace than the system's first; None where that cannot be known."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino != _FIRST_NAMESPACE[kind]
    except OSError:
        return None


def text_of(path: str) -> str | None:
    """What the file says; None where it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return None
