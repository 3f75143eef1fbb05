# SPDX-License-Identifier: GPL-2.0-or-later
"""What `import libnlplug` loads, what it says where libnl is missing, and that the version stands in one place."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import _cffi_backend
import pytest

import libnlplug
from libnlplug import _libnl

PACKAGE = Path(libnlplug.__file__).parent
BACKEND = Path(_cffi_backend.__file__).parent

# What the import may add to an interpreter that has only os and sys; the builtin ones cost nothing.
MAY_BE_LOADED = {
    "__future__",
    "_cffi_backend",
    "_thread",
    "errno",
    "time",
    "libnlplug",
    "libnlplug._libnl",
    "libnlplug._libnl.lib",
    "libnlplug.attaching",
    "libnlplug.bounds",
    "libnlplug.errors",
    "libnlplug.netlink",
    "libnlplug.netlink.libnl",
    "libnlplug.netlink.messages",
}


def python(program: str, package: Path = PACKAGE, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter without site: what the environment loads would hide what the program does."""
    start = f"import sys, os; sys.path[:0] = {[str(package.parent), str(BACKEND)]!r}; before = set(sys.modules)\n"
    argv = [sys.executable, "-I", "-S", "-B", *options, "-c", start + program]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_import_is_cheap() -> None:
    """No argparse, subprocess, typing, threading, collections, re or cffi package: nothing but what is listed here,
    neither in what -X importtime shows nor among the modules that are there afterwards."""
    program = "print('from here', file=sys.stderr); from libnlplug import attach; print(*set(sys.modules) - before)"
    done = python(program, PACKAGE, "-X", "importtime")
    assert done.returncode == 0, done.stderr
    _before, shown = done.stderr.split("from here\n")
    imported = {line.split("|")[-1].strip() for line in shown.splitlines() if line.startswith("import time:")}
    assert (imported | set(done.stdout.split())) - MAY_BE_LOADED == set()
    assert {"libnlplug", "libnlplug._libnl", "libnlplug.attaching"} <= imported


def test_everything_public_is_there() -> None:
    """Every name of __all__ can be had, dir() shows it, and a name that is not there is an AttributeError."""
    for name in libnlplug.__all__:
        assert getattr(libnlplug, name) is not None
        assert name in dir(libnlplug)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        libnlplug.nothing  # noqa: B018
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_libnl.pyi").exists()


def test_modules_that_type_checkers_see_are_there() -> None:
    """The stub imports from .errors, .plug and so on, so type checkers let a program write libnlplug.errors.PlugBusy
    after ``import libnlplug`` alone. It works."""
    stub = (PACKAGE / "__init__.pyi").read_text()
    rooms = sorted(set(re.findall(r"^from \.(\w+)", stub, re.M)))
    assert {"errors", "group", "hold", "lane", "plug"} <= set(rooms)
    for room in rooms:
        done = python(f"import libnlplug; print(libnlplug.{room}.__name__)")
        assert done.stdout == f"libnlplug.{room}\n", done.stderr


def test_the_version_stands_in_one_place() -> None:
    """The installed package's version is the module's."""
    assert importlib.metadata.version("libnlplug") == libnlplug.__version__


def copy_with(directory: Path, found: bytes, instead: bytes) -> Path:
    """A copy of the package whose compiled module asks the system for something else."""
    assert len(found) == len(instead)
    package = directory / "libnlplug"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / Path(_libnl.__file__).name
    content = module.read_bytes()
    assert found + b"\0" in content
    module.write_bytes(content.replace(found + b"\0", instead + b"\0"))
    return package


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        (b"libnl-3.so.200", b"libnl-9.so.200"),
        (b"libnl-route-3.so.200", b"libnl-route-9.so.200"),
        (b"rtnl_qdisc_plug_buffer", b"rtnl_qdisc_plug_buffex"),
        (b"nl_syserr2nlerr", b"nl_syserr2nlerx"),
    ],
)
def test_without_libnl_the_import_names_the_packages(tmp_path: Path, found: bytes, instead: bytes) -> None:
    """A library that is not there, or lacks a function: one sentence with the packages of each distribution."""
    done = python("import libnlplug; libnlplug.attach", copy_with(tmp_path, found, instead))
    assert done.returncode == 1
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("ImportError: libnlplug needs the system's libnl-3 and libnl-route-3, version ")
    assert instead.decode() in last
    assert last.endswith(
        "install libnl-3-200 and libnl-route-3-200 (Debian, Ubuntu), libnl3 (Fedora, RHEL, Alpine) or libnl (Arch)"
    )
    assert "During handling" not in done.stderr


