# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for bash, zsh and fish, made from the table: verbs, options, devices, namespaces, and hold's command.

The names of devices and namespaces are in no list that a shell expands, because a name may contain a command.
"""

from __future__ import annotations

from .table import HELP, TOP, VERBS, Option, Verb

__all__ = ["bash_completion", "fish_completion", "print_bash", "print_fish", "print_zsh", "zsh_completion"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .parser import Args


def print_bash(_args: Args) -> None:
    """libnlplug --bash-completion"""
    print(bash_completion())


def print_zsh(_args: Args) -> None:
    """libnlplug --zsh-completion"""
    print(zsh_completion())


def print_fish(_args: Args) -> None:
    """libnlplug --fish-completion"""
    print(fish_completion())


def _options(verb: Verb) -> list[Option]:
    return [HELP, *verb.options]


def _takes_device(verb: Verb) -> bool:
    return any(one.key == "dev" for one in verb.words)


def _choices(verb: Verb) -> list[str]:
    """Return the fixed words that the verb takes: its actions, or for 'help' the verbs."""
    if verb.name == "help":
        return [one.name for one in VERBS]
    return [choice for one in verb.words for choice in one.choices]


_BASH = """\
_libnlplug() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words="" devices="" word at verb=1
    COMPREPLY=()
    # readline makes three words of --netns=blue
    [[ $previous == "=" ]] && previous="${COMP_WORDS[COMP_CWORD-2]}"
    [[ $current == "=" ]] && current=""
    while [[ $verb -lt $COMP_CWORD && ${COMP_WORDS[verb]} == -* ]]; do
        case "${COMP_WORDS[verb]} ${COMP_WORDS[verb+1]}" in
        --*" =") ((verb += 3)) ;;
        "-n "* | "--netns "*) ((verb += 2)) ;;
        *) ((verb += 1)) ;;
        esac
    done
    for ((at = verb + 1; at < COMP_CWORD; at++)); do
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
    -n | --netns)
        for word in /run/netns/*; do
            word="${word##*/}"
            [[ -e /run/netns/$word && $word == "$current"* ]] && COMPREPLY+=("$word")
        done
        return ;;
    --parent) words=root ;;
    @VALUES@) return ;;
    *)
        if [ "$COMP_CWORD" -le "$verb" ]; then
            words="@TOP@"
        else
            case "${COMP_WORDS[verb]}" in
