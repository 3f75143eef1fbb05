# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``libnlplug``: one table of verbs, each a few lines over the library.

Exit status: 0 done, 1 failed, 2 usage. ``hold`` ends with its command's status, else as timeout(1) does: 124 the hold
expired, 125 holding or releasing failed, 126 and 127 the command could not be run or found.
"""

from __future__ import annotations

import argparse
import os
import sys

from . import PlugQdisc, __version__, attach
from .errors import HoldExpired, NetlinkError
from .units import format_size, parse_size, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

    from .hold import HoldReport
    from .route import Netns

DONE, FAILED, USAGE, EXPIRED, NOT_HELD, NOT_RUN, NOT_FOUND = 0, 1, 2, 124, 125, 126, 127
DEFAULT_TIMEOUT = 10.0


def _attach(args: argparse.Namespace) -> int:
    attach(args.dev, parent=args.parent, handle=args.handle, limit=args.limit, netns=args.netns).close()
    return DONE


def _open(args: argparse.Namespace) -> PlugQdisc:
    return PlugQdisc.open(args.dev, parent=args.parent, netns=args.netns)


def _buffer(args: argparse.Namespace) -> int:
    plug = _open(args)
    if args.timeout:
        plug.hold_detached(args.timeout)
    else:
        plug._refuse_while_held("buffer on")
        plug.buffer()
    return DONE


def _release(args: argparse.Namespace) -> int:
    plug = _open(args)
    if args.one:
        plug.release_one()
        return DONE
    plug.release_indefinite()
    holder = plug.holder()
    if holder is not None and holder.detached and not holder.foreign:
        from .hold import end_detached

        end_detached(holder)
    elif holder is not None:
        _say(f"released, although process {holder.pid} was holding {args.dev} and does not know of it")
    return DONE


def _limit(args: argparse.Namespace) -> int:
    _open(args).set_limit(args.size)
    return DONE


def _detach(args: argparse.Namespace) -> int:
    _open(args).detach()
    return DONE


def _show(args: argparse.Namespace) -> int:
    from .show import show

    return show(args.dev, args.netns, as_json=args.json, watch=args.watch)


def _hold(args: argparse.Namespace) -> int:
    import warnings

    from .hold import PacketsDropped
    from .run import Command

    warnings.simplefilter("ignore", PacketsDropped)  # the report says it
    command = Command(args.command)
    status, report = NOT_HELD, None
    trouble: NetlinkError | None = None
    try:
        plug = attach(args.dev, parent=args.parent, limit=args.limit, netns=args.netns)
        with plug, plug.hold(timeout=args.timeout or None) as report:
            status = command.run()
    except HoldExpired as error:
        status, trouble = EXPIRED, error
    except NetlinkError as error:
        status, trouble = NOT_HELD, error
    if trouble is not None:
        _say(str(trouble))
    if report is not None and args.json:
        import json

        print(json.dumps({"device": args.dev, **report.as_dict(), "status": status}), file=sys.stderr)
    elif report is not None and trouble is None:
        _say(_sentence(args.dev, report))
    return status


def _sentence(device: str, report: HoldReport) -> str:
    if report.packets is None:
        return f"held {device} for {report.seconds:.3f} s; how many packets is not known"
    dropped = "none" if report.dropped == 0 else "an unknown number" if report.dropped is None else str(report.dropped)
    sentence = f"held {report.packets} packets ({report.bytes} bytes) of {device} for {report.seconds:.3f} s"
    sentence += f", dropped {dropped}"
    if report.limit_needed:
        needed = report.limit_needed
        sentence += f": a limit of {format_size(needed)} would have been enough (--limit {needed})"
    elif report.dropped:
        sentence += ": give it a larger --limit"
    return sentence


def _doctor(args: argparse.Namespace) -> int:
    from . import doctor

    checks = doctor.examine()
    print(doctor.as_json(checks) if args.json else doctor.report(checks))
    return DONE if doctor.can_hold(checks) else FAILED


class _Verb:
    """One line of the table: name, function, one line of help, and how to add its arguments."""

    def __init__(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        help: str,
        *arguments: tuple[tuple[str, ...], dict[str, Any]],
    ) -> None:
        self.name, self.run, self.help, self.arguments = name, run, help, arguments


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _checked(parse: Callable[[str], Any], name: str) -> Callable[[str], Any]:
    """argparse shows the sentence of an ArgumentTypeError, and hides that of a ValueError."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    convert.__name__ = name
    return convert


def _netns(text: str) -> Netns:
    """A name or a path; a number is a pid unless a namespace has that name."""
    if text.isdecimal() and not os.path.exists(f"/run/netns/{text}"):
        return int(text)
    return text


_SIZE = _checked(parse_size, "size")
_TIME = _checked(parse_time, "time")

