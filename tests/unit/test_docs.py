# SPDX-License-Identifier: GPL-2.0-or-later
"""The docs are built without a warning, say what every error means, and have no block that nobody runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import libnlplug
from libnlplug.command import watch
from libnlplug.command.table import VERBS
from libnlplug.netlink import refusals
from tests.support.doc_blocks import MARKS, PAGES, ROOT, RUN, SHOWN, blocks
from tests.support.netlab import unable

DOCS = ROOT / "docs"
TOPS = ("docs", "examples", "benchmarks", "tests")
BLOCKS = [block for page in PAGES for block in blocks(page)]


def words(text: str) -> str:
    """The text on one line, without the marks of a quotation."""
    return " ".join(re.sub(r"^> ?", "", text, flags=re.MULTILINE).split())


def test_they_are_built_without_a_warning(tmp_path: Path) -> None:
    """Sphinx takes every warning for an error: a dead link, a page that is in no list, a docstring it cannot read."""
    lacking = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]
    if lacking:
        unable(f"the docs cannot be built without {' and '.join(lacking)}: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    reference = (tmp_path / "html" / "reference.html").read_text()
    for name in libnlplug.__all__:
        assert name.startswith("__") or f'id="libnlplug.{name}"' in reference, name
    assert re.findall(r'id="libnlplug\.(\w+)"', reference)[0] == "attach", "what most readers look for comes first"
    command_page = (tmp_path / "html" / "command.html").read_text()
    for verb in VERBS:
        assert f"<strong>libnlplug {verb.name}</strong>" in command_page


@pytest.mark.parametrize("name", [name for name in libnlplug.__all__ if not name.startswith("__")])
def test_every_error_has_its_part(name: str) -> None:
    """Each exception and warning is in a heading of the page of troubles."""
    kind = getattr(libnlplug, name)
    if isinstance(kind, type) and issubclass(kind, Exception):
        headings = re.findall(r"^### (.*)$", (DOCS / "troubles.md").read_text(), re.MULTILINE)
        assert name in [one for heading in headings for one in heading.split(", ")]


@pytest.mark.parametrize("hint", [hint for *_, hint in refusals._REFUSALS])
def test_every_hint_is_explained(hint: str) -> None:
    """What the library advises is quoted there, word for word."""
    assert words(hint) in words((DOCS / "troubles.md").read_text())


def reasons() -> set[str]:
    """The sentences that the guard and the plug give a refusal as its reason or advice, between what varies in them."""
    found = set()
    for module in ("guard/client", "plug"):
        for node in ast.walk(ast.parse((Path(libnlplug.__file__).parent / f"{module}.py").read_text())):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id in ("hint", "why")
            ):
                parts = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
                found |= {part.strip(" ;'") for part in parts if isinstance(part, str) and len(part) > 20}
    return found


@pytest.mark.parametrize("reason", sorted(reasons()))
def test_every_reason_is_explained(reason: str) -> None:
    """So is why a plug is busy, and why its guard cannot be started."""
    assert words(reason) in words((DOCS / "troubles.md").read_text())


PROGRAMS = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize(
    "text", [*map(Path.read_text, PROGRAMS), *(one.text for one in BLOCKS if one.language == "python")]
)
def test_a_socket_s_timeout_has_its_old_name(text: str) -> None:
    """Before Python 3.10, which is to do as well, socket.timeout is no TimeoutError."""
    assert "except TimeoutError" not in text


def readmes() -> list[Path]:
    """The pages that a reader opens in the tree itself: those in the root, and each folder's README.md."""
    return [*ROOT.glob("*.md"), *(page for top in TOPS for page in (ROOT / top).rglob("*.md"))]


@pytest.mark.parametrize("page", readmes(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """A link or picture that is a path names a file or folder of the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path = target.partition("#")[0]
        if path and not re.match(r"[a-z]+:", path):
            place = DOCS / path[1:] if path.startswith("/") else page.parent / path
            assert place.exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run_or_says_why_not(block) -> None:
    """A block names its language; one that is not run is what something prints, or is marked with a reason."""
    assert block.language in RUN + SHOWN, f"{block} has no language that is known here"
    assert block.mark in ("", *MARKS), f"{block}: unknown mark {block.mark!r}"
    if block.language in SHOWN:
        assert block.mark in ("", "file"), f"{block} is not a command, so it cannot be {block.mark!r}"


def test_the_picture_is_what_its_script_draws() -> None:
    """docs/img/queue.svg was made from docs/img/queue.py as it is."""
    script = DOCS / "img" / "queue.py"
    drawn = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert (DOCS / "img" / "queue.svg").read_text() == drawn


def test_the_recording_is_of_this_show() -> None:
    """docs/recordings/show-watch.txt has today's lines of a plug that nobody holds and of a held one."""
    holder = {
        "pid": 1,
        "since": time.time() - 1,
        "timeout": 10.0,
        "limit": 49152,
        "detached": False,
        "foreign": False,
        "uid": 0,
    }
    plug = {"device": "veth0", "ifindex": 2, "parent": "root", "handle": "1:", "qlen": 12, "backlog": 12500}
    recorded = (DOCS / "recordings" / "show-watch.txt").read_text()

    def alike(text: str) -> set[str]:
        return {" ".join(re.sub(r"[\d:.#]+(Kb|b)?", "0", line).split()) for line in text.splitlines()}

    for who in (None, holder):
        lines = watch.lines([{**plug, "drops": 0, "packets": 3, "holder": who}], watch.Rates())
        assert alike("\n".join(lines)) <= alike(recorded)
    assert watch.NOTE in recorded


def test_one_version_everywhere() -> None:
    """The newest version of the changelog, of the Debian packages and of the README's demo is this one."""
    version = libnlplug.__version__
    newest = re.search(r"^## \[(.*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    assert f"\nlibnlplug {version} on Linux" in (ROOT / "README.md").read_text()
    if (ROOT / "debian").exists():
        assert (ROOT / "debian" / "changelog").read_text().startswith(f"libnlplug ({version}) ")


def test_the_installation_in_the_readme(tmp_path: Path) -> None:
    """The line under Install installs a library and a command that run."""
    (block,) = [block for block in BLOCKS if block.page.name == "README.md" and "pip install" in block.text]
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("cffi") is None:
        unable("nothing can be installed without setuptools and cffi")
    tree, target = tmp_path / "tree", tmp_path / "installed"
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "__pycache__", "tests", "matrix")
    shutil.copytree(ROOT, tree, ignore=skip)
    # What is installed is what the tree says; where to, and that no other package is fetched, is the test's affair.
    options = f"--no-build-isolation --no-deps --no-index --target {target}"
    script = f'pip() {{ {sys.executable} -m pip "$@" {options}; }}\n{block.text}'
    done = subprocess.run(["sh", "-ec", script], cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    version = [str(target / "bin" / "libnlplug"), "--version"]
    shown = subprocess.run(version, env={**os.environ, "PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert shown.stdout == f"libnlplug {libnlplug.__version__}\n", shown.stderr
