# SPDX-License-Identifier: GPL-2.0-or-later
"""Parser: reads the command line. The table says which verbs and options there are. A command line is written so:

    libnlplug [-n NAME] [-j] VERB WORD... [--option VALUE | --option=VALUE | --switch]... [-- COMMAND...]

Options and words come in any order. Nothing is skipped or guessed: an unknown, abbreviated or repeated option, a
missing value and an extra word raise UsageError, which suggests what was probably meant.
"""

from __future__ import annotations

from .table import HELP, TOP, VERBS, Option, Verb

__all__ = ["Args", "UsageError", "read", "verb_named"]

ALIKE = 0.7  # from 0 to 1
LONGEST = 4096  # characters of a value, as of a path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class UsageError(ValueError):
    """The command line is invalid. The sentence names the verb whose help says more."""

    def __init__(self, sentence: str, verb: Verb | None = None) -> None:
        self.verb = verb
        name = f"libnlplug {verb.name}" if verb else "libnlplug"
        super().__init__(f"{name}: {sentence} (try '{name} --help')")


class Args:
    """A command line that was read. It has the value of each option and word by its key, ``verb``, ``run`` (the
    function to call), and ``command``, the words after the dashes. ``typed`` has the given options as they were
    written."""

    def __init__(self) -> None:
        self.verb: Verb | None = None
        self.run = ""
        self.command: list[str] = []
        self.typed: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the command line does not say {name}")


def read(words: list[str]) -> Args:
    """Read a command line, or raise UsageError."""
    args, words = Args(), list(words)
    while words and words[0].startswith("-") and words[0] != "-":
        _option(args, words, TOP)
        if args.run:
            if words:
                raise UsageError(f"unexpected word {words[0]!r} after {args.typed.popitem()[1]}")
            return args
    if not words:
        raise UsageError(f"give a verb: {', '.join(verb.name for verb in VERBS)}")
    args.verb = verb = verb_named(words.pop(0))
    before_dashes = words[: words.index("--")] if "--" in words else words
    if not {"-h", "--help"}.isdisjoint(before_dashes):
        args.run = HELP.run
        return args
    args.run = verb.run
    for key, typed in args.typed.items():
        if key not in [one.key for one in verb.options]:
            raise UsageError(f"'{verb.name}' has no option {typed}", verb)
    _read_all(args, verb, words)
    for one in verb.all:
        args.__dict__.setdefault(one.key, one.default)
    return args


def _read_all(args: Args, verb: Verb, words: list[str]) -> None:
    """Read what follows the verb."""
    expected = list(verb.words)
    dashes = False
    while words:
        if words[0] == "--" and not dashes:
            dashes = True
            words.pop(0)
            if verb.command:
                args.command, words = words, []
        elif words[0].startswith("-") and words[0] != "-" and not dashes:
            _option(args, words, verb.options, verb)
        elif expected:
            one = expected.pop(0)
            setattr(args, one.key, _value(one, one.names[0], words.pop(0), verb))
        else:
            raise _stray(verb, words)
    if verb.command and not args.command:
        raise UsageError(_needs_command(verb), verb)
    action = args.__dict__.get("action", "")
    for one in expected:
        if one.needed is True or (one.needed and action in one.needed):
            raise UsageError(f"{one.names[0]} is missing: {one.help}", verb)
    for one in verb.options:
        if one.only and one.key in args.typed and action not in one.only:
            raise UsageError(f"'{verb.name} {action}' has no option {args.typed[one.key]}", verb)


def _stray(verb: Verb, words: list[str]) -> UsageError:
    if verb.command and "--" not in words:
        return UsageError(_needs_command(verb), verb)
    return UsageError(f"unexpected word {words[0]!r}", verb)


def _needs_command(verb: Verb) -> str:
    return f"needs '--' and a command: libnlplug {verb.name} DEV [options] -- {verb.command}"


def _option(args: Args, words: list[str], options: list[Option] | tuple[Option, ...], verb: Verb | None = None) -> None:
    """Read the option at the beginning of the words, and remove it from them."""
    word = words.pop(0)
    name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
    option = next((one for one in [*options, HELP] if name in one.names), None)
    if option is None:
        raise UsageError(_unknown(name, options, verb), verb)
    if option.key in args.typed:
        before = args.typed[option.key]
        twice = f"option {name} is given twice" + (f", first as {before}" if name != before else "")
        raise UsageError(twice, verb)
    args.typed[option.key] = name
    if not option.value:
        if equals:
            raise UsageError(f"option {name} takes no value, and {value!r} is given", verb)
        args.run = option.run or args.run
        setattr(args, option.key, True)
        return
    if not equals:
        if not words:
            raise UsageError(f"option {name} needs a value, {option.value}", verb)
        value = words.pop(0)
        if value.startswith("-"):
            raise UsageError(f"option {name} needs a value, {option.value}, and {value!r} looks like an option", verb)
    setattr(args, option.key, _value(option, name, value, verb))


def _value(option: Option, name: str, text: str, verb: Verb | None) -> object:
    """Return the value that the option makes of the text, or raise UsageError."""
    try:
        if option.choices and text not in option.choices:
            shown = f"{', '.join(option.choices[:-1])} or {option.choices[-1]}"
            raise ValueError(f"{name} is {text!r}: it must be {shown}{_meant(text, option.choices)}")
        if len(text) > LONGEST:
            raise ValueError(f"{name} is {text[:10]!r}..., which is too long")
        return option.read(text)
    except ValueError as error:
        raise UsageError(f"{name} is {str(error).partition(' is ')[2]}", verb) from None


def verb_named(word: str) -> Verb:
    """Return the verb of that name, or raise UsageError."""
    for verb in VERBS:
        if verb.name == word:
            return verb
    raise UsageError(f"unknown verb {word!r}{_meant(word, [verb.name for verb in VERBS])}")


def _unknown(name: str, options: list[Option] | tuple[Option, ...], verb: Verb | None) -> str:
    elsewhere = [one.name for one in VERBS if any(name in option.names for option in one.options)]
    if verb is None and elsewhere:
        return f"option {name} comes after the verb: {', '.join(elsewhere)}"
    if verb is not None and (elsewhere or any(name in one.names for one in TOP)):
        return f"'{verb.name}' has no option {name}"
    meant = _meant(name, [one for option in [*options, HELP] for one in option.names])
    if not meant and any(name[:2] in one.names and one.value for one in options):
        meant = f": did you mean '{name[:2]} {name[2:].lstrip('=')}'?"
    return f"unknown option {name!r}{meant}"


def _meant(word: str, names: list[str] | tuple[str, ...]) -> str:
    """Return a question with what was probably meant: the only name that begins or ends so, or that the word begins
    with, or the names that are most alike."""
    from difflib import SequenceMatcher

    word = word.replace("_", "-")
    likeness = {name: SequenceMatcher(None, name, word).ratio() for name in names}
    found = [name for name in likeness if name.startswith(word) or (len(name) > 2 and word.startswith(name))]
    if not found and word.startswith("--"):
        found = [name for name in likeness if name.endswith(word[1:])]
    if len(found) != 1:
        most = max(likeness.values())
        found = [name for name in likeness if likeness[name] == most] if most >= ALIKE else []
    return f": did you mean {' or '.join(map(repr, found))}?" if found else ""