_DEV = _argument("dev", metavar="DEV", help="the network device")
_PARENT = _argument("--parent", default="root", metavar="P", help="'root' (the default) or a class, as 1:4")
_NETNS = _argument("--netns", type=_netns, metavar="NAME", help="its network namespace: a name, a path or a pid")
_LIMIT = _argument(
    "--limit", type=_SIZE, metavar="SIZE", help="bytes it may hold, as 32mb; the kernel's default if left out"
)
_JSON = _argument("--json", action="store_true", help="print JSON")

VERBS = (
    _Verb(
        "attach",
        _attach,
        "put a plug on a device, released, or adopt the one that is there",
        _DEV,
        _PARENT,
        _argument("--handle", metavar="H", help="its handle, as 40:"),
        _LIMIT,
        _NETNS,
    ),
    _Verb(
        "buffer",
        _buffer,
        "hold packets from now on, until release or the deadline",
        _DEV,
        _PARENT,
        _argument(
            "--timeout", type=_TIME, metavar="S", help="release after S seconds: a guard stays behind that does it"
        ),
        _NETNS,
    ),
    _Verb(
        "release",
        _release,
        "let everything go and hold no more",
        _DEV,
        _PARENT,
        _argument("--one", action="store_true", help="only the packets before the latest buffer; go on holding"),
        _NETNS,
    ),
    _Verb(
        "limit",
        _limit,
        "change how many bytes a plug may hold",
        _DEV,
        _argument("size", type=_SIZE, metavar="SIZE", help="bytes, as 65536, 64k or 32mb"),
        _PARENT,
        _NETNS,
    ),
    _Verb(
        "detach",
        _detach,
        "release, wait until the plug is empty, and remove it",
        _DEV,
        _PARENT,
        _NETNS,
    ),
    _Verb(
        "show",
        _show,
        "the plugs, their counters, and who holds them",
        _argument("dev", nargs="?", metavar="DEV", help="only this device"),
        _JSON,
        _argument("--watch", action="store_true", help="go on showing, twice a second, until interrupted"),
        _NETNS,
    ),
    _Verb(
        "hold",
        _hold,
        "hold while a command runs: libnlplug hold DEV -- COMMAND...",
        _DEV,
        _PARENT,
        _argument(
            "--timeout",
            type=_TIME,
            default=DEFAULT_TIMEOUT,
            metavar="S",
            help=f"release after S seconds even if the command still runs; else {DEFAULT_TIMEOUT:g}, 0 for never",
        ),
        _LIMIT,
        _argument("--json", action="store_true", help="report as one line of JSON, on stderr as the plain one"),
        _NETNS,
    ),
    _Verb("doctor", _doctor, "whether this host can do it, and if not, what to do", _JSON),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and where to find more."""
        print(f"{self.prog}: {message} (try '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(USAGE)


def parser() -> argparse.ArgumentParser:
    """The parser made from the table; the man page and the completion are made from it too."""
    top = _Parser(
        prog="libnlplug",
        description="Hold the packets of a Linux network device and let them go again. A hold stops traffic.",
        epilog="Sizes and units as tc writes them: 32mb, 10k, bytes. Exit status: 0 done, 1 failed, 2 usage; hold: the"
        " command's own, 124 expired, 125 not held or not released, 126 and 127 as a shell has them.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"libnlplug {__version__}")
    top.add_argument("--man", action="store_true", help="print the manual page (libnlplug --man | man -l -)")
    top.add_argument("--bash-completion", action="store_true", help="print the completion for bash")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for verb in VERBS:
        usage = "libnlplug hold DEV [options] -- COMMAND..." if verb.name == "hold" else None
        sub = verbs.add_parser(verb.name, help=verb.help, description=verb.help, usage=usage, allow_abbrev=False)
        for names, options in verb.arguments:
            sub.add_argument(*names, **options)
        sub.set_defaults(run=verb.run)
    return top


def _say(sentence: str) -> None:
    print(f"libnlplug: {sentence}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    words = sys.argv[1:] if argv is None else argv
    command: list[str] = []
    if words[:1] == ["hold"] and "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    top = parser()
    try:
        args = top.parse_args(words)
        if args.man or args.bash_completion:
            from .manual import bash_completion, man_page

            print(man_page(top) if args.man else bash_completion(top))
            return DONE
        if args.verb is None:
            top.error("which verb?")
        if args.verb == "hold":
            if not command:
                top.error("hold needs a command: libnlplug hold DEV -- COMMAND...")
            args.command = command
        return int(args.run(args))
    except SystemExit as end:
        return int(end.code or 0)
    except NetlinkError as error:
        _say(str(error))
        if args.verb == "hold":
            return NOT_HELD
        return USAGE if isinstance(error, ValueError) else FAILED
    except ValueError as error:
        _say(str(error))
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130
