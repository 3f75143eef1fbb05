# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets: everything here that parses, each as a function of a Source that raises where a promise is broken.

What is allowed to come out of each is said in its docstring. Those that send requests do so in a network namespace of
their own: alone() makes one.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import pickle
import select
import signal
import socket
import struct
import threading
from _thread import RLock
from pathlib import Path
from typing import Callable

from libnlplug import InvalidHandle, NetlinkError, PlugQdisc, attaching
from libnlplug import plug_qdisc as port
from libnlplug.command import show as shows
from libnlplug.command import watch
from libnlplug.command.parser import UsageError, read
from libnlplug.command.units import format_size, parse_size, parse_time
from libnlplug.guard import client as guard
from libnlplug.guard import holders as holders_room
from libnlplug.guard.holders import Place
from libnlplug.guard.start import listening, send_config
from libnlplug.lane import filters as redirect
from libnlplug.lane import hook, ifb
from libnlplug.lane import inventory as lanes
from libnlplug.lane.match import Match
from libnlplug.netlink import attributes, devices, messages, netns, refusals, route_socket
from libnlplug.netlink.libnl import ffi, lib
from tests.fuzz.source import DELQDISC, ERROR, NEWQDISC, Source

Target = Callable[[Source], None]
TARGETS: dict[str, Target] = {}

SIZES = "0 1 9 16 4095 99999999999999999999 . - + e inf nan k K kb mb Gb gbit bit b m g kbit s ms us secs msec min 0x _"
HANDLES = "root none ingress clsact 0 1 a f ffff 10000 fffffffff : 1:4 ffff:fff2 :1 - 0x + . default TC # /"
NAMES = "/ . .. proc self ns net run netns 1 99999 lo eth0 * ~ -1 %s"
ADDRESSES = "10 0 255 256 . : :: /8 /24 /33 /128 /129 / 2001 db8 fe80 ::1 %lo 127.0.0.1 ::ffff:1.2.3.4 0x1 /255.0.0.0"
WORDS = """
    attach buffer release limit detach show hold lane doctor add del -- --parent --handle --limit --one --json --watch
    --timeout --netns --ingress --ip-proto --src-ip --dst-ip --src-port --dst-port --tcp-syn --man --version --help -h
    lo eth0 root 1: 1:4 32mb 0 1 99999999999 tcp 10.0.0.0/8 8080 5s - = --limit=1 --timeout=0.5 --netns=x --parent=
    -n -j -V help --man=
"""


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


def says(error: Exception, words: str = "") -> None:
    """The refusal is a sentence, with these words in it."""
    if not str(error) or words not in str(error):
        raise AssertionError(f"{words} is not in: {error!r}")


@target
def sizes(source: Source) -> None:
    """A size is 0 to 2^62 bytes and can be printed and read again, or a ValueError that shows the text."""
    text = source.text(SIZES)
    try:
        size = parse_size(text)
    except ValueError as error:
        says(error, repr(text))
        return
    assert 0 <= size < 1 << 62
    assert abs(parse_size(format_size(size)) - size) <= size * 0.0005 + 1


@target
def times(source: Source) -> None:
    """A time is 0 to 1e9 seconds, or a ValueError that shows the text."""
    text = source.text(SIZES)
    try:
        seconds = parse_time(text)
    except ValueError as error:
        says(error, repr(text))
        return
    assert 0 <= seconds <= 1e9


def anything(source: Source, texts: str) -> object:
    """A text, mostly, or a value of any other kind."""
    if source.below(4):
        return source.text(texts, 6)
    return source.one_of([None, 0, 1, -1, 6, 80, 255, 256, 65535, 65536, 1 << 40, True, False, 1.5, b"1", [], math.nan])


@target
def matches(source: Source) -> None:
    """Any parts make a Match of addresses of its families and ports that exist, or a ValueError."""
    parts: dict[str, object] = {}
    protocols = ("tcp", "udp", "sctp", "icmp", "icmpv6", "TCP", "6", "256", "-1", "\u0666", "", 6, 1, None)
    if source.below(3):
        parts["ip_proto"] = source.one_of(protocols) if source.below(4) else anything(source, "t cp 0 1 9 +")
    for name in ("src_ip", "dst_ip"):
        if source.sometimes(2):
            parts[name] = anything(source, ADDRESSES)
    for name in ("src_port", "dst_port"):
        if source.sometimes(2):
            parts[name] = source.number(32) if source.below(4) else anything(source, "1 80")
    if source.sometimes(2):
        parts["tcp_syn"] = source.one_of([True, False, 0, 1, "yes", None])
    try:
        match = Match(**parts)  # type: ignore[arg-type]
    except ValueError as error:
        says(error)
        return
    assert pickle.loads(pickle.dumps(match)) == match
    assert Match(**match.as_dict()) == match  # type: ignore[arg-type]
    assert str(match).isprintable()
    for family in match.families:
        for *networks, source_ports, destination_ports in match.choices(family):
            assert {network.version for network in networks if network} <= {family}
            assert all(1 <= first <= last <= 65535 for first, last in filter(None, (source_ports, destination_ports)))


