# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel: what is in it and what is not, for whom it is, and that the sdist alone is enough to make it.

It is made once, as `make wheel` makes it; LIBNLPLUG_WHEEL names another one to look at.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path

import pytest

import libnlplug
from tests.support.netlab import unable

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "build" / "matrix" / "wheels"  # where `make matrix` keeps those of other projects
INFO = f"libnlplug-{libnlplug.__version__}.dist-info/"
MODULE, GUARD = "libnlplug/_libnl.abi3.so", "libnlplug/guard/libnlplug-guard"

DATA = f"libnlplug-{libnlplug.__version__}.data/data/"
PRINTED = {
    "share/man/man8/libnlplug.8": "--man",
    "share/bash-completion/completions/libnlplug": "--bash-completion",
    "share/zsh/site-functions/_libnlplug": "--zsh-completion",
    "share/fish/vendor_completions.d/libnlplug.fish": "--fish-completion",
}

NAMES = {
    "libnlplug/__init__.py",
    "libnlplug/__init__.pyi",
    "libnlplug/__main__.py",
    "libnlplug/_libnl.pyi",
    "libnlplug/_version.py",
    "libnlplug/async_with.py",
    "libnlplug/bounds.py",
    "libnlplug/command/__init__.py",
    "libnlplug/command/advice.py",
    "libnlplug/command/child.py",
    "libnlplug/command/completion.py",
    "libnlplug/command/hold.py",
    "libnlplug/command/lane.py",
    "libnlplug/command/manual.py",
    "libnlplug/command/output.py",
    "libnlplug/command/parser.py",
    "libnlplug/command/plugs.py",
    "libnlplug/command/show.py",
    "libnlplug/command/table.py",
    "libnlplug/command/units.py",
    "libnlplug/command/verbs.py",
    "libnlplug/command/watch.py",
    "libnlplug/doctor/__init__.py",
    "libnlplug/doctor/check.py",
    "libnlplug/doctor/child.py",
    "libnlplug/doctor/probe.py",
    "libnlplug/errors.py",
    "libnlplug/group.py",
    "libnlplug/guard/__init__.py",
    "libnlplug/guard/client.py",
    "libnlplug/guard/holders.py",
    "libnlplug/guard/start.py",
    "libnlplug/hold.py",
    "libnlplug/lane/__init__.py",
    "libnlplug/lane/create.py",
    "libnlplug/lane/filters.py",
    "libnlplug/lane/hold.py",
    "libnlplug/lane/hook.py",
    "libnlplug/lane/ifb.py",
    "libnlplug/lane/inventory.py",
    "libnlplug/lane/lane.py",
    "libnlplug/lane/listeners.py",
    "libnlplug/lane/lock.py",
    "libnlplug/lane/match.py",
    "libnlplug/lane/neighbours.py",
    "libnlplug/lane/remove.py",
    "libnlplug/netlink/__init__.py",
    "libnlplug/netlink/attributes.py",
    "libnlplug/netlink/devices.py",
    "libnlplug/netlink/libnl.py",
    "libnlplug/netlink/messages.py",
    "libnlplug/netlink/modules.py",
    "libnlplug/netlink/netns.py",
    "libnlplug/netlink/parents.py",
    "libnlplug/netlink/refusals.py",
    "libnlplug/netlink/route_socket.py",
    "libnlplug/attaching.py",
    "libnlplug/plug.py",
    "libnlplug/plug_qdisc.py",
    "libnlplug/py.typed",
    "libnlplug/pytest_plugin.py",
    "libnlplug/record.py",
    MODULE,
    GUARD,
    *(DATA + name for name in PRINTED),
    f"libnlplug-{libnlplug.__version__}.data/scripts/libnlplug",
    INFO + "METADATA",
    INFO + "RECORD",
    INFO + "WHEEL",
    INFO + "entry_points.txt",
    INFO + "licenses/LICENSE",
    INFO + "top_level.txt",
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    lacking = [name for name in ("build", "auditwheel", "cffi", "setuptools") if not has_module(name)]
    lacking += [tool for tool in ("patchelf", "gcc", "strip") if not shutil.which(tool, path=path)]
    if lacking:
        unable(f"no wheel can be made without {', '.join(lacking)}: run 'make unit', or name one in LIBNLPLUG_WHEEL")
    directory = tmp_path_factory.mktemp("dist")
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["tools/wheel", str(directory)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture(scope="session")
def wheel(request: pytest.FixtureRequest) -> Path:
    """The wheel."""
    if "LIBNLPLUG_WHEEL" in os.environ:
        return Path(os.environ["LIBNLPLUG_WHEEL"])
    (path,) = request.getfixturevalue("made").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def content(wheel: Path) -> zipfile.ZipFile:
    """The wheel, opened."""
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which pip installed the wheel, from the file alone."""
    if not has_module("pip"):
        unable("no pip here")
    directory = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        directory,
        wheel,
    ]
    subprocess.run(command, check=True, timeout=120)
    return directory


def readelf(option: str, file: Path) -> str:
    """What readelf shows of a file."""
    if not shutil.which("readelf"):
        unable("no readelf here: install binutils")
    return subprocess.run(["readelf", "-W", option, file], capture_output=True, text=True, check=True).stdout


def test_what_is_in_the_wheel(content: zipfile.ZipFile) -> None:
    """The wheel holds the package's modules, the compiled one, the guard and its own papers, and nothing else."""
    names = {name for name in content.namelist() if not name.endswith("/")}
    assert names == NAMES


def test_the_record_is_right(content: zipfile.ZipFile) -> None:
    """RECORD lists every file of the wheel with its size and its hash."""
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(content.read(INFO + "RECORD").decode()))}
    assert set(rows) == NAMES
    assert rows.pop(INFO + "RECORD") == ["", ""]
    for name, (digest, size) in rows.items():
        data = content.read(name)
        assert int(size) == len(data)
        assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def test_one_wheel_for_every_python(wheel: Path, content: zipfile.ZipFile) -> None:
    """It is for the stable ABI of Python 3.9 and later, in its name as in its papers."""
    papers = HeaderParser().parsestr(content.read(INFO + "WHEEL").decode())
    tags = set(papers.get_all("Tag"))
    version, abi, platforms = wheel.stem.split("-")[2:]
    assert (version, abi) == ("cp39", "abi3")
    assert tags == {f"cp39-abi3-{one}" for one in platforms.split(".")}
    assert papers["Root-Is-Purelib"] == "false"


