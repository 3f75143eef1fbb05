# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs under strace: which system calls they made, and which netlink messages they sent."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from tests.support.netlab import Netns, unable

PRELUDE = """
import os, sys
import libnlplug
def mark(name):
    os.access("/mark/" + name, 0)
device = sys.argv[1]
"""
MARK = re.compile(r'"/mark/(\w+)"')
CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")


def traced(netns: Netns, script: str, device: str, tmp_path) -> dict[str, list[str]]:
    """Run a Python program under strace: the lines of strace that come after each of the program's marks."""
    output = tmp_path / "strace"
    argv = ["strace", "-f", "-o", str(output), "-v", sys.executable, "-c", PRELUDE + script, device]
    try:
        done = netns.run(subprocess.run, argv, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        unable("strace is not installed")
    if "PTRACE" in done.stderr:
        unable(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    after: dict[str, list[str]] = {"start": []}
    name = "start"
    for line in output.read_text().splitlines():
        if found := MARK.search(line):
            name = found[1]
            after[name] = []
        else:
            after[name].append(line)
    assert len(after) > 1
    return after


def counts(lines: list[str]) -> Counter[str]:
    """How often each system call was made. (Where the clock is in the vDSO, reading it is none.)"""
    made = Counter(found[1] for line in lines if (found := CALL.match(line)))
    del made["clock_gettime"]
    return made


def sent(lines: list[str]) -> list[list[str]]:
    """The types of the messages in each send."""
    names = {"0x26": "RTM_GETQDISC"}  # strace gives the number where it could not tell the socket's protocol
    found = [re.findall(r"\b(?:nlmsg_)?type=(RTM_\w+|0x26)", line) for line in lines if " sendmsg(" in line]
    return [[names.get(name, name) for name in message] for message in found]
