# SPDX-License-Identifier: GPL-2.0-or-later
"""The C programs that the port is compared with, compiled once, and the pair of namespaces to compare them in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.parity import HERE, Pair, cannot, compile_c, in_namespace


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """reference.c as a program, linked with the system's libnl and libnl-cli."""
    output = tmp_path_factory.mktemp("reference") / "reference"
    return compile_c(output, HERE / "reference.c", packages=("libnl-cli-3.0", "libnl-route-3.0"))


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """capture.c as a library to preload."""
    output = tmp_path_factory.mktemp("capture") / "capture.so"
    return compile_c(output, "-shared", "-fPIC", HERE / "capture.c")


@pytest.fixture(scope="session")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """calls.c as a library to preload. It takes libnl's headers, and libnl from the program."""
    output = tmp_path_factory.mktemp("calls") / "calls.so"
    return compile_c(output, "-shared", "-fPIC", HERE / "calls.c", packages=("libnl-route-3.0",), link=False)


@pytest.fixture(scope="module")
def pair(reference: Path, capture: Path, calls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The reference program and the port, each in a namespace of its own."""
    both = Pair(reference, (capture, calls), tmp_path_factory.mktemp("pair"))
    yield both
    both.close()


@pytest.fixture(scope="session")
def plug_kernel() -> None:
    """A kernel that has sch_plug, and the right to use it in a namespace of our own."""
    command = in_namespace("tc", "qdisc", "add", "dev", "lo", "root", "plug", "limit", "32768")
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        cannot(str(error))
    if tried.returncode:
        cannot(f"this kernel cannot attach a plug ({' '.join(command)}: {tried.stderr.strip()})")
