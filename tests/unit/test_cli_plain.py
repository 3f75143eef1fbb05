# SPDX-License-Identifier: GPL-2.0-or-later
"""The short way through the command's words: it never says anything else than argparse, and loads little."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libnlplug.command import verbs as cli

PLAIN = ["attach", "buffer", "release", "limit", "detach"]
WORDS = st.sampled_from(
    [
        *("lo", "eth0", "", "-", "--", "-5", "1:4", "root", "40:", "32mb", "10k", "0", "5s", "-h", "--help", "x" * 16),
        *("--parent", "--handle", "--limit", "--netns", "--timeout", "--one", "--parent=1:4", "--on", "--json", "a b"),
    ]
)


def by_argparse(words: list[str]) -> dict[str, object] | None:
    """What argparse makes of the words; None where it refuses them or prints help."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return {**vars(cli.parser().parse_args(words)), "command": None}
        except SystemExit:
            return None


@given(verb=st.sampled_from([*PLAIN, "show", "hold", "lane", "doctor", "", "atta"]), words=st.lists(WORDS, max_size=7))
@example("release", ["lo"])
@example("attach", ["--limit", "32mb", "lo", "--handle", "40:", "--parent", "1:4", "--netns", "blue"])
@example("limit", ["lo", "32mb"])
@example("buffer", ["lo", "--timeout", "5s"])
def test_it_says_what_argparse_says(verb: str, words: list[str]) -> None:
    """Words that are read without argparse mean to it exactly the same; all others are left to it."""
    plain = cli._read_plainly([verb, *words])
    if plain is not None:
        assert vars(plain) == by_argparse([verb, *words])


@pytest.mark.parametrize("verb", PLAIN)
def test_what_scripts_write_is_read_the_short_way(verb: str) -> None:
    """A verb with its device, alone or with its options: argparse is not needed."""
    required = ["32mb"] if verb == "limit" else []
    for more in ([], ["--netns", "blue"], ["--parent", "1:4"]):
        assert cli._read_plainly([verb, "lo", *required, *more]) is not None
        assert cli._read_plainly([verb, *more, "lo", *required]) is not None


def test_a_plain_command_loads_neither_argparse_nor_shutil() -> None:
    """`libnlplug release DEV` loads what it uses and no more, although it fails here: there is no plug."""
    program = """
import sys
from libnlplug.command import verbs as cli
print(cli.main(["release", "lo"]), *sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    status, *modules = done.stdout.split()
    assert status == "1"
    assert "cannot open the plug of lo" in done.stderr
    assert "libnlplug.plug" in modules
    assert not {"argparse", "gettext", "locale", "libnlplug.command.parser", "libnlplug.hold"} & set(modules)
