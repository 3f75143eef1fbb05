# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page and the bash completion, made from the parser that also makes --help."""

from __future__ import annotations

import argparse

from .._version import __version__

__all__ = ["EXAMPLES", "bash_completion", "man_page"]

EXAMPLES = (
    ("libnlplug hold eth0 --timeout 5 -- systemctl reload haproxy", "What leaves eth0 waits while haproxy reloads."),
    ("libnlplug attach eth0 --limit 32mb", "A plug that stays, for the verbs that follow."),
    ("libnlplug buffer eth0 --timeout 2", "Hold for two seconds, or until the next line."),
    ("libnlplug release eth0", "Let everything go."),
    ("libnlplug show --watch", "What is in the plugs, twice a second."),
)


def _verbs(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith(".") else escaped


def _described(actions: list[argparse.Action]) -> list[str]:
    lines = []
    for action in actions:
        names = ", ".join(f"\\fB{_roff(option)}\\fR" for option in action.option_strings)
        shown = action.metavar or " | ".join(action.choices or ())
        value = f"\\fI{_roff(str(shown))}\\fR" if shown else ""
        lines += [".TP", f"{names} {value}".strip(), _roff(action.help or "")]
    return lines


def man_page(top: argparse.ArgumentParser, statuses: tuple[tuple[str, str], ...]) -> str:
    """libnlplug(8), in roff."""
    lines = [
        f'.TH LIBNLPLUG 8 "" "libnlplug {__version__}" "System Administration"',
        ".SH NAME",
        "libnlplug \\- " + _roff("hold the packets of a network device and let them go again"),
        ".SH SYNOPSIS",
        ".nf",
    ]
    for verb in _verbs(top).values():
        verb.color = False  # type: ignore[attr-defined]  # from Python 3.14 on usage has colours on a terminal
        usage = " ".join(verb.format_usage().split()).removeprefix("usage: ").replace(" [-h]", "")
        lines.append(f".B {_roff(usage)}")
    lines += [".fi", ".SH DESCRIPTION", _roff(top.description or ""), ".PP", _roff(top.epilog or "")]
    lines += [".SH OPTIONS", *_described(_arguments(top)), ".SH VERBS"]
    for name, verb in _verbs(top).items():
        lines += [f".SS {_roff(name)}", _roff(verb.description or "")]
        lines += _described(_arguments(verb))
        if verb.epilog:
            lines += [".PP", _roff(verb.epilog)]
    lines += [".SH EXIT STATUS"]
    for status, meaning in statuses:
        lines += [".TP", f"\\fB{_roff(status)}\\fR", _roff(meaning)]
    lines += [".SH EXAMPLES"]
    for command, meaning in EXAMPLES:
        lines += [".TP", f"\\fB{_roff(command)}\\fR", _roff(meaning)]
    lines += [".SH SEE ALSO", "\\fBtc\\fR(8), \\fBtimeout\\fR(1), \\fBip\\-netns\\fR(8)"]
    return "\n".join(lines)


_COMPLETION = """\
_libnlplug() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words="" devices="" word at
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        words="@TOP@"
    else
        for ((at = 2; at < COMP_CWORD; at++)); do
            if [ "${COMP_WORDS[at]}" = -- ]; then
                if declare -F _command_offset >/dev/null; then
                    _command_offset $((at + 1))
                elif [ "$previous" = -- ]; then
                    mapfile -t COMPREPLY < <(compgen -c -- "$current")
                else
                    mapfile -t COMPREPLY < <(compgen -f -- "$current")
                fi
                return
            fi
        done
        case "$previous" in
        --netns)
            for word in /run/netns/*; do
                word="${word##*/}"
                [[ -e /run/netns/$word && $word == "$current"* ]] && COMPREPLY+=("$word")
            done
            return ;;
        --parent) words=root ;;
        @VALUES@) return ;;
        *)
            case "${COMP_WORDS[1]}" in
@VERBS@
            esac ;;
        esac
    fi
    for word in $words; do
        [[ $word == "$current"* && ($word != -* || $current == -*) ]] && COMPREPLY+=("$word")
    done
    [ -n "$devices" ] && [[ $current != -* ]] && for word in /sys/class/net/*/; do
        word="${word%/}" word="${word##*/}"
        [[ $word == "$current"* ]] && COMPREPLY+=("$word")
    done
}
complete -F _libnlplug libnlplug"""


def bash_completion(top: argparse.ArgumentParser) -> str:
    """A completion function: verbs, options, devices, namespaces, and the command of hold.

    Names of devices and namespaces go into no list that the shell expands: they may contain what it would run.
    """
    verbs: list[str] = []
    values: set[str] = set()
    for name, verb in _verbs(top).items():
        actions = _arguments(verb)
        options = [option for action in actions for option in action.option_strings]
        values.update(option for action in actions if action.nargs != 0 for option in action.option_strings)
        devices = " devices=1" if any(action.dest == "dev" for action in actions) else ""
        choices = [choice for action in actions if not action.option_strings for choice in action.choices or ()]
        words = " ".join([*choices, *options, *(["--"] if name == "hold" else [])])
        verbs.append(f'            {name}) words="{words}"{devices} ;;')
    options = [option for action in _arguments(top) for option in action.option_strings]
    return (
        _COMPLETION.replace("@TOP@", " ".join([*_verbs(top), *options]))
        .replace("@VALUES@", " | ".join(sorted(values - {"--netns", "--parent"})))
        .replace("@VERBS@", "\n".join(verbs))
    )
