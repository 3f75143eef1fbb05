# SPDX-License-Identifier: GPL-2.0-or-later
"""The one reader of the command line: what it accepts is the table, however it is written, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libnlplug.command.parser import Args, UsageError, read
from libnlplug.command.table import TOP, VERBS

NAMES = [verb.name for verb in VERBS]
WORDS = st.sampled_from(
    [
        *("lo", "eth0", "", "-", "--", "-5", "1:4", "root", "40:", "32mb", "10k", "0", "5s", "-h", "--help", "x" * 200),
        *("--parent", "--handle", "--limit", "--netns", "--timeout", "--one", "--parent=1:4", "--on", "--json", "a b"),
        *("-n", "-j", "-V", "--dst-port", "--dst-port=80", "--tcp-syn", "add", "show", "--man", "-nblue"),
    ]
)


def values(args: Args) -> dict[str, object]:
    """What was said, however it was typed."""
    return {key: value for key, value in vars(args).items() if key != "typed"}


@given(words=st.lists(st.one_of(WORDS, st.sampled_from(NAMES), st.text(max_size=4)), max_size=8))
@example(["release", "lo"])
@example(["--netns"])
@example(["hold", "--", "true"])
@example(["help", "-h"])
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    """Words are what the table has, with a value for everything; else a UsageError that names a help."""
    before = list(words)
    try:
        args = read(words)
    except UsageError as error:
        assert "(try 'libnlplug " in str(error)
        return
    finally:
        assert words == before
    if args.verb is not None and args.run == args.verb.run:
        for one in args.verb.all:
            assert one.key in vars(args)
        assert bool(args.command) == bool(args.verb.command)


PLACES = {"DEV": "lo", "SIZE": "32mb", "ACTION": "add", "VERB": "hold"}
VALUES = {"P": "1:4", "H": "40:", "SIZE": "32mb", "NAME": "blue", "TIME": "5s"}
VALUES.update({"PROTO": "udp", "IP": "::", "PORT": "80"})


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_way_to_write_it_means_the_same(verb) -> None:
    """Options before or after the words, their values apart or after '=', long names or short ones."""
    places = [PLACES[one.names[0]] for one in verb.words]
    command = ["--", "prog", "-x"] if verb.command else []
    apart, joined, short = [], [], []
    for one in verb.options:
        if one.only and PLACES["ACTION"] not in one.only:
            continue
        value = VALUES[one.value] if one.value else ""
        long = one.names[-1]
        apart += [long, *([value] if value else [])]
        joined += [f"{long}={value}" if value else long]
        short += [one.names[0], *([value] if value else [])]
    first = values(read([verb.name, *places, *apart, *command]))
    assert first["command"] == command[1:]
    for words in ([*apart, *places], [*joined, *places], [*places, *short], [*places, *joined]):
        assert values(read([verb.name, *words, *command])) == first


@pytest.mark.parametrize("words", [["-n", "blue"], ["--netns", "blue"], ["--netns=blue"], ["-j", "-n", "blue"], ["-j"]])
def test_namespace_and_json_may_come_before_the_verb(words: list[str]) -> None:
    """'libnlplug -n blue show' is 'libnlplug show -n blue', as for ip and tc."""
    assert values(read([*words, "show", "lo"])) == values(read(["show", "lo", *words]))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["release", "lo", "--parent", "1:1", "--parent", "1:2"], "option --parent is given twice"),
        (["lane", "add", "lo", "--dst-port", "80", "--dst-port=443"], "option --dst-port is given twice"),
        (["release", "lo", "--one", "--one"], "option --one is given twice"),
        (["show", "-n", "a", "--netns", "b"], "option --netns is given twice, first as -n"),
        (["-n", "a", "show", "-n", "b"], "option -n is given twice"),
        (["-j", "show", "--json"], "option --json is given twice, first as -j"),
        (["-n", "a", "-n", "b", "show"], "option -n is given twice"),
        (["-n", "a", "doctor"], "libnlplug doctor: 'doctor' has no option -n"),
        (["-j", "release", "lo"], "'release' has no option -j"),
        (["--limit", "5", "attach", "lo"], "option --limit comes after the verb: attach, hold, lane"),
        (["show", "--limit", "5"], "'show' has no option --limit (try 'libnlplug show --help')"),
        (["show", "--version"], "'show' has no option --version"),
        (["release", "lo", "--onee"], "unknown option '--onee': did you mean '--one'?"),
        (["hold", "lo", "--dst_port", "80", "--", "true"], "unknown option '--dst_port': did you mean '--dst-port'?"),
        (["hold", "lo", "--time", "5", "--", "true"], "unknown option '--time': did you mean '--timeout'?"),
        (["hold", "lo", "--port", "80", "--", "true"], "did you mean '--src-port' or '--dst-port'? (try"),
        (["hold", "lo", "--protocol", "tcp", "--", "true"], "did you mean '--ip-proto'?"),
        (["--helpp"], "unknown option '--helpp': did you mean '--help'? (try"),
        (["eth0", "hold"], "libnlplug: unknown verb 'eth0' (try 'libnlplug --help')"),
        (["show", "-nblue"], "unknown option '-nblue': did you mean '-n blue'? (try"),
        (["-n=blue", "show"], "unknown option '-n=blue': did you mean '-n blue'? (try"),
        (["hold", "lo", "--syn", "--", "true"], "unknown option '--syn': did you mean '--tcp-syn'? (try"),
        (["bufer", "lo"], "unknown verb 'bufer': did you mean 'buffer'? (try 'libnlplug --help')"),
        (["rel", "lo"], "unknown verb 'rel': did you mean 'release'?"),
        (["lane", "delete", "lo"], "ACTION is 'delete': it must be add, show or del: did you mean 'del'?"),
        (["release", "lo", "--parent", "--one"], "option --parent needs a value, P, and '--one' looks like an option"),
        (["release", "lo", "--parent"], "option --parent needs a value, P"),
        (["release", "lo", "--one=yes"], "option --one takes no value, and 'yes' is given"),
        (["show", "--help=x"], "option --help takes no value, and 'x' is given"),
        (
            ["hold", "lo", "--dst-port", "9" * 5000, "--", "true"],
            "--dst-port is '9999999999'..., which is too long",
        ),
        (["release"], "libnlplug release: DEV is missing: the network device (try 'libnlplug release --help')"),
        (["release", "lo", "lo"], "unexpected word 'lo'"),
        (["--version", "lo"], "unexpected word 'lo' after --version"),
        (["attach", "lo", "--limit", "0"], "libnlplug attach: --limit is '0': it must be 1 to 2147483647 bytes"),
        (["limit", "lo", "x"], "libnlplug limit: SIZE is 'x': it must be bytes"),
        (["hold", "lo", "--timeout=soon", "--", "true"], "--timeout is 'soon': it must be seconds"),
        (["hold", "lo", "--dst-port", "x", "--", "true"], "--dst-port is 'x': it must be"),
        (["hold", "lo", "--dst-port", "80,,81", "--", "true"], "--dst-port is '80,,81': a value is missing before or"),
        (
            ["lane", "add", "lo", "--src-port", "ssh,"],
            "--src-port is 'ssh,': a value is missing before or after a comma",
        ),
        (["show", "-n", ""], "-n is '': it must be a name, a path or a pid"),
        (["release", ""], "DEV is '': a device's name has 1 to 127 bytes"),
    ],
)
def test_what_is_wrong_is_named_as_it_was_typed(words: list[str], why: str) -> None:
    """The refusal names the option as it was typed, what was probably meant, and the help of that verb."""
    with pytest.raises(UsageError) as caught:
        read(words)
    assert why in str(caught.value)


def test_dashes_end_the_options() -> None:
    """After '--' a word of a verb may begin with a dash."""
    assert read(["release", "--", "-x"]).dev == "-x"
    assert read(["release", "--one", "--", "--one"]).dev == "--one"


def test_the_table_is_sound() -> None:
    """Every function that it names is there, every option has its help, and no name or key means two things."""
    for run in [*(verb.run for verb in VERBS), *(one.run for one in TOP if one.run)]:
        module, _, function = run.partition(".")
        assert callable(getattr(import_module(f"libnlplug.command.{module}"), function))
    for options in (TOP, *(verb.all for verb in VERBS)):
        names = [name for one in options for name in one.names]
        keys = [one.key for one in options]
        assert len(set(names)) == len(names)
        assert len(set(keys)) == len(keys)
        assert not {"verb", "run", "command", "typed"} & set(keys)
        assert all(one.help for one in options)
        assert all(name.isascii() for name in names)


LITTLE = {
    "argparse",
    "gettext",
    "locale",
    "json",
    "difflib",
    "textwrap",
    "libnlplug.guard.client",
    "libnlplug.command.manual",
}


@pytest.mark.parametrize(
    ("words", "status", "more"),
    [
        (["release", "lo", "--parent", "root"], 1, {"libnlplug.plug"}),
        (["show"], 0, {"libnlplug.netlink.route_socket"}),
        (["--version"], 0, {"libnlplug.command.manual"}),
    ],
)
def test_a_command_loads_what_it_uses(words: list[str], status: int, more: set[str]) -> None:
    """No verb pays for what another one needs: regular expressions, JSON, help texts; and --version not for libnl."""
    program = f"""
import sys
from libnlplug.command import main
before = set(sys.modules)
print(main({words!r}), *sorted(set(sys.modules)))
"""
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    said, *modules = done.stdout.splitlines()[-1].split()
    assert said == str(status)
    assert more <= set(modules)
    assert not (LITTLE - more) & set(modules)
    assert "re" not in modules
    if words == ["--version"]:
        assert not {"libnlplug._libnl", "_cffi_backend"} & set(modules)