def test_the_lowest_true_manylinux_tag(wheel: Path) -> None:
    """glibc 2.17 is enough, whichever it was built with; no system with a libnl that is new enough has an older one."""
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64") or platform.libc_ver()[0] != "glibc":
        pytest.skip("the tag is another one here")
    assert set(wheel.stem.split("-")[4].split(".")) == {f"manylinux_2_17_{machine}", f"manylinux2014_{machine}"}


def test_what_the_papers_say(content: zipfile.ZipFile) -> None:
    """It asks for Python 3.9 and for cffi, nothing else, and brings the command and the plugin for pytest."""
    papers = HeaderParser().parsestr(content.read(INFO + "METADATA").decode())
    assert papers["Version"] == libnlplug.__version__
    assert papers["Requires-Python"] == ">=3.9"
    assert papers["License-Expression"] == "GPL-2.0-or-later"
    required = [line for line in papers.get_all("Requires-Dist") if "extra ==" not in line]
    assert [re.match(r"[\w-]+", line).group() for line in required] == ["cffi"]
    points = ConfigParser()
    points.read_string(content.read(INFO + "entry_points.txt").decode())
    assert {kind: dict(points[kind]) for kind in points.sections()} == {
        "pytest11": {"libnlplug": "libnlplug.pytest_plugin"},
    }


