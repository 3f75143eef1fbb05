# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``libnlplug``: one table of verbs, each a few lines over the library.

The table makes --help, the manual page and the completion (manual.py); STATUSES is what the command ends with.
"""

from __future__ import annotations

import io
import os
import sys

from .. import PlugQdisc, attach
from ..errors import DeviceNotFound, HoldExpired, NetlinkError, PlugBusy, QdiscNotFound
from ..netlink.libnl import lib
from ..plug import LIMIT_MAX
from .units import format_size, parse_size, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, TextIO

    from ..hold import HoldReport
    from ..lane.lane import PlugLane
    from ..lane.match import Match
    from ..netlink.netns import Netns

DONE, FAILED, USAGE, EXPIRED, NOT_HELD, INTERRUPTED = 0, 1, 2, 124, 125, 130
DEFAULT_TIMEOUT = 10.0
STATUSES = (
    ("0", "done"),
    ("1", "failed: one line on stderr says what, why, and what to do"),
    ("2", "not understood, so nothing was done"),
    ("124", "hold: the time was up before the command ended; it was released then, and the command ran on to its end"),
    ("125", "hold: holding failed, and the command was not run, or releasing failed"),
    ("126", "hold: the command cannot be run"),
    ("127", "hold: there is no such command"),
    ("128+n", "hold: signal n ended the command"),
    ("other", "hold: the command's own"),
)


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
        plug.refuse_while_held("buffer on")
        plug.buffer()
    return DONE


def _release(args: argparse.Namespace) -> int:
    plug = _open(args)
    if args.one:
        plug.release_one()
        return DONE
    holder = plug.holder()
    plug.release_indefinite()
    if holder is None:
        return DONE
    if not holder.detached:
        from ..guard.holders import called

        what = "sits on its mark and perhaps holds it" if holder.foreign else "is holding it and does not know of this"
        _say(f"released {args.dev}, although {called(holder)} {what}")
        return DONE
    if not plug.end_detached():
        who = f"process {holder.pid}" if holder.pid else "in another pid namespace"
        _say(f"released {args.dev}; its guard, {who}, cannot be ended from here and keeps others from holding")
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

    from ..hold import HoldReport, PacketsDropped
    from .child import Command

    warnings.simplefilter("ignore", PacketsDropped)  # the report says it
    troubles: list[str] = []
    command = Command(args.command, troubles.append)
    report = ended = None
    failed = 0
    try:
        held = _what_to_hold(args)
        with held, held.hold(timeout=args.timeout or None) as report:
            ended = command.run()
    except OSError as error:
        why: BaseException | None = error
        rest = "the command was not run" if ended is None else f"the command's status was {ended}"
        if isinstance(error, PlugBusy) and error.operation.startswith("detach"):
            # Somebody else took the plug that was made here, before this hold began or after it ended.
            why = error.__context__
            stays = f"the plug that was made for this stays: 'libnlplug detach {args.dev}' removes it"
            rest = f"{rest}; {stays}" if why else stays
        if why is not None and not isinstance(why, OSError):
            raise why from None
        if why is not None:
            failed = EXPIRED if isinstance(why, HoldExpired) else NOT_HELD
        troubles.append(f"{_words(why or error)}; {rest}")
    finally:
        command.close()
    status = failed or ended or DONE
    if args.json:
        import json

        shown = {"device": args.dev, **(report or HoldReport()).as_dict(), "command_status": ended}
        _err(json.dumps({**shown, "status": status, "error": "; ".join(troubles) or None}))
        return status
    for trouble in troubles:
        _say(trouble)
    if report is not None and not failed:
        _say(_sentence(args.dev, report))
    return status


def _what_to_hold(args: argparse.Namespace) -> PlugQdisc | PlugLane:
    """The device's plug or, with packet options, a lane."""
    match = _match(args)
    if match is None and not args.ingress:
        if args.limit is not None:
            _refuse_if_held(args)  # or the limit would change under the one who holds
        return attach(args.dev, parent=args.parent, limit=args.limit, netns=args.netns)
    if args.parent != "root":
        raise ValueError("--parent is of the whole device: it goes with no packet option")
    if args.limit is not None:
        _refuse_if_lane_held(args, match)
    return _lane_of(args, match)