@target
def handles(source: Source) -> None:
    """A handle or parent is 32 bits, and what is printed of it is read as the same; else None or a ValueError."""
    text = source.text(HANDLES, 8)
    handle = messages.parse_handle(text)
    if handle is not None:
        assert 0 <= handle <= 0xFFFF_FFFF
        assert messages.parse_handle(messages.handle_text(handle)) == handle
    for check in (messages.parent_classid, messages.checked_handle):
        value = text if source.below(8) else anything(source, HANDLES)
        with contextlib.suppress(ValueError, InvalidHandle):
            assert 0 < check(value) <= 0xFFFF_FFFF  # type: ignore[arg-type]
    with contextlib.suppress(ValueError):
        assert 1 <= messages.checked_limit(anything(source, SIZES)) < 1 << 31  # type: ignore[arg-type]


@target
def port_texts(source: Source) -> None:
    """The drop-in port returns 0 or -1 for any device, parent, id and limit; libnl's classid file stays as it was."""
    device = source.one_of(["lo", "lo", "nothing", source.text(NAMES, 6)])
    parent = source.one_of(["root", "1:", "1:4", source.text(HANDLES, 6)])
    id = source.one_of(["1:", "40:", None, source.text(HANDLES, 6)])
    limit = source.number(32) if source.below(8) else source.number(64) - source.number(64)
    before = classids()
    with contextlib.redirect_stderr(io.StringIO()) as words:
        assert port.plug_qdisc_attach(device, parent, id, limit) in (0, -1)
        port.plug_qdisc_plug_buffer()
        port.plug_qdisc_release_indefinite_buffer()
    assert len(words.getvalue()) < 2000
    assert classids() == before


def classids() -> list[object]:
    return [os.path.exists(path) and os.stat(path)[6:9] for path in ("/etc/libnl/classid", "/etc/libnl-3/classid")]


@target
def netns_names(source: Source) -> None:
    """Any name, path, number or object is a descriptor, or a NetlinkError, ValueError or TypeError; it never waits."""
    text = source.text(NAMES, 8)
    given = source.one_of(
        [
            text,
            text,
            Path(text.replace("\0", "")),
            source.number(64) - 2,
            source.number(32),
            Numbered(source.one_of([-1, 0, 1 << 20, 1 << 31, 1 << 40, None, "1", 1.0])),
            anything(source, NAMES),
        ]
    )
    try:
        fd = netns._open_netns(given)  # type: ignore[arg-type]
    except (NetlinkError, ValueError, TypeError) as error:
        says(error)
        return
    os.close(fd)


class Numbered:
    """What has a fileno(), of whatever kind."""

    def __init__(self, number: object) -> None:
        self._number = number

    def fileno(self) -> object:
        return self._number


@target
def command_words(source: Source) -> None:
    """Any words are read as a command, with a value for each of its options, or refused with a sentence."""
    words = [
        source.one_of(WORDS.split()) if source.below(6) else source.text(f"{SIZES} {NAMES} -- --l", 4)
        for _ in range(source.below(9))
    ]
    try:
        args = read(words)
    except UsageError as error:
        says(error, "(try 'libnlplug ")
        return
    assert args.run.partition(".")[0] in ("manual", "completion", "verbs", "show", "hold", "lane")
    for one in args.verb.all if args.verb and args.run == args.verb.run else ():
        getattr(args, one.key)


@target
def replies(source: Source) -> None:
    """Any bytes that come back are an errno and a sentence, and any of these a NetlinkError that can be printed."""
    reply = source.error() if source.sometimes(4) else source.datagram()
    head = struct.pack("=IHHII", 16 + len(reply), ERROR, source.one_of((0x300, 0x200, 0, 0x100)), 1, 0)
    reply = head + reply if source.below(4) else reply
    parsed = refusals.parse_reply(reply)
    assert (parsed is None) == (len(reply) < 36)
    device = source.one_of(["lo", None])
    if source.below(8):
        error = refusals.refusal_in(reply, "attach a plug to", device)
    else:
        error = refusals.unanswered(source.below(200), "attach a plug to", device)
    assert isinstance(error, NetlinkError)
    assert str(error).startswith("cannot attach a plug to")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@target
