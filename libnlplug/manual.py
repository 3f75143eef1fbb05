# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page and the bash completion, made from the parser that also makes --help."""

from __future__ import annotations

import argparse

from . import __version__

__all__ = ["bash_completion", "man_page"]


def _verbs(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\\&" + escaped if escaped.startswith(".") else escaped


def man_page(top: argparse.ArgumentParser) -> str:
    """libnlplug(8), in roff."""
    lines = [
        f'.TH LIBNLPLUG 8 "" "libnlplug {__version__}" "System Administration"',
        ".SH NAME",
        "libnlplug \\- " + _roff("hold the packets of a network device and let them go again"),
        ".SH SYNOPSIS",
    ]
    for verb in _verbs(top).values():
        usage = " ".join(verb.format_usage().removeprefix("usage:").split())
        lines += [".br", f".B {_roff(usage)}"] if lines[-1] != ".SH SYNOPSIS" else [f".B {_roff(usage)}"]
    lines += [".SH DESCRIPTION", _roff(top.description or "")]
    lines += [".SH VERBS"]
    for name, verb in _verbs(top).items():
        lines += [f".SS {_roff(name)}", _roff((verb.description or "").capitalize() + ".")]
        for action in verb._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            names = ", ".join(f"\\fB{_roff(option)}\\fR" for option in action.option_strings)
            value = f"\\fI{_roff(str(action.metavar))}\\fR" if action.metavar else ""
            lines += [".TP", f"{names} {value}".strip(), _roff(action.help or "")]
    lines += [
        ".SH NOTES",
        _roff(top.epilog or ""),
        ".SH SEE ALSO",
        "\\fBtc\\fR(8), \\fBtimeout\\fR(1), \\fBip\\-netns\\fR(8)",
    ]
    return "\n".join(lines)


def bash_completion(top: argparse.ArgumentParser) -> str:
    """A completion function: verbs, options, devices, and namespaces after --netns."""
    cases = []
    for name, verb in _verbs(top).items():
        options = " ".join(option for action in verb._actions for option in action.option_strings)
        cases.append(f'        {name}) words="{options}" ;;')
    names = " ".join([*_verbs(top), "--help", "--version", "--man", "--bash-completion"])
    return "\n".join(
        [
            "_libnlplug() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '    if [ "$COMP_CWORD" = 1 ]; then',
            f'        COMPREPLY=($(compgen -W "{names}" -- "$current")); return',
            "    fi",
            '    if [ "$previous" = --netns ]; then',
            '        COMPREPLY=($(compgen -W "$(ls /run/netns 2>/dev/null)" -- "$current")); return',
            "    fi",
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            "    esac",
            '    case "$current" in -*) ;; *) words="$(ls /sys/class/net 2>/dev/null)" ;; esac',
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -F _libnlplug libnlplug",
        ]
    )