@VERBS@
            esac
        fi ;;
    esac
    for word in $words; do
        [[ $word == "$current"* && ($word != -* || $current == -*) ]] && COMPREPLY+=("$word")
    done
    [ -n "$devices" ] && [[ $current != -* ]] && for word in /sys/class/net/*/; do
        word="${word%/}" word="${word##*/}"
        [[ $word == "$current"* ]] && COMPREPLY+=("$word")
    done
    return 0
}
complete -F _libnlplug libnlplug"""


def bash_completion() -> str:
    """Return a completion function for bash."""
    verbs: list[str] = []
    values: set[str] = set()
    for verb in VERBS:
        options = [name for one in _options(verb) for name in one.names]
        values.update(name for one in verb.options if one.value for name in one.names)
        words = " ".join([*_choices(verb), *options, *(["--"] if verb.command else [])])
        devices = " devices=1" if _takes_device(verb) else ""
        verbs.append(f'            {verb.name}) words="{words}"{devices} ;;')
    top = [*(verb.name for verb in VERBS), *(name for one in TOP for name in one.names)]
    return (
        _BASH.replace("@TOP@", " ".join(top))
        .replace("@VALUES@", " | ".join(sorted(values - {"-n", "--netns", "--parent"})))
        .replace("@VERBS@", "\n".join(verbs))
    )


_ZSH = """\
#compdef libnlplug
_libnlplug_devices() {
    local -a devices=(/sys/class/net/*(N-/:t))
    compadd -a devices
}
_libnlplug_namespaces() {
    local -a namespaces=(/run/netns/*(N:t))
    compadd -a namespaces
}
_libnlplug() {
    local dashes=${words[(i)--]}
    if (( dashes < CURRENT )); then
        shift $dashes words
        (( CURRENT -= dashes ))
        _normal
        return
    fi
    local context state state_descr line
    local -A opt_args
    local -a verbs=(
@NAMES@
    )
    _arguments -C \\
@TOP@
        '1:verb:->verb' '*::words:->words'
    case $state in
    verb) _describe verb verbs ;;
    words)
        case $words[1] in
@VERBS@
        esac ;;
    esac
}
if [ "$funcstack[1]" = _libnlplug ]; then
    _libnlplug "$@"
else
    compdef _libnlplug libnlplug
fi"""
_ACTIONS = {"dev": "_libnlplug_devices", "netns": "_libnlplug_namespaces", "parent": "(root)"}


def zsh_completion() -> str:
    """Return a completion function for zsh, to evaluate, or to save as _libnlplug in a folder of fpath."""
    verbs = []
    for verb in VERBS:
        specs = [_zsh_option(one) for one in _options(verb)] + [_zsh_word(verb, one) for one in verb.words]
        lines = " \\\n".join(f"            {spec}" for spec in specs)
        verbs.append(f"        {verb.name}) _arguments \\\n{lines} ;;")
    names = [f"        {_quoted(f'{verb.name}:{verb.help}')}" for verb in VERBS]
    top = [f"        {_zsh_option(one)} \\" for one in TOP]
    return (
        _ZSH.replace("@NAMES@", "\n".join(names)).replace("@TOP@", "\n".join(top)).replace("@VERBS@", "\n".join(verbs))
    )


def _zsh_text(text: str) -> str:
    """Return the text with backslashes before colons and brackets, which would end it."""
    return "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in text)


def _zsh_option(one: Option) -> str:
    others = f"({' '.join(one.names)})" if len(one.names) > 1 else ""
    names = f"{{{','.join(one.names)}}}" if len(one.names) > 1 else one.names[0]
    value = f":{one.value}:{_ACTIONS.get(one.key, ' ')}" if one.value else ""
    text = f"[{_zsh_text(one.help)}]{value}"
    return f"{_quoted(others)}{names}{_quoted(text)}" if others else _quoted(f"{names}{text}")


def _zsh_word(verb: Verb, one: Option) -> str:
    choices = _choices(verb) if one.choices or verb.name == "help" else []
    action = f"({' '.join(choices)})" if choices else _ACTIONS.get(one.key, " ")
    return _quoted(f"{':' if one.needed is True else '::'}{one.names[0]}:{action}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_FISH = """\
function __libnlplug_verb
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case -n --netns
                set -e words[1]
            case '-*'
            case '*'
                test (count $argv) = 0; and return 0
                contains -- $words[1] $argv
                return
        end
        set -e words[1]
    end
    return 1
end
function __libnlplug_in_command
    contains -- -- (commandline -opc)
end
complete -c libnlplug -f
function __libnlplug_command
    set -l words (commandline -opc) (commandline -ct)
    set -e words[1..(contains -i -- -- $words)]
    complete -C "$words"
end
complete -c libnlplug -n __libnlplug_in_command -a '(__libnlplug_command)'"""
_FISH_VALUES = {
    "dev": "(path basename /sys/class/net/*)",
    "netns": "(path basename /run/netns/*)",
    "parent": "root",
}


def fish_completion() -> str:
    """Return the completions for fish."""
    lines = [_FISH]
    for verb in VERBS:
        lines.append(_fish("not __libnlplug_verb", f"-a {verb.name} -d {_fish_text(verb.help)}"))
    lines += [_fish("not __libnlplug_verb", _fish_option(one)) for one in TOP]
    for verb in VERBS:
        when = f"__libnlplug_verb {verb.name}; and not __libnlplug_in_command"
        lines += [_fish(when, _fish_option(one)) for one in _options(verb)]
        words = [*_choices(verb), *([_FISH_VALUES["dev"]] if _takes_device(verb) else [])]
        lines += [_fish(when, f"-a {_fish_text(word)}") for word in words]
    return "\n".join(lines)


def _fish(when: str, what: str) -> str:
    return f"complete -c libnlplug -n {_fish_text(when)} {what}"


def _fish_option(one: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in one.names]
    value = [f"-x -a {_fish_text(_FISH_VALUES.get(one.key, ''))}"] if one.value else []
    return " ".join([*names, *value, f"-d {_fish_text(one.help)}"])


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