def attribute_lists(source: Source) -> None:
    """Whatever lengths attributes claim, they are read within their bytes; so are filters and ifbs."""
    data = source.one_of([source.attributes, source.tc, source.link, lambda: source.bytes(200)])()
    found = attributes.attributes(data)
    assert sum(4 + len(payload) for _, payload in found) <= len(data)
    for kind, payload in found:
        assert 0 <= kind < 1 << 14
        assert payload in data
        attributes.text(payload)
    one = hook._read(source.tc() if source.below(4) else data)
    if one is not None:
        redirect.ender(one, Match())
        redirect.is_lanes(one)
        lanes.dead_slots({False: [one], True: []})
    read_as_lane(devices._read(source.link() if source.below(4) else data))
    told = " ".join(source.text("pid= hook= match= kept=1 clsact=1 = ingress 4711", 4) for _ in range(source.below(6)))
    name = source.text("plug 1 - 99 \u0661 x", 5)
    alias = told if source.sometimes(2) else f"libnlplug-lane {told}"
    read_as_lane(devices.Device(1, name, alias, ifb.ADDRESS, bool(source.below(2)), "ifb", 0, 0, 1514, 65536, 0, 0))


def read_as_lane(device: devices.Device) -> None:
    found = lanes._lane(device)
    assert all(isinstance(value, str) for value in ifb.words_of(device).values())
    if found is not None:
        assert 0 <= found.slot < redirect.SLOTS
        assert found.filters >= 0
        found.is_for(found.ingress, str(Match())), found.kept, found.pid


class Line:
    """A RouteSocket whose other end is not the kernel."""

    def __init__(self) -> None:
        self.sk = route_socket.RouteSocket()
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        os.dup2(theirs.fileno(), self.sk.fileno())
        self.theirs = theirs

    def answer(self, datagrams: list[bytes]) -> None:
        """What will be there when something is asked; earlier questions and answers are forgotten."""
        for end in (self.ours, self.theirs):
            with contextlib.suppress(BlockingIOError):
                while True:
                    end.recv(1)
        for datagram in datagrams:
            with contextlib.suppress(BlockingIOError):
                self.ours.send(datagram)


_line: list[Line] = []


@target
def kernel_answers(source: Source) -> None:
    """Whatever the kernel's side of a netlink socket sends, a question has an answer or is a NetlinkError, at once."""
    if not _line:
        _line.append(Line())
    line = _line[0]
    line.answer(datagrams(source))
    sk = line.sk
    plug = PlugQdisc(sk, "lo", 1, lib.TC_H_ROOT, 0x504C_0000)
    questions = (
        lambda: sk.ifindex_of("lo"),
        lambda: sk.link_name(1),
        lambda: sk.qdisc(1, lib.TC_H_ROOT, "lo"),
        sk.qdiscs,
        lambda: hook.filters_at(sk, 1, "lo", False),
        lambda: ifb.ifbs(sk),
        lambda: ifb.ifb_of(sk, 1),
        plug.buffer,
        plug.stats,
        lambda: attaching._create(sk, plug),
        lambda: attaching.attach_by(sk, "lo", lib.TC_H_ROOT, None, 1000),
        lambda: hook.make_clsact(sk, 1, "lo"),
    )
    with contextlib.suppress(NetlinkError):
        source.one_of(questions)()


def datagrams(source: Source) -> list[bytes]:
    return [source.datagram() for _ in range(1 + source.below(4))]


def chains(source: Source) -> list[bytes]:
    return [source.chains() for _ in range(1 + source.below(3))]


class Mark:
    """Somebody who sits on a plug's mark and tells every visitor something."""

    def __init__(self) -> None:
        self.name = f"libnlplug-fuzz/{os.getpid()}"
        self.words = b""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("\0" + self.name)
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            visitor, _ = self._listener.accept()
            with visitor, contextlib.suppress(OSError):
                if self.words:
                    visitor.send(self.words)


_mark: list[Mark] = []


@target
def holders(source: Source) -> None:
    """Whatever sits on a plug's mark says, there is a Holder of whom show, its JSON and PlugBusy can tell."""
    if not _mark:
        _mark.append(Mark())
    told = struct.pack("=IIQQQ", *source.numbers(2), *(source.number(64) & (1 << 64) - 1 for _ in range(3)))
    _mark[0].words = source.cut(told) + (source.bytes(80) if source.sometimes(8) else b"")
    holder = holders_room.holder_of(None, _mark[0].name)
    if holder is None:
        return
    assert str(holders_room.busy(holders_room.Place("lo", 1, 0x504C0000, source.number(32) & 0xFFFFFFFF), holder))
    numbers = dict.fromkeys(("ifindex", "qlen", "drops", "packets", "bytes"), source.number(32))
    plug = {"device": "lo", "parent": "root", "handle": "1:", **numbers, "backlog": source.number(32), "holder": None}
    plug["holder"] = holder.as_dict()
    json.loads(json.dumps([plug]))
    for lines in (shows.lines([plug]), watch.lines([plug], watch.Rates())):
        assert len("\n".join(lines)) < 4000


