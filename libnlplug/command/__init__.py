# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``libnlplug``: read the command line, call the verb's function, return a documented exit status.

    main()  -->  parser.read(words)  -->  the function that the table names  -->  exit status

This module needs no libnl. A verb that needs it prints what to install, in one line.
"""

from __future__ import annotations

import io
import sys
import warnings

from ..errors import NetlinkError
from .output import discard, err, say
from .parser import Args, UsageError, read
from .table import DONE, FAILED, INTERRUPTED, NOT_HELD, USAGE

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        args = read(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        err(str(error))
        return USAGE
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # a device's name may be any bytes
        with warnings.catch_warnings():
            warnings.simplefilter("always", RuntimeWarning)
            warnings.showwarning = lambda warning, *_, **__: say(f"warning: {warning}")
            status = _do(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except (UsageError, ImportError, ValueError, OSError) as error:
        return _failed(error, args)
    except KeyboardInterrupt:
        return INTERRUPTED


def _do(args: Args) -> int:
    """Load and call the function that the table names."""
    name, _, function = args.run.partition(".")
    module = __import__(f"{__name__}.{name}", fromlist=(function,))
    return int(getattr(module, function)(args) or DONE)


def _failed(error: Exception, args: Args) -> int:
    """Print the error and return the exit status."""
    from .advice import as_typed, explained

    if isinstance(error, UsageError):
        err(str(error))
        return USAGE
    if isinstance(error, ImportError):  # of libnl
        say(str(error))
        return NOT_HELD if args.run == "hold.hold" else FAILED
    if isinstance(error, ValueError):
        err(as_typed(error, args))
        return USAGE
    if isinstance(error, NetlinkError):
        say(explained(error, args))
        return FAILED
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # nearly always of stdout
        say(f"failed: {explained(error, args)}")
    discard(sys.stdout)  # no message for a closed pipe
    return FAILED
