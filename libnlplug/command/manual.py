# SPDX-License-Identifier: GPL-2.0-or-later
"""Manual: --help, --version and the manual page, made from the table."""

from __future__ import annotations

import os

from .._version import __version__
from .parser import UsageError, verb_named
from .table import EXAMPLES, HELP, MORE, STATUSES, SUMMARY, TOP, VERBS, Option, Verb

__all__ = ["help_of", "man_page", "print_help", "print_help_about", "print_man_page", "print_version", "usage"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .parser import Args

_INDENT = 24


def print_version(_args: Args) -> None:
    """libnlplug --version"""
    print(f"libnlplug {__version__}")


def print_help(args: Args) -> None:
    """libnlplug --help, libnlplug VERB --help"""
    print(help_of(args.verb, _width()))


def print_help_about(args: Args) -> None:
    """libnlplug help VERB ACTION"""
    verb = verb_named(args.about) if args.about else None
    if verb and args.action and args.action not in [choice for one in verb.words for choice in one.choices]:
        raise UsageError(f"'{verb.name}' has no action {args.action!r}", verb)
    print(help_of(verb, _width()))


def print_man_page(_args: Args) -> None:
    """libnlplug --man"""
    print(man_page())


def usage(verb: Verb) -> str:
    """Return how the verb is written: 'libnlplug release DEV [--parent P] [--one] [-n NAME]'."""
    words = [_word(one) for one in verb.words]
    options = [f"[{one.names[0]} {one.value}]" if one.value else f"[{one.names[0]}]" for one in verb.options]
    return " ".join(["libnlplug", verb.name, *words, *options, *(["--", verb.command] if verb.command else [])])


def _word(one: Option) -> str:
    text = "|".join(one.choices) or one.names[0]
    return text if one.needed is True else f"[{text}]"


def help_of(verb: Verb | None, width: int = 80) -> str:
    """Return what --help prints for a verb, or for the command itself."""
    if verb is None:
        parts = [
            _filled("libnlplug [-n NAME] [-j] VERB ...", width, "usage: "),
            _filled(SUMMARY, width),
            "Verbs:",
            _described(((one.name, f"{one.help}") for one in VERBS), width),
            "Options:",
            _described(((one.shown, one.help) for one in TOP), width),
            _filled(MORE, width),
        ]
    else:
        rows = [(one.shown, one.help) for one in [*verb.words, HELP, *verb.options]]
        parts = [
            _filled(usage(verb), width, "usage: "),
            _filled(f"{_sentence(verb.help)}.", width),
            _described(rows, width),
        ]
        parts += [_filled(verb.more, width)] if verb.more else []
    text = "\n\n".join(parts)
    return text.replace("Verbs:\n\n", "Verbs:\n").replace("Options:\n\n", "Options:\n")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _filled(text: str, width: int, first: str = "") -> str:
    import textwrap

    later = " " * len(first)
    wrapped = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False, break_long_words=False
    )
    return "\n".join(wrapped)


def _described(rows: Iterable[tuple[str, str]], width: int) -> str:
    """Return lines with the names on the left and their texts on the right."""
    lines = []
    for name, text in rows:
        indented = _filled(text, max(width, _INDENT + 20), " " * _INDENT)
        head = f"  {name}"
        if len(head) < _INDENT - 1:
            indented = head.ljust(_INDENT) + indented[_INDENT:]
        else:
            lines.append(head)
        lines.append(indented)
    return "\n".join(lines)


def _width() -> int:
    """Return the width of the terminal, less two."""
    try:
        return max(40, int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(1).columns) - 2
    except (OSError, ValueError):
        return 78


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith(".") else escaped


def _tagged(options: Iterable[Option]) -> list[str]:
    lines = []
    for one in options:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in one.names) if one.is_option else ""
        shown = one.value or " | ".join(one.choices) or ("" if one.is_option else one.names[0])
        value = f"\\fI{_roff(shown)}\\fR" if shown else ""
        lines += [".TP", f"{names} {value}".strip(), _roff(one.help)]
    return lines


def man_page() -> str:
    """Return the manual page libnlplug(8), in roff."""
    lines = [
        f'.TH LIBNLPLUG 8 "" "libnlplug {__version__}" "System Administration"',
        ".SH NAME",
        "libnlplug \\- " + _roff("hold the packets of a network device and let them go again"),
        ".SH SYNOPSIS",
        ".nf",
        *(f".B {_roff(usage(verb))}" for verb in VERBS),
        ".fi",
    ]
    lines += [".SH DESCRIPTION", _roff(SUMMARY), ".PP", _roff(MORE), ".SH OPTIONS", *_tagged(TOP), ".SH VERBS"]
    for verb in VERBS:
        lines += [f".SS {_roff(verb.name)}", _roff(f"{_sentence(verb.help)}.")]
        lines += _tagged([*verb.words, HELP, *verb.options])
        if verb.more:
            lines += [".PP", _roff(verb.more)]
    for heading, rows in (("EXIT STATUS", STATUSES), ("EXAMPLES", EXAMPLES)):
        lines += [f".SH {heading}"]
        for name, meaning in rows:
            lines += [".TP", f"\\fB{_roff(name)}\\fR", _roff(meaning)]
    lines += [".SH SEE ALSO", "\\fBtc\\fR(8), \\fBtimeout\\fR(1), \\fBip\\-netns\\fR(8)"]
    return "\n".join(lines)