def _refuse_if_held(args: argparse.Namespace) -> None:
    try:
        _open(args).refuse_while_held("hold")
    except QdiscNotFound:
        pass


def _refuse_if_lane_held(args: argparse.Namespace, match: Match | None) -> None:
    from ..lane.inventory import lanes
    from ..lane.match import Match
    from ..netlink.route_socket import RouteSocket

    wanted = ("ingress" if args.ingress else "egress", str(match or Match()))
    for lane in lanes(RouteSocket(args.netns), args.dev):
        if (lane.hook, lane.match) == wanted:
            try:
                PlugQdisc.open(lane.ifb, netns=args.netns).refuse_while_held("hold")
            except (DeviceNotFound, QdiscNotFound):
                pass


def _lane_of(args: argparse.Namespace, match: Match | None, *, keep: bool = False) -> PlugLane:
    import warnings

    from ..lane.lane import LaneShadowed, PlugLane
    from ..lane.match import Match

    warnings.simplefilter("ignore", LaneShadowed)  # it is said below
    make = PlugLane.keep if keep else PlugLane
    lane = make(args.dev, match or Match(), ingress=args.ingress, limit=args.limit, netns=args.netns)
    for sentence in lane.shadowed:
        _say(f"warning: {sentence}")
    return lane


def _is_given(args: argparse.Namespace, name: str) -> bool:
    """Whether an option was given, be it as 0 or as the empty word that a script's unset variable is."""
    value = getattr(args, name)
    return value is not None and value is not False


def _match(args: argparse.Namespace) -> Match | None:
    """The packet options, or None where none was given."""
    parts = {name: getattr(args, name) for name in _PARTS if _is_given(args, name)}
    if not parts:
        return None
    from ..lane.match import Match

    return Match(**parts)


def _lane(args: argparse.Namespace) -> int:
    from ..lane.inventory import lanes
    from ..lane.remove import delete_lanes
    from ..netlink.route_socket import RouteSocket

    not_for = {"add": ("json",), "show": (*_PARTS, "ingress", "limit"), "del": ("limit", "json")}
    for name in not_for[args.action]:
        if _is_given(args, name):
            raise ValueError(f"--{name.replace('_', '-')} means nothing to 'lane {args.action}'")
    if args.action == "add":
        _lane_of(args, _match(args), keep=True).close()
        return DONE
    route = RouteSocket(args.netns)
    match = _match(args)
    if args.action == "del":
        every = match is None and not args.ingress  # with packet options it is what 'add' with the same ones has made
        gone = delete_lanes(route, args.dev, match, None if every else args.ingress)
        if not gone:
            _say(f"no such lane on {args.dev}: 'libnlplug lane show {args.dev}' lists them")
        return DONE if gone else FAILED
    found = lanes(route, args.dev)
    if args.json:
        import json

        print(json.dumps([lane.as_dict() for lane in found], indent=2))
        return DONE
    for lane in found:
        state = f"alive, pid {lane.pid}" if lane.state == "alive" else lane.state
        print(f"{lane.device} {lane.hook} {lane.match} on {lane.ifb}: {state}")
    if not found:
        print(f"no lane on {args.dev}")
    return DONE


def _sentence(device: str, report: HoldReport) -> str:
    if report.packets is None:
        return f"held {device} for {report.seconds:.3f} s; how many packets is not known"
    dropped = "none" if report.dropped == 0 else "an unknown number" if report.dropped is None else str(report.dropped)
    packets = "1 packet" if report.packets == 1 else f"{report.packets} packets"
    sentence = f"held {packets} ({report.bytes} bytes) of {device} for {report.seconds:.3f} s"
    sentence += f", dropped {dropped}"
    if report.limit_needed:
        needed = report.limit_needed
        sentence += f": a limit of {format_size(needed)} would have been enough (--limit {needed})"
    elif report.dropped:
        sentence += ": give it a larger --limit"
    return sentence