def command_without_libnl(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command where libnl is missing."""
    package = copy_with(tmp_path, b"libnl-3.so.200", b"libnl-9.so.200")
    return python(f"sys.argv[1:] = {list(words)!r}; import libnlplug.command as c; sys.exit(c.main())", package)


VERBS_WITHOUT_LIBNL = [
    ("attach lo", 1),
    ("buffer lo", 1),
    ("release lo", 1),
    ("limit lo 10k", 1),
    ("detach lo", 1),
    ("show", 1),
    ("show --json", 1),
    ("lane show", 1),
    ("lane add lo --tcp-syn", 1),
    ("hold lo -- true", 125),
    ("hold lo --tcp-syn -- true", 125),
]


@pytest.mark.parametrize(("line", "status"), VERBS_WITHOUT_LIBNL)
def test_without_libnl_the_command_says_so(tmp_path: Path, line: str, status: int) -> None:
    """Without libnl a verb ends with one line that names the packages, and the status of a failure."""
    done = command_without_libnl(tmp_path, *line.split())
    assert (done.returncode, done.stdout) == (status, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("libnlplug: libnlplug needs the system's libnl-3 and libnl-route-3")
    assert said.endswith("or libnl (Arch)")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--help", "usage: libnlplug "),
        ("--version", f"libnlplug {libnlplug.__version__}"),
        ("help hold", "Hold while a command runs."),
        ("release --help", "Let everything go"),
        ("--man", ".SH EXIT STATUS"),
        ("--bash-completion", "complete -F _libnlplug libnlplug"),
        ("--zsh-completion", "#compdef libnlplug"),
        ("--fish-completion", "complete -c libnlplug"),
    ],
)
def test_without_libnl_the_help_is_there(tmp_path: Path, line: str, words: str) -> None:
    """What needs no libnl works without it."""
    done = command_without_libnl(tmp_path, *line.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout


def test_without_libnl_the_doctor_says_what_to_install(tmp_path: Path) -> None:
    """The doctor answers every check, says what is missing and what to install, and ends with 1."""
    from libnlplug.doctor import NAMES

    done = command_without_libnl(tmp_path, "doctor", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    checks = {one["name"]: one for one in json.loads(done.stdout)}
    assert tuple(checks) == NAMES
    assert checks["libnl"]["state"] == "failed"
    assert "libnl-9.so.200" in checks["libnl"]["detail"]
    assert "install libnl-3-200 and libnl-route-3-200 (Debian, Ubuntu)" in checks["libnl"]["advice"]
    assert checks["kernel"]["state"] == "ok"
    assert checks["sch_plug"] == {
        "name": "sch_plug",
        "state": "failed",
        "detail": "not known: libnl is needed to find out",
        "advice": "see libnl",
        "needed": True,
    }


def test_a_missing_compiled_module_is_not_blamed_on_libnl(tmp_path: Path) -> None:
    """Where the package itself is incomplete, Python's own ImportError comes out."""
    package = copy_with(tmp_path, b"libnl-3.so.200", b"libnl-3.so.200")
    (package / Path(_libnl.__file__).name).unlink()
    done = python("import libnlplug; libnlplug.attach", package)
    assert done.returncode == 1
    assert "No module named 'libnlplug._libnl'" in done.stderr
    assert "Debian" not in done.stderr


def test_a_module_that_cannot_be_loaded_is_not_blamed_on_libnl(tmp_path: Path) -> None:
    """Where the module itself cannot be loaded, the loader's own words come out, whatever its folder is called."""
    package = copy_with(tmp_path / "libnl-symbols", b"libnl-3.so.200", b"libnl-3.so.200")
    (package / Path(_libnl.__file__).name).write_bytes(b"not a library")
    done = python("import libnlplug; libnlplug.attach", package)
    assert done.returncode == 1
    assert f"ImportError: {package}" in done.stderr
    assert "Debian" not in done.stderr


def test_no_function_takes_any_arguments() -> None:
    """No bound function ends in '...': C libraries declare such functions differently (musl: ioctl(int, int, ...)), and
    gcc 14 refuses to build the module where the declaration is not the same."""
    functions = {name: one for name in dir(_libnl.lib) if callable(one := getattr(_libnl.lib, name))}
    types = {name: _libnl.ffi.typeof(one) for name, one in functions.items()}
    assert types["libnlplug_netns_of"].kind == "function"
    assert [name for name, type_ in types.items() if type_.kind == "function" and type_.ellipsis] == []


def test_libnl_cli_is_never_loaded() -> None:
    """libnl-cli, whose functions call exit(), is not in the process: only libnl-3 and libnl-route-3 are."""
    done = python(
        "import libnlplug, libnlplug.plug_qdisc\n"
        "print(*{line.split('/')[-1].split('.so')[0] for line in open('/proc/self/maps') if 'libnl-' in line})"
    )
    assert set(done.stdout.split()) == {"libnl-3", "libnl-route-3"}, done.stderr
