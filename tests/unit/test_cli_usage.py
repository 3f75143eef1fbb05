# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command does not understand ends with 2 and one line on stderr, before anything is sent."""

from __future__ import annotations

import shlex

import pytest

import libnlplug
from libnlplug.command import main
from libnlplug.command.hold import sentence as sentence_of
from libnlplug.command.parser import read
from libnlplug.command.table import VERBS as TABLE
from libnlplug.command.units import parse_size
from libnlplug.lane.lane import LIMIT
from libnlplug.netlink import route_socket as sk

VERBS = [verb.name for verb in TABLE]

NOT_UNDERSTOOD = {
    # stray words, and what a missing or an extra space makes of good ones
    "": "verb",
    "bufer lo": "bufer",
    "release--one lo": "release--one",
    "plug--release-indefinite": "plug--release-indefinite",
    "Release lo": "Release",
    "release lo --release-indefinite": "--release-indefinite",
    "release lo extra": "extra",
    "release lo - one": "-",
    "show lo lo": "lo",
    "detach": "DEV",
    "limit lo": "SIZE",
    "doctor now": "now",
    "2 lo": "2",
    "help bufer": "did you mean 'buffer'?",
    # options: unknown, abbreviated, without their value, with one too many
    "attach lo --lim 32mb": "--lim",
    "buffer lo --time 5": "--time",
    "release lo --on": "--on",
    "show --js": "--js",
    "--vers": "--vers",
    "hold lo --time 5 -- true": "--time",
    "release lo -1": "-1",
    "attach lo --frobnicate": "--frobnicate",
    "attach lo --limit": "--limit",
    "buffer lo --timeout": "--timeout",
    "release lo --one=1": "--one",
    "show lo --limit 32mb": "--limit",
    # sizes, times, handles, parents, devices, namespaces
    "attach lo --limit ''": "--limit is ''",
    "attach lo --limit 32mib": "'32mib'",
    "attach lo --limit 1e6": "'1e6'",
    "attach lo --limit -1": "'-1'",
    "attach lo --limit 0": "drop every packet",
    "attach lo --limit 0.5": "drop every packet",
    "attach lo --limit 2gb": "2147483647",
    "attach lo --limit 4294967297": "2147483647",
    "limit lo 0": "1 to 2147483647 bytes (0 would drop every packet for ever)",
    "limit lo many": "'many'",
    "limit lo 10 packets": "packets",
    "hold lo --limit 0 -- true": "drop every packet",
    "buffer lo --timeout -1": "'-1'",
    "buffer lo --timeout soon": "'soon'",
    "buffer lo --timeout 5y": "'5y'",
    "hold lo --timeout inf -- true": "'inf'",
    "hold lo --timeout 1e10 -- true": "'1e10'",
    "hold lo --timeout 2000000000 -- true": "it must be at most 1000000000 seconds (31 years)",
    "attach lo --handle 40": "'40'",
    "attach lo --handle 40:1": "'40:1'",
    "attach lo --handle 0:": "'0:'",
    "attach lo --handle ffff:": "it must be a hexadecimal number from 1 to fffe and a colon, as '40:'",
    "attach lo --handle ''": "--handle is ''",
    "attach lo --handle x:": "'x:'",
    "attach lo --parent ''": "--parent is ''",
    "attach lo --parent none": "'none'",
    "attach lo --parent ingress": "'ingress'",
    "attach lo --parent 1:2:3": "'1:2:3'",
    "buffer lo --parent ffff:fff3": "'ffff:fff3'",
    "release lo --parent nosuchname": "'nosuchname'",
    "limit lo 32mb --parent x:1": "'x:1'",
    "detach lo --parent 10000:": "'10000:'",
    "hold lo --parent ''  -- true": "--parent is ''",
    "attach ''": "DEV is ''",
    "show ''": "DEV is ''",
    "hold '' -- true": "DEV is ''",
    f"buffer {'a' * 128}": "127 bytes",
    "attach lo --netns ''": "--netns is ''",
    "show --netns 0": "--netns is '0': it must be a name, a path or a pid",
    # hold and its command
    "hold lo": "needs '--' and a command",
    "hold lo true": "needs '--' and a command",
    "hold lo --": "needs '--' and a command",
    "hold -- true": "DEV",
    "hold lo lo -- true": "lo",
}


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a netlink socket fails the test."""

    def refuse(self: object) -> None:
        pytest.fail("a netlink socket was opened")

    monkeypatch.setattr(sk.RouteSocket, "_connect", refuse)


@pytest.mark.parametrize(("line", "named"), NOT_UNDERSTOOD.items())
def test_what_is_not_understood_sends_nothing(
    no_kernel: None, capfd: pytest.CaptureFixture[str], line: str, named: str
) -> None:
    """Status 2, one line on stderr that names the culprit, nothing on stdout, and no socket was opened."""
    assert main(shlex.split(line)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("libnlplug")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_nobody_has_is_refused_by_every_verb(
    no_kernel: None, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    """--nosuch is status 2 with every verb, wherever it stands."""
    words = [verb, *(["add"] if verb == "lane" else []), *([] if verb == "doctor" else ["lo"])]
    words += ["10k"] if verb == "limit" else []
    words = ["help"] if verb == "help" else words
    assert main([*words, "--nosuch", *(["--", "true"] if verb == "hold" else [])]) == 2
    assert "--nosuch" in capfd.readouterr().err


def test_a_newline_in_a_word_makes_no_second_line(no_kernel: None, capfd: pytest.CaptureFixture[str]) -> None:
    """What the user wrote is shown on the one line, whatever it contains."""
    assert main(["release", "lo", "a\nb"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "a\\nb" in err


def test_the_words_after_the_dashes_are_the_commands_own() -> None:
    """Options and further dashes of the command are neither read nor changed."""
    args = read(["hold", "eth0", "--timeout", "3", "--", "prog", "--timeout", "9", "--", "-h", ""])
    assert args.command == ["prog", "--timeout", "9", "--", "-h", ""]
    assert (args.dev, args.timeout) == ("eth0", 3.0)


@pytest.mark.parametrize(
    ("words", "timeout"),
    [([], 10.0), (["--timeout", "0"], 0.0), (["--timeout", "250ms"], 0.25), (["--timeout", "5m"], 300.0)],
)
def test_a_hold_has_ten_seconds_unless_told_otherwise(words: list[str], timeout: float) -> None:
    """The default --timeout is 10 seconds; 0 is for none."""
    assert read(["hold", "eth0", *words, "--", "true"]).timeout == timeout


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_option_and_ends_with_0(capfd: pytest.CaptureFixture[str], verb: str) -> None:
    """Each verb's --help names all its arguments and what they are for, on stdout."""
    assert main([verb, "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    (entry,) = (one for one in TABLE if one.name == verb)
    for one in entry.all:
        assert one.shown in out
        assert words_of(one.help) in words_of(out)
    assert words_of(entry.more) in words_of(out)
    assert main(["help", verb]) == 0
    assert capfd.readouterr().out == out


def words_of(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def test_help_shows_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    """libnlplug --help has one line for each verb."""
    assert main(["--help"]) == 0
    out = capfd.readouterr().out
    assert main(["help"]) == 0
    assert capfd.readouterr().out == out
    lines = out.splitlines()
    for verb in VERBS:
        assert any(line.split()[:1] == [verb] for line in lines)


def test_help_of_an_action(capfd: pytest.CaptureFixture[str]) -> None:
    """'help lane add' prints the help of 'lane'. An action that the verb lacks is status 2."""
    assert main(["help", "lane"]) == main(["help", "lane", "add"]) == 0
    out = capfd.readouterr().out
    assert out == out[: len(out) // 2] * 2
    for verb, action in (("lane", "make"), ("hold", "add")):
        assert main(["help", verb, action]) == 2
        name = f"libnlplug {verb}"
        assert capfd.readouterr().err == f"{name}: '{verb}' has no action '{action}' (try '{name} --help')\n"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    """--version and -V print name and version."""
    for word in ("--version", "-V"):
        assert main([word]) == 0
        assert capfd.readouterr().out == f"libnlplug {libnlplug.__version__}\n"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"packets": 0, "bytes": 0, "dropped": 0}, "held 0 packets (0 bytes) of eth0 for 1.500 s, dropped none"),
        ({"packets": 1, "bytes": 60, "dropped": 0}, "held 1 packet (60 bytes) of eth0 for 1.500 s, dropped none"),
        (
            {"packets": 9, "bytes": 900, "dropped": 3, "limit_needed": 2048},
            "held 9 packets (900 bytes) of eth0 for 1.500 s, dropped 3:"
            " a limit of 2Kb would have been enough (--limit 2048)",
        ),
        (
            {"packets": 0, "bytes": 0, "dropped": 3},
            "held 0 packets (0 bytes) of eth0 for 1.500 s, dropped 3: give it a larger --limit",
        ),
        ({}, "held an unknown number of packets of eth0 for 1.500 s, dropped an unknown number"),
    ],
)
def test_the_report_is_one_sentence(values: dict[str, int], sentence: str) -> None:
    """It says packets, bytes, seconds and drops, with the limit to give, and nothing that is not known."""
    report = libnlplug.HoldReport()
    report.seconds = 1.5
    for name, value in values.items():
        setattr(report, name, value)
    assert sentence_of("eth0", report) == sentence


def test_the_help_says_the_limit_that_is_had_without_one() -> None:
    """What --limit is where it is left out: the kernel's default, and a lane's own."""
    said = {verb.name: one.help for verb in TABLE for one in verb.options if one.key == "limit"}
    assert {verb: ("kernel's default" in text, "4mb" in text) for verb, text in said.items()} == {
        "attach": (True, False),
        "hold": (True, True),
        "lane": (False, True),
    }
    assert parse_size("4mb") == LIMIT