def _man(args: argparse.Namespace) -> int:
    from .manual import man_page

    print(man_page(parser(), STATUSES))
    return DONE


def _completion(args: argparse.Namespace) -> int:
    from .manual import bash_completion

    print(bash_completion(parser()))
    return DONE


def _doctor(args: argparse.Namespace) -> int:
    from .. import doctor

    checks = doctor.examine()
    print(doctor.as_json(checks) if args.json else doctor.report(checks))
    return DONE if doctor.can_hold(checks) else FAILED


class Verb:
    """One line of the table: name, function, one line of help, its arguments as argparse takes them, and what more to
    say. A ``plain`` one is also read without argparse."""

    def __init__(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        help: str,
        *arguments: tuple[tuple[str, ...], dict[str, Any]],
        more: str = "",
        plain: bool = False,
    ) -> None:
        self.name, self.run, self.help, self.arguments, self.more = name, run, help, arguments, more
        self.plain = plain


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _limit_option(default: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    return _argument("--limit", type=_SIZE, metavar="SIZE", help=f"bytes it may hold, as 32mb; {default} if left out")


def _checked(parse: Callable[[str], Any], name: str) -> Callable[[str], Any]:
    """argparse shows the sentence of an ArgumentTypeError, and hides that of a ValueError."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            from argparse import ArgumentTypeError

            raise ArgumentTypeError(str(error)) from None

    convert.__name__ = name
    return convert


def _device(text: str) -> str:
    longest = lib.IFNAMSIZ - 1
    if not 0 < len(os.fsencode(text)) <= longest:
        raise ValueError(f"device is {text!r}: a device's name has 1 to {longest} bytes")
    return text


def _netns(text: str) -> Netns:
    """A name or a path; a number is a pid unless a namespace has that name."""
    if not text:
        raise ValueError("netns is '': it must be a name, a path or a pid")
    if text.isascii() and text.isdecimal() and not os.path.exists(f"/run/netns/{text}"):
        return int(text)
    return text


def _limit_size(text: str) -> int:
    size = parse_size(text)
    if not 1 <= size <= LIMIT_MAX:
        why = ", with 0 the plug would drop every packet for ever" if size == 0 else ""
        raise ValueError(f"limit is {text!r}: it must be 1 to {LIMIT_MAX} bytes{why}")
    return size


_SIZE = _checked(_limit_size, "size")
_TIME = _checked(parse_time, "time")
_DEVICE = _checked(_device, "device")

_DEV = _argument("dev", type=_DEVICE, metavar="DEV", help="the network device")
_PARENT = _argument("--parent", default="root", metavar="P", help="'root' (the default) or a class, as 1:4")
_NETNS = _argument(
    "--netns", type=_checked(_netns, "netns"), metavar="NAME", help="its network namespace: a name, a path or a pid"
)
_JSON = _argument("--json", action="store_true", help="print JSON")

_PARTS = ("ip_proto", "src_ip", "dst_ip", "src_port", "dst_port", "tcp_syn")
_PACKETS = (
    _argument("--ip-proto", metavar="PROTO", help="only this protocol: tcp, udp, sctp, icmp, icmpv6 or a number"),
    _argument("--src-ip", metavar="IP", help="only from this address or prefix"),
    _argument("--dst-ip", metavar="IP", help="only to this address or prefix"),
    _argument("--src-port", type=int, metavar="PORT", help="only from this port"),
    _argument("--dst-port", type=int, metavar="PORT", help="only to this port"),
    _argument("--tcp-syn", action="store_true", help="only what opens a TCP connection: SYN without ACK"),
    _argument("--ingress", action="store_true", help="arriving packets, not leaving ones"),
)

VERBS = (
    Verb(
        "attach",
        _attach,
        "put a plug on a device, released, or adopt the one that is there",
        _DEV,
        _PARENT,
        _argument("--handle", metavar="H", help="its handle, as 40:"),
        _limit_option("the kernel's default"),
        _NETNS,
        plain=True,
    ),
    Verb(
        "buffer",
        _buffer,
        "hold packets from now on, until release or the deadline",
        _DEV,
        _PARENT,
        _argument(
            "--timeout",
            type=_TIME,
            metavar="S",
            help="release after S seconds: a guard stays behind that does it; never if left out or 0",
        ),
        _NETNS,
        more="Where the plug holds already, a new epoch begins: see release --one. Refused while a hold is on. Without"
        " --timeout nothing releases it but 'release'; 'hold' and 'buffer --timeout' cannot be forgotten. SIGTERM makes"
        " the guard of a --timeout release at once.",
        plain=True,
    ),
    Verb(
        "release",
        _release,
        "let everything go and hold no more",
        _DEV,
        _PARENT,
        _argument("--one", action="store_true", help="only the packets before the latest buffer; go on holding"),
        _NETNS,
        more="It also ends the guard that 'buffer --timeout' has left behind.",
        plain=True,
    ),
    Verb(
        "limit",
        _limit,
        "change how many bytes a plug may hold",
        _DEV,
        _argument("size", type=_SIZE, metavar="SIZE", help="bytes, as 65536, 64k or 32mb"),
        _PARENT,
        _NETNS,
        plain=True,
    ),
    Verb(
        "detach",
        _detach,
        "release, wait until the plug is empty, and remove it",
        _DEV,
        _PARENT,
        _NETNS,
        more="Nothing that it holds is lost. Refused while a hold is on.",
        plain=True,
    ),
    Verb(
        "show",
        _show,
        "the plugs, their counters, and who holds them",
        _argument("dev", nargs="?", type=_DEVICE, metavar="DEV", help="only this device"),
        _JSON,
        _argument("--watch", action="store_true", help="go on showing, twice a second, until interrupted"),
        _NETNS,
        more="All are counters of the kernel's: QLEN packets and BACKLOG bytes are in the plug, DROPS packets found it"
        " full, PACKETS and BYTES have left it. No kernel tells whether a plug holds, so that is not shown; HOLDER is"
        " who holds it by 'hold' or 'buffer --timeout', and a plain 'buffer' leaves none. --json prints a list, for"
        " each plug an object: device, ifindex, parent, handle, qlen, backlog, drops, packets, bytes, and holder, which"
        " is null or an object: pid, since (seconds of the epoch), timeout (seconds or null), limit (bytes, or null"
        " where the holder has not set it), guard (pid), detached (by 'buffer --timeout'), foreign (the plug's mark is"
        " another user's, or does not answer as a guard does: only pid and uid are known), uid. A pid that cannot be"
        " known, as in another pid namespace, is 0, a uid -1. --json --watch prints one line a look: an"
        " object of time (seconds of the epoch) and plugs (that list).",
    ),
    Verb(
        "hold",
        _hold,
        "hold while a command runs",
        _DEV,
        _PARENT,
        _argument(
            "--timeout",
            type=_TIME,
            default=DEFAULT_TIMEOUT,
            metavar="S",
            help=f"release after S seconds even if the command still runs; else {DEFAULT_TIMEOUT:g}, 0 for never",
        ),
        *_PACKETS,
        _limit_option("the kernel's default, 4mb for a lane,"),
        _argument("--json", action="store_true", help="report as one line of JSON, on stderr as the plain one"),
        _NETNS,
        more="It uses the plug that is there, or makes one and removes it again. A guard releases if libnlplug dies."
        " The command gets the signals that libnlplug gets, and is not run if nothing could be held. --json prints one"
        " object: device, packets and bytes (held when it was released), dropped (packets that found the plug full),"
        " seconds, limit_needed (bytes that would have been enough, null if nothing was dropped), expired,"
        " command_status (null if it was not run), status (this command's own), error (a sentence, or null). What is"
        " not known, as the counts after an expiry, is null.",
    ),
    Verb(
        "lane",
        _lane,
        "keep a lane for chosen packets: libnlplug lane add|show|del DEV",
        _argument("action", choices=("add", "show", "del"), help="add one, show those of the device, or delete them"),
        _DEV,
        *_PACKETS,
        _limit_option("4mb"),
        _JSON,
        _NETNS,
    ),
    Verb("doctor", _doctor, "whether this host can do it, and if not, what to do", _JSON),
)


def parser() -> argparse.ArgumentParser:
    """argparse's parser of the table."""
    from .._version import __version__
    from .parser import parser_of

    return parser_of(VERBS, __version__)


def _err(line: str) -> None:
    """A line on stderr; where nobody can read it, that changes neither what is done nor the exit status."""
    try:
        if sys.stderr is not None:  # print() would take stdout instead
            print(line.replace("\n", "\\n"), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _say(sentence: str) -> None:
    _err(f"libnlplug: {sentence}")


def _discard(stream: TextIO | None) -> None:
    """What is still in the stream's buffer must not fail once more when Python ends."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _words(error: OSError) -> str:
    return str(error) if isinstance(error, NetlinkError) else error.strerror or str(error)


class _Args:
    """What the words say: the attributes of argparse's Namespace."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the words do not say {name}")


def _read_plainly(words: list[str]) -> _Args | None:
    """What a script says, verb, device and whole options, read without argparse: to load that, and to make its parser,
    takes as long as all the rest of the command. None for anything else: what that means is argparse's to say."""
    verb = next((verb for verb in VERBS if verb.plain and words[:1] == [verb.name]), None)
    if verb is None:
        return None
    args = _Args()
    args.__dict__.update(verb=verb.name, run=verb.run, man=False, bash_completion=False, command=None)
    options: dict[str, tuple[str, dict[str, Any]]] = {}
    positions = []
    for (name,), how in verb.arguments:
        key = name.lstrip("-").replace("-", "_")
        if name.startswith("-"):
            options[name] = (key, how)
            setattr(args, key, False if "action" in how else how.get("default"))
        else:
            positions.append((key, how))
    rest = iter(words[1:])
    for word in rest:
        if word.startswith("-"):
            if word not in options:
                return None
            key, how = options[word]
            if "action" in how:
                setattr(args, key, True)
                continue
            value = next(rest, "-")
        elif positions:
            key, how = positions.pop(0)
            value = word
        else:
            return None
        if value.startswith("-"):
            return None
        try:
            setattr(args, key, how.get("type", str)(value))
        except Exception:  # argparse's ArgumentTypeError, which has not been loaded
            return None
    return None if positions else args


def _read(words: list[str]) -> argparse.Namespace | _Args:
    """The words as the table reads them; SystemExit, after one line on stderr, where it cannot."""
    plain = _read_plainly(words)
    if plain is not None:
        return plain
    top = parser()
    command: list[str] | None = None
    if words[:1] == ["hold"]:
        if "--" in words:
            at = words.index("--")
            words, command = words[:at], words[at + 1 :]
        if not command and not {"-h", "--help"}.intersection(words):
            top.error("hold needs '--' and a command: libnlplug hold DEV [options] -- COMMAND...")
    args = top.parse_args(words)
    if args.man or args.bash_completion:
        args.run = _man if args.man else _completion
    elif args.verb is None:
        top.error(f"give a verb: {', '.join(verb.name for verb in VERBS)}")
    args.command = command
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status."""
    try:
        try:
            args = _read(sys.argv[1:] if argv is None else argv)
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="surrogateescape")  # a device's name may be any bytes
            status = int(args.run(args))
        except SystemExit as end:
            status = int(end.code or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except NetlinkError as error:
        _say(str(error))
        return USAGE if isinstance(error, ValueError) else FAILED
    except ValueError as error:
        _say(str(error))
        return USAGE
    except OSError as error:  # nearly always of stdout; who closed a pipe knows it
        if not isinstance(error, BrokenPipeError):
            _say(f"failed: {_words(error)}")
        _discard(sys.stdout)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
