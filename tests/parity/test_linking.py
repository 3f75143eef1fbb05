# SPDX-License-Identifier: GPL-2.0-or-later
"""Which libraries the compiled module is bound to: the system's libnl, and nothing of libnl-cli."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libnlplug import _libnl
from tests.support.parity import FUNCTIONS, cannot, functions, in_namespace

MODULE = Path(_libnl.__file__)


def bindings(command: list[str], directory: Path, **environment: str) -> dict[str, dict[str, set[str]]]:
    """What the dynamic linker bound while ``command`` ran: by file, by symbol, the files it was found in."""
    subprocess.run(
        command,
        env={**os.environ, "LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(directory / "bound"), **environment},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    text = "".join(file.read_text() for file in directory.glob("bound.*"))
    found: dict[str, dict[str, set[str]]] = {}
    for source, target, symbol in re.findall(
        r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: normal symbol `(\w+)'", text
    ):
        found.setdefault(os.path.realpath(source), {}).setdefault(symbol, set()).add(os.path.realpath(target))
    return found


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The files that the compiled module's symbols were found in."""
    found = bindings([sys.executable, "-c", "import libnlplug.plug"], tmp_path_factory.mktemp("module"))
    return found[os.path.realpath(MODULE)]


def test_same_library_files_as_the_c(reference: Path, module: dict[str, set[str]], tmp_path: Path) -> None:
    """Every symbol that the module and the C program have in common comes from the same library file in both."""
    c = bindings([str(reference)], tmp_path, LD_BIND_NOW="1")[os.path.realpath(reference)]
    common = {name for name in functions(FUNCTIONS.read_text()) if name in c}
    assert {"rtnl_qdisc_plug_buffer", "rtnl_tc_set_kind", "nl_geterror"} <= common
    assert {name: module[name] for name in common} == {name: c[name] for name in common}


def test_every_function_comes_from_libnl(module: dict[str, set[str]]) -> None:
    """Each vendored function is bound to libnl-3 or libnl-route-3 when the module is loaded."""
    names = functions(FUNCTIONS.read_text())
    strangers = {
        name: module.get(name)
        for name in names
        if not all(re.match(r"libnl-(route-)?3\.so\.200", Path(file).name) for file in module.get(name, ["none"]))
    }
    assert not strangers


def test_needed_libraries() -> None:
    """The module asks for exactly libnl-route-3, libnl-3 and libc."""
    if shutil.which("readelf") is None:
        cannot("readelf is missing")
    read = subprocess.run(["readelf", "-d", MODULE], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", read)
    assert sorted(needed) == ["libc.so.6", "libnl-3.so.200", "libnl-route-3.so.200"]


def test_libnl_cli_is_never_loaded() -> None:
    """Neither importing nor using the package loads another library of libnl's than libnl-3 and libnl-route-3."""
    use = """
import libnlplug
from libnlplug.plug_qdisc import *
plug_qdisc_attach("lo", "root", "no such id", 1000)
plug_qdisc_attach("lo", "root", "1:", 1000)
plug_qdisc_plug_buffer()
plug_qdisc_release_indefinite_buffer()
try:
    libnlplug.attach("lo", handle="1:").detach()
except OSError:
    pass
print(open("/proc/self/maps").read())
"""
    done = subprocess.run(in_namespace(sys.executable, "-c", use), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"/(libnl-[\w-]+)\.so", done.stdout)) == {"libnl-3", "libnl-route-3"}