def test_the_command_does_not_load_re(unpacked: Path) -> None:
    """pip installs the command as it is: no launcher that imports re, which would cost more than most verbs do."""
    script = str(unpacked / "bin" / "libnlplug")
    program = (
        "import sys; sys.argv[1:] = ['--version']\n"
        f"try: exec(open({script!r}).read())\n"
        "except SystemExit as end: print(end.code, 're' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run([sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == f"libnlplug {libnlplug.__version__}\n0 False\n", done.stderr


def test_the_manual_page_and_the_completions(unpacked: Path) -> None:
    """pip puts them under share/, where man and the shells look for them, as the command prints them."""
    for name, option in PRINTED.items():
        argv = [sys.executable, "-m", "libnlplug", option]
        assert (unpacked / name).read_text() == subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_description_links_to_nothing_that_an_index_lacks(content: zipfile.ZipFile) -> None:
    """A package index shows the README without its files: each relative link has become the name of a file of the
    project."""
    papers = HeaderParser().parsestr(content.read(INFO + "METADATA").decode())
    assert papers["Description-Content-Type"] == "text/markdown"
    text = str(papers.get_payload())
    assert re.findall(r"\]\((?!https?:)", text) == []
    named = re.findall(r"\(`([\w./-]+)`\)", text)
    assert "docs/tutorial.md" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_classifiers_name_the_pythons_that_are_tested(content: zipfile.ZipFile) -> None:
    """One for each version in the table of tests/matrix, from 3.9 on, and no URL that nobody has."""
    papers = HeaderParser().parsestr(content.read(INFO + "METADATA").decode())
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(papers.get_all("Classifier")))
    table = (ROOT / "tests" / "matrix" / "README.md").read_text()
    tried = {line.split("|")[4].strip().rpartition(".")[0] for line in table.splitlines() if re.match(r"\| .*\d", line)}
    assert tried == set(named)
    assert papers["Home-page"] is None
    assert papers["Project-URL"] is None


def test_an_editable_install_is_a_path(made: Path, tmp_path: Path) -> None:
    """pip install --editable adds the clone to sys.path: type checkers see the package, and a folder named libnlplug
    beside the program, the clone itself, does not hide it."""
    tree = tmp_path / "libnlplug"
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    next(tmp_path.glob("libnlplug-*")).rename(tree)
    program = "from setuptools import build_meta; print(build_meta.build_editable('..'))"
    subprocess.run([sys.executable, "-c", program], cwd=tree, check=True, capture_output=True, timeout=300)
    (path,) = tmp_path.glob("*.whl")
    editable = zipfile.ZipFile(path)
    lines = [editable.read(name).decode().strip() for name in editable.namelist() if name.endswith(".pth")]
    assert lines == [str(tree)]
    program = f"import sys; sys.path += {lines!r}; import libnlplug; print(libnlplug.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(tree / "libnlplug" / "__init__.py"), done.stderr


PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
CHECKERS = ["mypy", *filter(lambda name: shutil.which(name, path=PROGRAMS), ["pyright"])]


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_see_an_editable_install(made: Path, tmp_path: Path, checker: str) -> None:
    """In the clone's parent folder, for a virtual environment with the clone's path: a right program has no error, and
    a wrong argument is one."""
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    next(tmp_path.glob("libnlplug-*")).rename(tmp_path / "libnlplug")
    venv.create(tmp_path / "venv")
    (packages,) = tmp_path.glob("venv/lib/python*/site-packages")
    (packages / "libnlplug.pth").write_text(f"{tmp_path / 'libnlplug'}\n")
    python = tmp_path / "venv" / "bin" / "python"
    words = [checker, "--python-executable" if checker == "mypy" else "--pythonpath", str(python)]
    environment = {**os.environ, "PATH": PROGRAMS}
    for limit, status in (("1 << 20", 0), ("'1mb'", 1)):
        (tmp_path / "program.py").write_text(f"import libnlplug\n\nlibnlplug.attach('lo', limit={limit}).buffer()\n")
        done = subprocess.run([*words, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        assert ("program.py:3" in done.stdout) == bool(status), done.stdout


def test_the_host_s_libnl_is_used(unpacked: Path) -> None:
    """The module asks for libnl by its soname, wherever the host keeps it: no copy, no path of another machine."""
    shown = readelf("-d", unpacked / MODULE)
    assert {"libnl-3.so.200", "libnl-route-3.so.200"} <= set(re.findall(r"\(NEEDED\).*\[(.*)\]", shown))
    assert not re.findall(r"\((?:RPATH|RUNPATH)\).*", shown)
    assert "BIND_NOW" in shown


def test_the_guard_can_be_run(unpacked: Path) -> None:
    """As pip installs it the guard is executable by everyone, and needs no library of the host."""
    guard = unpacked / GUARD
    assert guard.stat().st_mode & 0o555 == 0o555
    assert "INTERP" not in readelf("-l", guard)
    done = subprocess.run([guard], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=10)
    assert done.returncode == 1  # nobody holds who would speak to it


def test_the_sdist_is_complete(made: Path) -> None:
    """The sdist holds every file of the project but those of its hosting; the wheel was made from it alone."""
    (path,) = made.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "build_ffi.py",
        "setup.py",
        "libnlplug/guard/guard.c",
        "libnlplug/guard/namespace.c",
        "vendor_headers/libnl_functions.h",
        "Makefile",
    } <= names
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git tree: the project's files cannot be listed")
    shown = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in shown.splitlines() if (ROOT / name).exists()}
    assert {name for name in tracked - names if not name.startswith((".ci/", ".git"))} == set()
    assert not [name for name in names if name.endswith((".so", ".pyc", "libnlplug-guard", "_libnl.c"))]


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_an_installed_python_imports_it(unpacked: Path, version: str, tmp_path: Path) -> None:
    """The same file is imported by this Python, and its port, its guard and its command are there."""
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"no Python {version} is installed here")
    for cffi in cffi_wheels(version, tmp_path):
        zipfile.ZipFile(cffi).extractall(tmp_path)
    program = (
        f"import sys; sys.path[:0] = {[str(unpacked), str(tmp_path)]!r}\n"
        "import libnlplug.plug_qdisc, libnlplug.command.verbs, libnlplug.guard.client, os, _cffi_backend\n"
        "guard = os.path.isfile(libnlplug.guard.client.PATH)\n"
        "print(sys.version_info[:2], libnlplug.__version__, libnlplug.__file__, guard)"
    )
    done = subprocess.run([interpreter, "-I", "-S", "-B", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = tuple(map(int, version.split(".")))
    assert done.stdout.strip() == f"{shown} {libnlplug.__version__} {unpacked}/libnlplug/__init__.py True"


def find_python(version: str) -> str | None:
    """An interpreter of this version: on PATH, or one of pyenv's."""
    places = [f"{place}/bin" for place in sorted(Path.home().glob(f".pyenv/versions/{version}.*"))]
    for found in filter(
        None, (shutil.which(f"python{version}", path=place) for place in [*places, os.environ["PATH"]])
    ):
        shown = subprocess.run([found, "-c", "print('yes')"], capture_output=True, text=True, timeout=60)
        if shown.stdout == "yes\n":  # pyenv leaves stand-ins on PATH for what is not chosen
            return found
    return None


def cffi_wheels(version: str, directory: Path) -> list[Path]:
    """cffi for this version: as `make matrix` has left it, or from pip."""
    kept = sorted(WHEELS.glob(f"*/cffi-*-cp{version.replace('.', '')}-*.whl"))
    if kept:
        return kept[-1:]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", version, "--dest", str(directory), "cffi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"pip finds no cffi for Python {version}: {done.stderr.strip().splitlines()[-1]}")
    return sorted(directory.glob("cffi-*.whl"))