@target
def guard_answers(source: Source) -> None:
    """Whatever a guard answers, holding and releasing end with an answer or a NetlinkError."""
    ours, theirs = guard.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = guard.Guard.__new__(guard.Guard)
    made._lock, made._ids, made._is_child = RLock(), itertools.count(1), False
    made._device, made._socket, made.pid = "lo", ours, 0
    made._places = [Place("lo", 1, 1 << 16, 1 << 16)]
    for _ in range(source.below(4)):
        failed = source.one_of((0, 0, 1, 16, 98, 98, 4095)) if source.below(4) else source.number(32)
        step, outcome, lost = (source.below(9) for _ in range(3))
        numbers = (source.below(4), failed & 0xFFFF_FFFF, step, source.below(3), outcome, lost, source.below(2))
        counts, errors = source.bytes(32).ljust(32, b"\0"), source.bytes(4 * source.below(3))
        answer = struct.pack("=QIIIIII", *numbers) + counts + errors
        theirs.send(source.cut(answer) + (source.bytes(60) if source.sometimes(8) else b""))
    theirs.shutdown(socket.SHUT_WR)  # no more comes, and what it is told still arrives
    with contextlib.suppress(NetlinkError, guard.PlugsRefused):
        made.hold(silent_line().sk, source.below(4), source.one_of([None, 1e-9, 5.0, 1e9]))
    with contextlib.suppress(NetlinkError):
        made.release(source.below(4))
    assert made.alive in (True, False)
    for end in (ours, theirs):
        end.close()


@target
def guard_program(source: Source) -> None:
    """Whatever its holder says, the guard ends with the conversation, by itself: no signal, nothing that goes on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        config, *commands = guard_words(source)
        ours.setblocking(False)
        with contextlib.closing(listening()) as route:
            config = config[:12] + struct.pack("=I", route.getsockname()[0]) + config[16:]
            send_config(ours, config, route.fileno())
        descriptors = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
        pid = os.posix_spawn(guard.PATH, ["libnlplug-guard", "of", "fuzz"], {}, file_actions=descriptors)
        theirs.close()
        for words in commands:
            with contextlib.suppress(OSError):
                ours.send(words)
    child = os.pidfd_open(pid)
    ready = select.poll()
    ready.register(child, select.POLLIN)
    over = ready.poll(5000)
    os.close(child)
    if not over:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert over, "the guard goes on"
    assert os.WIFEXITED(status), f"the guard was ended by signal {os.WTERMSIG(status)}"


def guard_words(source: Source) -> list[bytes]:
    """What a holder sends: a configuration and questions, all nearly right."""
    if source.sometimes(12):
        config = source.bytes(source.below(500))
    else:
        kinds = (NEWQDISC, NEWQDISC, DELQDISC, source.one_of((38, NEWQDISC)), source.one_of((18, DELQDISC)))
        messages = [source.requests(kind)[:64].ljust(64, b"\0") for kind in kinds]
        if source.below(8):  # a length that fits
            messages = [struct.pack("=I", 36 + source.below(29)) + one[4:] for one in messages]
        count = source.below(4)
        said = source.number(32) & 0xFFFF_FFFF if source.sometimes(20) else count
        version = lib.GUARD_VERSION if source.below(20) else source.below(9)
        head = struct.pack("=IIII", version, os.getpid(), said, 1)  # the port of guard_cases.c
        places = b"".join(struct.pack("=iII", source.one_of((1, 1, 77)), *source.numbers(2)) for _ in range(count))
        config = source.cut(head + b"".join(messages) + places)
    questions = []
    for _ in range(source.below(5)):
        what, detached = source.one_of((1, 1, 2, 3, 0, 77)), source.sometimes(6)
        timeout = source.one_of((0, 1, 1_000_000, -1, -(1 << 63)))  # nanoseconds
        if source.sometimes(3) and not detached:  # a detached hold may last as long as it was told
            timeout = source.number(63)
        words = (what, source.below(2), detached, 0, source.below(3), timeout, source.number(64) & (1 << 64) - 1)
        questions.append(source.cut(struct.pack("=IIIIQqQ", *words)))
    return [config, *questions]


_silent: list[Line] = []


def silent_line() -> Line:
    if not _silent:
        _silent.append(Line())
    return _silent[0]


def alone() -> None:
    """Enter a network namespace of this process's own."""
    if not any(lib.unshare(flags) == 0 for flags in (lib.CLONE_NEWNET, lib.CLONE_NEWNET | lib.CLONE_NEWUSER)):
        raise OSError(ffi.errno, f"no network namespace of its own can be had: {os.strerror(ffi.errno)}")
