# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of Debian's releases, and commands on their own kernels: what the matrix stands on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "matrix"
LONGEST = 3000  # seconds for the tests of one row
BUILDER = ("make", "git")
CERTIFICATES = "root/certificates"
# In namespaces of its own: what is mounted, and what still runs, goes with the command.
ENTER = """
mount --bind "$1" "$1" && mount -t proc proc "$1/proc" || exit 1
mount --rbind /sys "$1/sys" && mount --rbind /dev "$1/dev" || exit 1
exec chroot "$@"
"""
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


class Failed(Exception):
    """A row of the matrix cannot be made; the reason in one line."""


def make_tree(name: str, tree: Path, packages: tuple[str, ...]) -> None:
    """debootstrap, unless the tree is there with the same packages."""
    stamp = tree / "stamp"
    wanted = " ".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not shutil.which("debootstrap"):
        raise Failed("no debootstrap here: apt-get install debootstrap")
    shutil.rmtree(tree, ignore_errors=True)
    mirror = debian_mirror()
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", name, tree, *mirror]
    print(f"    building {tree}", flush=True)
    run(command, timeout=1800)
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    stamp.write_text(wanted)


def debian_mirror() -> list[str]:
    """Where this host's apt gets Debian from; where it gets something else, debootstrap knows a place itself."""
    if not shutil.which("apt-get"):
        return []
    shown = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"])
    return [line for line in shown.splitlines() if re.search(r"/debian/?$", line)][:1]


def in_guest(
    command: list[object], job: Path, log: IO[str] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line of tools/testkernel/run in the directory."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **more}
    environment |= {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    words = list(map(str, command))
    out = {"stdout": log, "stderr": log} if log else {"capture_output": True, "text": True, "errors": "replace"}
    run = {"cwd": job, "env": environment, **out}
    return subprocess.run(words, timeout=LONGEST + 60, **run)  # type: ignore[call-overload,no-any-return]


def run(command: list[object], timeout: float = 600, **options: object) -> str:
    """What the command prints; Failed with its last line."""
    words = list(map(str, command))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]}: not within {timeout:.0f} s") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise Failed(f"{' '.join(words[:4])}...: {lines[-1] if lines else done.returncode}")
    return str(done.stdout)


def inside(tree: Path, *words: str) -> str:
    """What a command prints that runs in the tree."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", str(tree), *words]
    kept = {one: os.environ[one] for one in ("http_proxy", "https_proxy") if one in os.environ}
    if "PIP_CERT" in os.environ:  # what this host trusts: it may reach the network through a proxy
        shutil.copy(os.environ["PIP_CERT"], tree / CERTIFICATES)
        kept["PIP_CERT"] = f"/{CERTIFICATES}"
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, env={**ENVIRONMENT, **kept}, text=True, **streams)
    if done.returncode:
        raise Failed(f"{' '.join(words[:4])}: status {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def build(name: str) -> list[Path]:
    """The packages, built in a tree of the release from the files that git knows."""
    tree = BUILD / f"{name}-build"
    make_tree(name, tree, BUILDER)
    place = tree / "root/libnlplug"
    copy_project(place)
    print(inside(tree, "make", "-C", "/root/libnlplug", "deb"), end="", flush=True)
    return sorted(deb for deb in (place / "dist").glob("*.deb") if "-dbgsym" not in deb.name)


def copy_project(place: Path) -> None:
    """The files that git knows, as they are now."""
    shutil.rmtree(place, ignore_errors=True)
    listed = run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT)
    for file in filter(None, listed.split("\0")):
        if (ROOT / file).exists():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, place / file)
