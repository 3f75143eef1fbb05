# SPDX-License-Identifier: GPL-2.0-or-later
"""Table: every verb of the command and its options, as data. The parser, --help, the manual page and the completions
use it.

``run`` of a verb or an option is "module.function" in this package: main() loads the module when it is needed.
"""

from __future__ import annotations

from . import units

__all__ = ["EXAMPLES", "PACKETS", "STATUSES", "SUMMARY", "TOP", "VERBS", "Option", "Verb"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

DONE, FAILED, USAGE, EXPIRED, NOT_HELD, INTERRUPTED = 0, 1, 2, 124, 125, 130
STATUSES = (
    ("0", "done"),
    ("1", "failed: one line on stderr says what failed, why, and what to do"),
    ("2", "the command line was not understood, so nothing was done"),
    ("124", "hold: the timeout ended before the command; it released then, and the command ran to its end"),
    ("125", "hold: holding failed and the command was not run, or releasing failed"),
    ("126", "hold: the command cannot be run"),
    ("127", "hold: there is no such command"),
    ("128+n", "hold: signal n ended the command"),
    ("other", "hold: the status of its command"),
)
EXAMPLES = (
    (
        "libnlplug hold eth0 --timeout 5 -- systemctl reload haproxy",
        "Packets that leave eth0 wait while haproxy reloads.",
    ),
    ("libnlplug attach eth0 --limit 32mb", "A plug that stays, for buffer, release and the others."),
    ("libnlplug buffer eth0 --timeout 2", "Hold for two seconds, or until 'release'."),
    ("libnlplug release eth0", "Let everything go."),
    ("libnlplug -n blue show --watch", "Show the plugs of the namespace blue, twice a second."),
)
SUMMARY = "Hold the packets of a Linux network device and let them go again. A hold stops traffic."
MORE = (
    "Sizes are written as tc writes them: 65536, 64k or 32mb. Times are seconds, or have a unit: 5, 0.5s, 250ms, 5m"
    " or 1h. Exit status: 0 done, 1 failed, 2 not understood. 'hold' ends with the command's own status, or as"
    " timeout(1) does: 'libnlplug --man' lists all."
)
DEFAULT_TIMEOUT = 10.0


class Option:
    """An option, whose names begin with a dash, or a word that a verb takes.

    ``value`` is the name of its value in the help, or "" for a switch. ``read`` turns the text into the value, or
    raises a ValueError that begins with "NAME is". ``choices`` are the only texts that are allowed, if there are any.
    ``needed`` is true if the word must be given, or has the actions with which it must be. ``run`` is called instead of
    a verb. ``only`` has the actions that take the option, if not all do.
    """

    def __init__(
        self,
        *names: str,
        help: str,
        value: str = "",
        read: Callable[[str], object] = str,
        default: object = None,
        choices: tuple[str, ...] = (),
        needed: bool | tuple[str, ...] = False,
        key: str = "",
        run: str = "",
        only: tuple[str, ...] = (),
    ) -> None:
        self.names, self.help, self.value, self.read, self.choices = names, help, value, read, choices
        self.needed, self.run, self.only = needed, run, only
        self.is_option = names[0].startswith("-")
        self.default = False if self.is_option and not value else default
        self.key = key or max(names, key=len).lstrip("-").replace("-", "_").lower()

    def of(self, *actions: str) -> Option:
        """Return this option for these actions of a verb only."""
        help = f"{self.help} ({' and '.join(actions)})"
        named = {"value": self.value, "read": self.read, "key": self.key, "only": actions}
        return Option(*self.names, help=help, **named)  # type: ignore[arg-type]

    @property
    def shown(self) -> str:
        """As the help writes it: '-n, --netns NAME'."""
        return " ".join(part for part in (", ".join(self.names), self.value if self.is_option else "") if part)


class Verb:
    """A verb: its name, its function, one line of help, the words and options that it takes, and ``more`` help.
    ``command`` is the name of the words after two dashes, or "" if the verb takes none."""

    def __init__(self, name: str, run: str, help: str, *options: Option, more: str = "", command: str = "") -> None:
        self.name, self.run, self.help, self.more, self.command = name, run, help, more, command
        self.words = [one for one in options if not one.is_option]
        self.options = [one for one in options if one.is_option]

    @property
    def all(self) -> list[Option]:
        """Its words, then its options."""
        return [*self.words, *self.options]


def _limit(default: str) -> Option:
    text = f"how many bytes the plug may hold, as 32mb; {default} if left out"
    return Option("--limit", value="SIZE", read=units.limit, help=text)


HELP = Option("-h", "--help", run="manual.print_help", help="print this help")
DEV = Option("DEV", read=units.device, needed=True, help="the network device")
ANY_DEV = Option("DEV", read=units.device, help="only this device")
PARENT = Option("--parent", value="P", default="root", help="'root' (the default) or a class, as 1:4")
NETNS = Option(
    "-n", "--netns", value="NAME", read=units.netns, help="the device's network namespace: a name, a path or a pid"
)
JSON = Option("-j", "--json", help="print JSON")
PACKETS = (
    Option("--ip-proto", value="PROTO", help="only this protocol: tcp, udp, sctp, icmp, icmpv6 or a number"),
    Option("--src-ip", value="IP", help="only from these addresses, written as for --dst-ip"),
    Option("--dst-ip", value="IP", help="only to these addresses: 10.0.0.1, 10.0.0.0/8 or 10.0.0.1,2001:db8::/32"),
    Option("--src-port", value="PORT", read=units.ports, help="only from these ports, written as for --dst-port"),
    Option("--dst-port", value="PORT", read=units.ports, help="only to these ports: 443, https or 80,8000-8010"),
    Option("--tcp-syn", help="only packets that open a TCP connection: SYN without ACK"),
)
HANDOVER = Option(
    "--handover",
    help="wait until the listeners on --dst-port have accepted all, then run the command, then wait until they close",
)
INGRESS = Option("--ingress", help="arriving packets, not leaving ones")
TIMEOUT = Option(
    "--timeout",
    value="TIME",
    read=units.parse_time,
    default=DEFAULT_TIMEOUT,
    help=f"release after this time, even if the command still runs; {DEFAULT_TIMEOUT:g} s if left out, 0 for never",
)
GUARD_TIMEOUT = Option(
    "--timeout",
    value="TIME",
    read=units.parse_time,
    help="release after this time, by a guard that stays behind; never if left out or 0",
)

VERBS: tuple[Verb, ...] = (
    Verb(
        "attach",
        "verbs.attach",
        "put a released plug on a device, or adopt the one that it has",
        DEV,
        PARENT,
        Option("--handle", value="H", help="the plug's handle, as 40:"),
        _limit("the kernel's default"),
        NETNS,
    ),
    Verb(
        "buffer",
        "verbs.buffer",
        "hold packets from now on, until release or the timeout",
        DEV,
        PARENT,
        GUARD_TIMEOUT,
        NETNS,
        more="If the plug already holds, a new epoch begins: see release --one. The command is refused while a hold is"
        " on. Without --timeout, only 'release' ends it. With --timeout, a guard releases at the deadline, or at once"
        " if it gets SIGTERM.",
    ),
    Verb(
        "release",
        "verbs.release",
        "let everything go and hold no more",
        DEV,
        PARENT,
        Option("--one", help="release only the packets from before the latest buffer, and go on holding"),
        NETNS,
        more="It also ends the guard that 'buffer --timeout' started.",
    ),
    Verb(
        "limit",
        "verbs.limit",
        "change how many bytes a plug may hold",
        DEV,
        Option("SIZE", read=units.limit, needed=True, help="bytes, as 65536, 64k or 32mb"),
        PARENT,
        NETNS,
    ),
    Verb(
        "detach",
        "verbs.detach",
        "release, wait until the plug is empty, and remove it",
        DEV,
        PARENT,
        NETNS,
        more="No held packet is lost. The command is refused while a hold is on.",
    ),
    Verb(
        "show",
        "show.show",
        "show the plugs, their counters, and who holds them",
        ANY_DEV,
        JSON,
        Option("--watch", help="go on showing, twice a second, until interrupted"),
        NETNS,
        more="All numbers are the kernel's counters: QLEN packets and BACKLOG bytes are in the plug, DROPS packets"
        " found it full, PACKETS and BYTES have left it. The kernel does not tell whether a plug holds, so show cannot"
        " either. HOLDER is the process that holds by 'hold' or 'buffer --timeout'; a plain 'buffer' has no holder."
        " --watch also shows sizes as tc writes them (1Kb is 1024 bytes), how many PACKETS/S leave, and a bar if the"
        " holder has set the limit. --json prints a list with an object for each plug: device, ifindex, parent,"
        " handle, qlen, backlog, drops, packets, bytes, and holder, which is null or an object: pid, since (seconds of"
        " the epoch), timeout (seconds or null), limit (bytes, or null if the holder has not set it), guard (pid),"
        " detached (true for 'buffer --timeout'), foreign (true if another user has the plug's mark, or its owner does"
        " not answer as a guard: then only pid and uid are known), uid. A pid that cannot be known, as in another pid"
        " namespace, is 0, and a uid -1. --json --watch prints one object on each line: time (seconds of the epoch)"
        " and plugs (that list).",
    ),
    Verb(
        "hold",
        "hold.hold",
        "hold while a command runs",
        DEV,
        PARENT,
        TIMEOUT,
        *PACKETS,
        INGRESS,
        HANDOVER,
        _limit("the kernel's default, 4mb for a lane,"),
        Option("-j", "--json", help="report as one line of JSON, on stderr as the plain one"),
        NETNS,
        command="COMMAND...",
        more="It uses the device's plug. If there is none, it makes one and removes it at the end; the last of several"
        " holds removes it. While a plug is made or removed, the kernel loses packets for some milliseconds, and"
        " nothing counts them. To avoid that, run 'libnlplug attach DEV' before. With packet options, a lane holds"
        " only matching packets and leaves the device's root qdisc alone. If another qdisc is the root and a lane for"
        " all packets is kept, it holds that lane. A guard releases if libnlplug dies. --handover is for a server that"
        " hands its port over to another process: the command runs when no connection waits to be accepted, and the"
        " hold ends when the old listeners have closed and a new one is there. The command gets the signals that"
        " libnlplug gets. It is not run if nothing could be held. --json prints one object: device, packets and bytes"
        " (held at the release), dropped (packets that found the plug full), seconds, limit_needed (bytes that would"
        " have been enough, null if nothing was dropped), expired, temporary (true if the plug was made for the hold,"
        " so that packets may be lost uncounted), command_status (null if it was not run), status (this command's"
        " own), error (a sentence or null). A lane adds handover (null, 'handed over', 'same socket' or 'nothing"
        " listened'), backlog and backlog_needed (connections that the listener has room for, and how many would have"
        " been enough). Unknown values, such as the counts after an expiry, are null.",
    ),
    Verb(
        "lane",
        "lane.lane",
        "keep lanes for chosen packets in place: add, show or delete them",
        Option(
            "ACTION", needed=True, choices=("add", "show", "del"), help="add a lane, show the lanes, or delete them"
        ),
        Option(
            "DEV",
            read=units.device,
            needed=("add", "del"),
            help="the network device; 'lane show' without it shows all",
        ),
        *(one.of("add", "del") for one in PACKETS),
        INGRESS.of("add", "del"),
        _limit("4mb").of("add"),
        JSON.of("show"),
        NETNS,
        more="'lane show' prints a line for each lane: DEVICE, HOOK (egress for leaving packets, ingress for arriving"
        " ones), MATCH (with the values that the packet options take), IFB (the device that carries its plug), and"
        " STATE: kept (by 'lane add'), alive (used by a running program, whose pid is shown), orphan (left behind; the"
        " device's next lane removes it), or drops (it throws packets away). If a lane cannot hold its packets, the"
        " line also says why, and what to do. --json prints a list with an object for each lane: device, hook, match,"
        " state, pid (null unless alive), ifb, slot (its number at the device), ifindex (the ifb's), trouble (why it"
        " cannot hold and what to do, or null). 'lane del' with packet options deletes the lane that 'lane add' made"
        " with the same options; without any it deletes all lanes of the device.",
    ),
    Verb(
        "doctor",
        "verbs.doctor",
        "check whether this host can hold packets, and say what to do",
        JSON,
        more="It prints a line for each check: ok, warning or failed, the check's name, what was found, and what to"
        " do. --json prints a list with an object for each check: name, state (ok, warning or failed), detail and"
        " advice (sentences; advice is null if nothing need be done), needed (true if holding depends on it). Names"
        " and states stay the same in later versions; sentences may change. The status is 1 if a needed check failed.",
    ),
    Verb(
        "help",
        "manual.print_help_about",
        "print the help of a verb, or this one",
        Option("VERB", key="about", help="the verb"),
        Option("ACTION", help="its action, as in 'help lane add': one help describes all actions of a verb"),
    ),
)

# The options that may stand before the verb. -n and -j are then options of the verb.
TOP: tuple[Option, ...] = (
    HELP,
    Option("-V", "--version", run="manual.print_version", help="print the version"),
    NETNS,
    JSON,
    Option("--man", run="manual.print_man_page", help="print the manual page: libnlplug --man | man -l -"),
    Option(
        "--bash-completion",
        run="completion.print_bash",
        help='print the completion for bash: eval "$(libnlplug --bash-completion)"',
    ),
    Option(
        "--zsh-completion",
        run="completion.print_zsh",
        help='print the completion for zsh: eval "$(libnlplug --zsh-completion)"',
    ),
    Option(
        "--fish-completion",
        run="completion.print_fish",
        help="print the completion for fish: libnlplug --fish-completion | source",
    ),
)
