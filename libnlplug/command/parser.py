# SPDX-License-Identifier: GPL-2.0-or-later
"""The command's table of verbs as an argparse parser: for what is not plain, --help, the man page and completion."""

from __future__ import annotations

import argparse
import os

__all__ = ["parser_of"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .verbs import Verb


def _formatter(prog: str, **options: Any) -> argparse.HelpFormatter:
    """argparse's own, which would load shutil, and with it four compressors, to ask how wide the terminal is."""
    try:
        width = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(1).columns
    except (OSError, ValueError):
        width = 80
    return argparse.HelpFormatter(prog, width=width - 2, **options)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **options)

    def error(self, message: str) -> NoReturn:
        """One line, and where to find more."""
        from .verbs import USAGE, _err

        _err(f"{self.prog}: {message} (try '{self.prog} --help')")
        raise SystemExit(USAGE)


def parser_of(verbs: tuple[Verb, ...], version: str) -> argparse.ArgumentParser:
    """The parser made from the table."""
    top = _Parser(
        prog="libnlplug",
        description="Hold the packets of a Linux network device and let them go again. A hold stops traffic.",
        epilog="Sizes are written as tc writes them: 65536, 64k or 32mb. Exit status: 0 done, 1 failed, 2 not"
        " understood; that of 'hold' is the command's own, or as timeout's: 'libnlplug --man' lists them.",
    )
    top.add_argument("--version", action="version", version=f"libnlplug {version}", help="print the version")
    top.add_argument("--man", action="store_true", help="print the manual page: libnlplug --man | man -l -")
    top.add_argument(
        "--bash-completion",
        action="store_true",
        help='print the completion for bash: eval "$(libnlplug --bash-completion)"',
    )
    parsers = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for verb in verbs:
        usage = "libnlplug hold DEV [options] -- COMMAND..." if verb.name == "hold" else None
        description = f"{verb.help[:1].upper()}{verb.help[1:]}."
        sub = parsers.add_parser(verb.name, help=verb.help, description=description, epilog=verb.more, usage=usage)
        for names, options in verb.arguments:
            sub.add_argument(*names, **options)
        sub.set_defaults(run=verb.run)
    return top
