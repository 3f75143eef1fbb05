#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""haproxy 3.0 and nginx of Debian 13, with every library that they need: unpacked into build/trixie, not installed.

    engines.py          fetch them by apt-get, once; does nothing where they are there

They are started by their own dynamic linker, so this host's libraries do not matter. apt-get works on lists of its own:
this host's lists and packages stay as they are.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[2] / "build/trixie"
PACKAGES = ("haproxy", "nginx")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NotFetched(Exception):
    """Debian's packages could not be had."""


def is_there() -> bool:
    """Whether the programs are unpacked."""
    return TREE.exists()


def program(name: str) -> list[str]:
    """The words that start the program."""
    (linker,) = (TREE / "usr/lib").glob("*-linux-gnu*/ld-linux-*.so.*")
    return [str(linker), "--library-path", str(linker.parent), str(TREE / "usr/sbin" / name)]


def fetch() -> None:
    """Unpack the packages and all that they depend on."""
    if not shutil.which("apt-get"):
        raise NotFetched("no apt-get here: haproxy 3.0 and nginx are Debian's")
    TREE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TREE.parent) as name:
        place = Path(name)
        for directory in ("lists/partial", "archives/partial", "tree"):
            (place / directory).mkdir(parents=True)
        (place / "status").touch()
        (place / "sources.list").write_text(source())
        apt = ["apt-get", "-qq", *options(place)]
        run(*apt, "update")
        run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
        for package in sorted((place / "archives").glob("*.deb")):
            run("dpkg", "-x", str(package), str(place / "tree"))
        (place / "tree").rename(TREE)


def source() -> str:
    """Where this host's apt gets Debian from, for Debian 13."""
    shown = run("apt-get", "indextargets", "--format", "$(REPO_URI)")
    found = re.search(r"^\S+/debian/?$", shown, re.MULTILINE)
    if not found:
        raise NotFetched("this host's apt gets nothing from Debian: haproxy 3.0 and nginx are Debian's")
    signed = f"[signed-by={KEYS}] " if Path(KEYS).exists() else ""
    return f"deb {signed}{found[0]} trixie main\n"


def options(place: Path) -> list[str]:
    """apt-get's options for lists of its own, of a system that has nothing installed."""
    settings = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": place,
        "Dir::State::status": place / "status",
        "Dir::Cache": place,
        "APT::Sandbox::User": "root",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def run(*words: str) -> str:
    """What a command prints; NotFetched with its last line where it fails."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or str(done.returncode)).splitlines()[-1]
        raise NotFetched(f"{words[0]}: {last}")
    return done.stdout


if __name__ == "__main__":
    try:
        if not is_there():
            fetch()
    except NotFetched as failure:
        sys.exit(str(failure))
