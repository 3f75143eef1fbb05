# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page and the completion say what --help says, and are understood by man and by bash."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libnlplug.command import table
from libnlplug.command.completion import bash_completion, fish_completion, zsh_completion
from libnlplug.command.manual import man_page
from libnlplug.command.parser import read
from libnlplug.command.table import EXAMPLES, HELP, STATUSES, TOP

VERBS = {verb.name: verb for verb in table.VERBS}
PAGE = man_page()
COMPLETION = bash_completion()


def options_of(verb: str) -> list[str]:
    """The options of a verb by all their names."""
    return [name for one in [HELP, *VERBS[verb].options] for name in one.names]


TOP_OPTIONS = [name for one in TOP for name in one.names]


def plain(roff: str) -> str:
    """The page's words without the marks of roff."""
    text = re.sub(r"\\f[BIR]", "", roff)
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(dq", '"').replace("\\&", "").replace("\\e", "\\")


def section(name: str) -> str:
    """One section (.SH) or sub-section (.SS) of the page, as words."""
    (found,) = re.findall(rf"^\.S[HS] {re.escape(name)}\n(.*?)(?=^\.S[HS] |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return plain(found)


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_has_every_verb_and_option(verb: str) -> None:
    """Each verb has its part, with the help of each of its arguments, word for word."""
    part = section(verb)
    for option in options_of(verb):
        assert option in part
    for one in VERBS[verb].all:
        assert one.help in part
    assert VERBS[verb].help[1:] in part
    assert VERBS[verb].more in part
    assert f"libnlplug {verb}" in section("SYNOPSIS")


def test_the_page_has_what_help_shows() -> None:
    """The options of libnlplug itself, the exit statuses and the examples are there."""
    for option in TOP_OPTIONS:
        assert option in section("OPTIONS")
    for status, meaning in STATUSES:
        assert f"{status}\n{meaning}" in section("EXIT STATUS")
    for command, meaning in EXAMPLES:
        assert f"{command}\n{meaning}" in section("EXAMPLES")


def test_the_statuses_are_the_commands() -> None:
    """The table of statuses has each one that the command ends with by itself."""
    shown = {status for status, _ in STATUSES}
    assert {"0", "1", "2", "124", "125", "126", "127"} <= shown
    assert (table.DONE, table.FAILED, table.USAGE, table.EXPIRED, table.NOT_HELD) == (0, 1, 2, 124, 125)


@pytest.mark.parametrize("command", [command for command, _ in EXAMPLES])
def test_the_examples_are_understood(command: str) -> None:
    """Each example of the page is one that the parser takes."""
    name, *words = shlex.split(command)
    assert name == "libnlplug"
    verb = read(words).verb
    assert verb is not None
    assert verb.name in words


def test_no_line_is_mistaken_for_roff() -> None:
    """Only known requests begin a line, no apostrophe does, and each hyphen is one that can be copied."""
    for line in PAGE.splitlines():
        assert re.match(r"\.(TH|SH|SS|TP|PP|B|nf|fi)\b|[^.']", line), line
        assert not re.search(r"(?<!\\)-", line), line
        assert re.sub(r"\\(f[BIR]|-|e|&|\(aq|\(dq)", "", line).count("\\") == 0, line


def formatted(*argv: str) -> str:
    """The page as a formatter shows it, which must have nothing to complain about."""
    if not shutil.which(argv[0]):
        pytest.skip(f"no {argv[0]} here: the page's text was checked, not how it is formatted")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MANROFFSEQ": ""}
    done = subprocess.run(argv, input=PAGE + "\n", capture_output=True, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)


@pytest.mark.parametrize(
    "argv", [("man", "--warnings", "-l", "-"), ("groff", "-man", "-ww", "-Tutf8")], ids=["man", "groff"]
)
def test_the_page_is_formatted_without_a_warning(argv: tuple[str, ...]) -> None:
    """man and groff format the page with all warnings on, and show every verb's usage."""
    text = formatted(*argv)
    for verb in VERBS:
        assert f"libnlplug {verb} " in text
    assert "EXIT STATUS" in text


def test_mandoc_finds_no_fault() -> None:
    """mandoc's lint has no warning beyond the missing date."""
    if not shutil.which("mandoc"):
        pytest.skip("no mandoc here")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=PAGE, capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def complete(tmp_path: Path, *words: str, prelude: str = "") -> list[str]:
    """What bash offers for the last of the words."""
    script = tmp_path / "completion"
    script.write_text(COMPLETION + "\n")
    program = (
        f'{prelude}\nsource "$1"; shift; complete -p libnlplug >/dev/null || exit 1; COMP_WORDS=("$@")'
        '; COMP_CWORD=$(($# - 1)); _libnlplug; [ ${#COMPREPLY[@]} = 0 ] || printf "%s\\n" "${COMPREPLY[@]}"'
    )
    argv = ["bash", "--norc", "-c", program, "bash", str(script), "libnlplug", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.splitlines()


DEVICES = sorted(name for name in os.listdir("/sys/class/net") if os.path.isdir(f"/sys/class/net/{name}"))


def test_verbs_and_options_come_first(tmp_path: Path) -> None:
    """The first word is a verb, or an option where a dash was typed."""
    assert complete(tmp_path, "") == list(VERBS)
    assert complete(tmp_path, "de") == ["detach"]
    assert sorted(complete(tmp_path, "-")) == sorted(TOP_OPTIONS)
    assert complete(tmp_path, "nosuch") == []


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_offers_its_options(tmp_path: Path, verb: str) -> None:
    """After a verb, a dash offers exactly the verb's options; for hold also the dashes before its command."""
    own = options_of(verb)
    assert sorted(complete(tmp_path, verb, "-")) == sorted([*own, "--"] if verb == "hold" else own)


def test_devices_are_offered_where_a_device_may_stand(tmp_path: Path) -> None:
    """Verbs that take a device offer the devices of this host; doctor offers nothing."""
    assert sorted(complete(tmp_path, "release", "")) == DEVICES
    assert complete(tmp_path, "hold", "--timeout", "5", "l") == [name for name in DEVICES if name.startswith("l")]
    assert complete(tmp_path, "doctor", "") == []


def test_a_value_is_not_mistaken_for_a_device(tmp_path: Path) -> None:
    """After an option with a value of the user's own nothing is offered; --parent offers root."""
    for option in ("--limit", "--handle", "--timeout"):
        assert complete(tmp_path, "attach", option, "") == []
    assert complete(tmp_path, "attach", "--parent", "") == ["root"]


def test_a_value_may_follow_an_equals_sign(tmp_path: Path) -> None:
    """readline makes three words of --parent=root: the value is offered, and no device; the verb is found behind."""
    assert complete(tmp_path, "attach", "--parent", "=") == ["root"]
    assert complete(tmp_path, "attach", "--parent", "=", "r") == ["root"]
    assert complete(tmp_path, "attach", "--limit", "=", "") == []
    assert complete(tmp_path, "--netns", "=", "blue", "show", "--w") == ["--watch"]
    assert sorted(complete(tmp_path, "--netns", "=", "blue", "release", "")) == DEVICES


def test_after_the_dashes_comes_a_command(tmp_path: Path) -> None:
    """hold DEV -- offers commands, then files; where bash-completion is loaded, the command's own completion."""
    assert "bash" in complete(tmp_path, "hold", "eth0", "--", "bas")
    (tmp_path / "a file").touch()
    assert complete(tmp_path, "hold", "eth0", "--", "cat", f"{tmp_path}/a") == [f"{tmp_path}/a file"]
    loaded = '_command_offset() { COMPREPLY=("offset $1"); }'
    assert complete(tmp_path, "hold", "eth0", "--", "bas", prelude=loaded) == ["offset 4"]


def test_bash_takes_it_from_the_command(tmp_path: Path) -> None:
    """eval "$(libnlplug --bash-completion)" is all there is to do, in bash's strictest mode too."""
    program = 'set -eu; eval "$("$0" -m libnlplug --bash-completion)"; complete -p libnlplug'
    done = subprocess.run(["bash", "--norc", "-c", program, sys.executable], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "complete -F _libnlplug libnlplug\n", "")


@pytest.mark.parametrize("text", [zsh_completion(), fish_completion()], ids=["zsh", "fish"])
def test_the_other_shells_have_every_verb_and_option(text: str) -> None:
    """The completions for zsh and fish have each verb, each option and its help."""
    for verb in VERBS.values():
        assert f"{verb.name}:{verb.help}" in text or f"-a {verb.name} -d '{verb.help}'" in text
        for one in verb.options:
            for name in one.names:
                assert name in text or f"-l {name[2:]} " in text or f"-s {name[1:]} " in text
            words = one.help.split("'")[0].split(":")[0]
            assert words in text


FISH = [
    ("libnlplug rel", {"release"}),
    ("libnlplug -n blue release --", {"--help", "--netns", "--one", "--parent"}),
    ("libnlplug lane ", {"add", "show", "del", *DEVICES}),
    ("libnlplug doctor ", set()),
    ("libnlplug release lo --parent ", {"root"}),
    ("libnlplug help h", {"help", "hold"}),
]


@pytest.mark.parametrize(("line", "offered"), FISH)
def test_fish_offers_what_the_table_has(tmp_path: Path, line: str, offered: set[str]) -> None:
    """fish completes verbs, options, devices and values, also after -n NAME."""
    if not shutil.which("fish"):
        pytest.skip("no fish here: the text was checked, not what fish makes of it")
    script = tmp_path / "libnlplug.fish"
    script.write_text(fish_completion() + "\n")
    argv = ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert {row.split("\t")[0] for row in done.stdout.splitlines()} == offered


def test_fish_completes_the_command_of_a_hold(tmp_path: Path) -> None:
    """After the dashes fish offers commands."""
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    script = tmp_path / "libnlplug.fish"
    script.write_text(fish_completion() + "\n")
    argv = ["fish", "--no-config", "-c", f"source {script}; complete -C 'libnlplug hold lo -- bas'"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert "bash" in {row.split("\t")[0] for row in done.stdout.splitlines()}


def test_zsh_reads_it(tmp_path: Path) -> None:
    """zsh finds no fault in the completion, and it registers itself when it is evaluated."""
    if not shutil.which("zsh"):
        pytest.skip("no zsh here: the text was checked, not what zsh makes of it")
    script = tmp_path / "_libnlplug"
    script.write_text(zsh_completion() + "\n")
    program = f'compdef() {{ print registered "$@" }}; eval "$(<{script})" && whence -w _libnlplug'
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("registered _libnlplug libnlplug\n_libnlplug: function\n", "")
