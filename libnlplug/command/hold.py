# SPDX-License-Identifier: GPL-2.0-or-later
"""hold: hold while a command runs, and end as timeout(1) does.

    what to hold?  -->  hold it, run the command, release  -->  put back what was made  -->  tell
         |                       |                                     |
         '-- not held: 125       '-- expired: 124, not released: 125   '-- somebody holds it now: it stays

Each failure is noted in the Outcome. A later one does not hide it.
"""

from __future__ import annotations

import warnings

from ..attaching import attach_temporary
from ..errors import HoldExpired, NetlinkError, PlugBusy, QdiscExists, QdiscNotFound
from ..hold import Hold, HoldReport, PacketsDropped, PacketsUncounted
from ..netlink.route_socket import RouteSocket
from ..plug import PlugQdisc
from .advice import elsewhere, explained
from .child import Command
from .lane import chosen, lane_for
from .output import err, say
from .parser import UsageError
from .table import DONE, EXPIRED, NOT_HELD
from .units import format_size
from .verbs import device_named, opened

__all__ = ["hold"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from ..lane.lane import PlugLane
    from ..lane.match import Match
    from .parser import Args

    Held = Union[PlugQdisc, PlugLane]


TRIES = 10
TEMPORARY = "packets may be lost when hold makes and removes a plug: run 'libnlplug attach {}' before"
HANDED_OVER = {
    "same socket": "the same socket still listens: a server that keeps its socket needs no hold; if the command only"
    " asks the server to restart, let it wait for that",
    "nothing listened": "nothing listened on the port before, in this network namespace: nothing was handed over",
}


class Outcome:
    """The outcome of a hold. ``ended`` is the command's status, or None if it was not run. ``report`` is the hold's.
    ``temporary`` is true if the plug was. ``failed`` is the exit status for the first failure, or 0. ``troubles`` has a
    sentence for each failure."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.ended: int | None = None
        self.report = HoldReport()
        self.temporary = False
        self.failed = 0
        self.troubles: list[str] = []

    def not_held(self, sentence: str) -> None:
        """Note that nothing could be held, so that the command was not run, or that the release failed."""
        self._fail(NOT_HELD, sentence)

    def expired(self, sentence: str) -> None:
        """Note that the guard released the packets while the command still ran."""
        self._fail(EXPIRED, sentence)

    def stays(self, sentence: str, made: bool) -> None:
        """Note that the temporary plug stays, because another process holds it now. The hold itself may have succeeded.
        Only the process that made the plug reports it."""
        if not made:
            return
        does = f"'libnlplug detach {_place(self.args)}' does"
        stays = f"a 'libnlplug hold' removes the plug at its end; after another hold, {does}"
        if self.failed:
            self.troubles[-1] += f"; {elsewhere(stays, self.args)}"
        else:
            self.troubles.append(f"{sentence}; {elsewhere(stays, self.args)}")

    def _fail(self, status: int, sentence: str) -> None:
        """Note a failure. Only the first one counts: later ones follow from it."""
        if not self.failed:
            self.failed = status
            did = "the command was not run" if self.ended is None else f"the command's status was {self.ended}"
            self.troubles.append(f"{sentence}; {did}")

    @property
    def status(self) -> int:
        """The exit status of this command."""
        return self.failed or self.ended or DONE


def hold(args: Args) -> int:
    """libnlplug hold DEV -- COMMAND..."""
    warnings.simplefilter("ignore", PacketsDropped)  # the report says it
    if not args.json:
        warnings.simplefilter("always", PacketsUncounted)  # the report does not say why
    outcome = Outcome(args)
    command = Command(args.command, outcome.troubles.append)
    try:
        for left in reversed(range(TRIES)):
            gone = _hold_once(args, command, outcome)
            if gone is None:
                break
            if not left:
                outcome.not_held(explained(gone, args))
    except OSError as error:
        if isinstance(error, ValueError):  # an invalid handle or limit: status 2
            raise
        outcome.not_held(explained(error, args))
    finally:
        command.close()
    _tell(outcome)
    return outcome.status


def _hold_once(args: Args, command: Command, outcome: Outcome) -> QdiscNotFound | None:
    """Make or find a plug or lane, hold it, and remove what was made. Return the error if another hold removed the plug
    before this one began: then try again."""
    try:
        held = _what_to_hold(args)
    except QdiscNotFound as error:
        return error
    outcome.temporary = isinstance(held, PlugQdisc) and held.temporary
    gone = None
    try:
        with held:
            gone = _hold(held, command, outcome)
    except PlugBusy as error:
        outcome.stays(explained(error, args), held.created if isinstance(held, PlugQdisc) else True)
    except OSError as error:
        outcome.not_held(explained(error, args))
    return gone


def _hold(held: Held, command: Command, outcome: Outcome) -> QdiscNotFound | None:
    """Hold, run the command, release. Return the error if a temporary plug was gone before anything was held."""
    args = outcome.args
    try:
        with _begun(held, args) as outcome.report:
            outcome.ended = command.run()
    except HoldExpired as error:
        outcome.expired(explained(error, args))
    except OSError as error:
        if isinstance(error, QdiscNotFound) and outcome.temporary and outcome.ended is None:
            return error
        outcome.not_held(explained(error, args))
    return None


def _begun(held: Held, args: Args) -> Hold:
    """Return the hold. The caller enters it."""
    timeout = args.timeout or None
    if isinstance(held, PlugQdisc):
        return held.hold(timeout)
    from ..lane.hold import BacklogTooSmall

    warnings.simplefilter("ignore", BacklogTooSmall)  # printed at the end
    return held.hold(timeout, handover=args.handover)


def _what_to_hold(args: Args) -> Held:
    """Return the device's plug or, with packet options, a lane."""
    match = chosen(args)
    if args.handover and (match is None or not match.tcp_syn or match.dst_port is None):
        raise UsageError("option --handover needs --tcp-syn and --dst-port", args.verb)
    if args.handover and not args.ingress and args.dev != "lo":
        raise UsageError("option --handover needs --ingress: it is for connections that arrive, or on lo", args.verb)
    if args.handover and not args.timeout:
        raise UsageError("option --handover needs a --timeout that is not 0", args.verb)
    if match is not None or args.ingress:
        if args.parent != "root":
            raise UsageError("option --parent cannot be combined with packet options or --ingress", args.verb)
        if args.limit is not None:
            _refuse_if_lane_held(args, match)
        return lane_for(args, match)
    if args.limit is not None:
        _refuse_if_held(args)  # or the limit would change under the one who holds
    try:
        return attach_temporary(device_named(args), parent=args.parent, limit=args.limit, netns=args.netns)
    except QdiscExists:
        if not _lane_for_all_is_kept(args):
            raise
        return lane_for(args, None)


def _lane_for_all_is_kept(args: Args) -> bool:
    from ..lane.inventory import shown_lanes
    from ..lane.match import Match

    if args.parent != "root":
        return False
    wanted = ("egress", str(Match()), "kept")
    return any((one.hook, one.match, one.state) == wanted for one in shown_lanes(RouteSocket(args.netns), args.dev))


def _refuse_if_held(args: Args) -> None:
    try:
        _refuse(opened(args), args.dev)
    except QdiscNotFound:
        pass


def _refuse_if_lane_held(args: Args, match: Match | None) -> None:
    from ..lane.inventory import shown_lanes
    from ..lane.match import Match

    wanted = ("ingress" if args.ingress else "egress", str(match or Match()))
    for one in shown_lanes(RouteSocket(args.netns), device_named(args)):
        if (one.hook, one.match) == wanted:
            try:
                plug = PlugQdisc.open(one.ifb, netns=args.netns)
            except NetlinkError:  # it is gone, or an orphan's rest
                continue
            _refuse(plug, f"{args.dev} ({one.match})")


def _refuse(plug: PlugQdisc, shown: str) -> None:
    """Raise PlugBusy if somebody holds the plug."""
    try:
        plug.refuse_while_held("hold")
    except PlugBusy as error:
        from ..lane.ifb import unnamed

        raise unnamed(error, plug.device, shown) from None


def _place(args: Args) -> str:
    """Return the plug's place as a command line names it."""
    return args.dev if args.parent == "root" else f"{args.dev} --parent {args.parent}"


def _tell(outcome: Outcome) -> None:
    """Print on stderr what was held and what failed."""
    args, report = outcome.args, outcome.report
    if args.json:
        import json

        shown = {"device": args.dev, **report.as_dict(), "temporary": outcome.temporary}
        shown.update(command_status=outcome.ended, status=outcome.status, error="; ".join(outcome.troubles) or None)
        err(json.dumps(shown))
        return
    for trouble in outcome.troubles:
        say(trouble)
    if outcome.ended is not None and not outcome.failed:
        uncounted = f"; {elsewhere(TEMPORARY.format(_place(args)), args)}" if outcome.temporary else ""
        say(f"{sentence(args.dev, report)}{uncounted}")
        shown = report.as_dict()
        about = HANDED_OVER.get(str(shown.get("handover")))
        if about and not outcome.ended:  # a command that failed has replaced nothing
            say(about)
        held, backlog = shown.get("backlog_needed"), shown.get("backlog")
        if isinstance(held, int) and isinstance(backlog, int):
            from ..lane.hold import backlog_sentence

            say(f"warning: {backlog_sentence(held, backlog)}")


def sentence(device: str, report: HoldReport) -> str:
    """Return the report as one sentence."""
    if report.packets is None:
        unknown = "an unknown number"
        return f"held {unknown} of packets of {device} for {report.seconds:.3f} s, dropped {unknown}"
    dropped = str(report.dropped) if report.dropped else "none"
    packets = "1 packet" if report.packets == 1 else f"{report.packets} packets"
    said = f"held {packets} ({report.bytes} bytes) of {device} for {report.seconds:.3f} s, dropped {dropped}"
    if report.limit_needed:
        needed = report.limit_needed
        return f"{said}: a limit of {format_size(needed)} would have been enough (--limit {needed})"
    return f"{said}: give it a larger --limit" if report.dropped else said
