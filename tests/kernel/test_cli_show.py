# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug show: the counters as tc has them, the holder as a fact, nothing that no kernel tells."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import libnlplug
from libnlplug import PlugQdisc
from libnlplug.command.plugs import plugs
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.route_socket import QdiscInfo, RouteSocket
from tests.support.command import COMMAND, ENVIRONMENT, PATIENCE, Cli
from tests.support.hold import expect_held, holder_of
from tests.support.netlab import FRAME, Wire
from tests.support.terminal import CTRL_C, CTRL_Z

KEYS = ["device", "ifindex", "parent", "handle", "qlen", "backlog", "drops", "packets", "bytes", "holder"]
HOLDER_KEYS = ["pid", "since", "timeout", "limit", "guard", "detached", "foreign", "uid"]
HEADS = ["DEVICE", "PARENT", "HANDLE", "QLEN", "BACKLOG", "DROPS", "PACKETS", "BYTES", "HOLDER"]


@pytest.fixture
def cli(wire: Wire) -> Cli:
    """The command in the wire's near namespace."""
    return Cli(wire.near)


def test_the_table_has_every_plug_with_tcs_numbers(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """One line for each plug of the namespace, other qdiscs left out; the numbers are those that tc shows."""
    assert cli("show", "--netns", wire.far.path).out == "no plug in this network namespace\n"
    wire.near.tc("qdisc add dev lo root handle 1: prio")
    libnlplug.attach("lo", parent="1:2", handle="20:", netns=wire.near).close()
    wire.expect(wire.send(3))
    plug.buffer()
    expect_held(wire, plug, 4)
    heads, *rows = (line.split() for line in cli("show").out.splitlines())
    shown = wire.near.qdisc(wire.device)
    numbers = [str(shown[name]) for name in ("qlen", "backlog", "drops", "packets", "bytes")]
    assert numbers == ["4", str(4 * FRAME), "0", "3", str(3 * FRAME)]
    assert heads == HEADS
    assert sorted(rows) == sorted(
        [["lo", "1:2", "20:", "0", "0", "0", "0", "0", "-"], [wire.device, "root", "504c:", *numbers, "-"]]
    )
    assert [line.split()[0] for line in cli("show", "lo").out.splitlines()] == ["DEVICE", "lo"]


def test_json_has_the_same_keys_always(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """--json is a list of objects with these keys in this order; holder is null, or an object with its own."""
    plug.buffer()
    expect_held(wire, plug, 2)
    (one,) = json.loads(cli("show", "--json").out)
    assert list(one) == KEYS
    assert one["holder"] is None
    index = wire.near.link(wire.device)["ifindex"]
    assert [one[key] for key in KEYS[:6]] == [wire.device, index, "root", "504c:", 2, 2 * FRAME]
    assert all(isinstance(one[key], int) for key in ("drops", "packets", "bytes"))
    plug.release_indefinite()

    plug.set_limit(500_000)
    with plug.hold(timeout=30):
        (one,) = json.loads(cli("show", "--json", wire.device).out)
        guard = holder_of(plug).guard
    holder = one["holder"]
    assert list(holder) == HOLDER_KEYS
    assert abs(holder.pop("since") - time.time()) < 60
    assert holder == {
        "pid": os.getpid(),
        "timeout": 30.0,
        "limit": 500_000,
        "guard": guard,
        "detached": False,
        "foreign": False,
        "uid": 0,
    }
    assert json.loads(cli("show", "--json", "--netns", wire.far.path).out) == []


def test_the_holder_is_named_and_since_when(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """The holder's pid, the time of day and the seconds since, and its timeout stand in the table."""
    with plug.hold(timeout=30):
        row = cli("show", wire.device).out.splitlines()[1]
    pattern = rf"-?pid {os.getpid()} since \d\d:\d\d:\d\d \(\d+\.\d s, timeout 30 s\)"
    assert re.search(pattern + "$", row), row
    cli("buffer", wire.device, "--timeout", "20")
    row = cli("show", wire.device).out.splitlines()[1]
    assert re.search(rf"guard pid {holder_of(plug).guard} since .* timeout 20 s\)$", row), row
    cli("release", wire.device)


def test_a_plug_that_a_dump_misses_is_shown(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's dump misses qdiscs where a link is deleted meanwhile: they are asked for again, also those of
    classes, and a link that is gone is none."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    with libnlplug.attach(wire.device, parent="1:2", netns=wire.near):
        sk, whole, dumps = RouteSocket(wire.near), RouteSocket.qdiscs, []

        def qdiscs(self: RouteSocket) -> list[QdiscInfo]:
            dumps.append(None)
            return [] if len(dumps) == 1 else [info for info in whole(self) if info.parent != lib.TC_H_ROOT]

        monkeypatch.setattr(RouteSocket, "qdiscs", qdiscs)
        assert [(plug["device"], plug["parent"]) for plug in plugs(sk, None)] == [(wire.device, "1:2")]
        assert len(dumps) == 2
        dumps.clear()
        monkeypatch.setattr(RouteSocket, "_links", lambda self: [99999])
        assert plugs(sk, None) == []


def test_the_holder_of_a_class_is_shown(wire: Wire, cli: Cli) -> None:
    """Of two plugs at two classes of one device, the holder stands beside the one that is held."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio bands 3")
    one, two = (libnlplug.attach(wire.device, parent=parent, netns=wire.near) for parent in ("1:1", "1:2"))
    with one, two, two.hold():
        shown = {row["parent"]: row["holder"] for row in json.loads(cli("show", wire.device, "--json").out)}
    assert shown["1:1"] is None
    assert shown["1:2"]["pid"] == os.getpid()


def test_a_name_of_any_bytes_is_shown(wire: Wire, cli: Cli) -> None:
    """A device may be called by bytes that are no text: they are printed as they are, and as JSON."""
    name = os.fsdecode(b"t\xff" + wire.device[:6].encode())
    wire.near.run(subprocess.run, ["ip", "link", "add", name, "type", "dummy"], check=True)
    try:
        cli("attach", name)
        process = cli.start("show", name, text=False)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, b"")
        assert out.splitlines()[1].split()[0] == os.fsencode(name)
        assert json.loads(cli("show", name, "--json").out)[0]["device"] == name
    finally:
        wire.near.run(subprocess.run, ["ip", "link", "del", name], check=True)


def test_a_reader_that_has_gone_is_no_traceback(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """libnlplug show | head -0: status 1 and nothing on stderr, once or watching."""
    for words in (["show"], ["show", "--watch"]):
        read, write = os.pipe()
        os.close(read)
        process = cli.start(*words, stdout=write)
        os.close(write)
        assert process.communicate(timeout=PATIENCE) == (None, "")
        assert process.returncode == 1


def test_watching_into_a_pipe_is_plain_lines(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """--watch where stdout is no terminal: the heads once, then a whole line for each look, no escapes, no bar; 0 after
    SIGINT."""
    process = cli.start("show", wire.device, "--watch")
    assert process.stdout is not None
    heads, first = process.stdout.readline(), process.stdout.readline()
    with plug.hold(timeout=30):
        expect_held(wire, plug, 4)
        while (line := process.stdout.readline()).split()[3:5] != ["4", "400b"]:
            assert line.split()[1:3] == [wire.device, "root"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in heads + first + line + out
    assert heads.split() == ["TIME", "DEVICE", "PARENT", "QLEN", "BACKLOG", "LIMIT", "PACKETS/S", "DROPS", "HOLDER"]
    assert "DEVICE" not in first + line + out
    assert re.fullmatch(r"\d\d:\d\d:\d\d", first.split()[0])
    assert first.split()[1:] == [wire.device, "root", "0", "0b", "-", "0", "0", "-"]
    assert line.split()[5] == "-", "nobody has set a limit, so none is shown"
    assert re.search(rf"pid {os.getpid()}, \d+\.\d of 30 s$", line.rstrip())
    at = heads.index("HOLDER")
    assert [one[at - 1] for one in (first, line)] == [" ", " "]
    assert [one[at] for one in (first, line)] == ["-", "p"], "columns are aligned"


def test_watching_as_json_is_one_object_a_line(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """--watch --json: on each line the time and the list that show --json prints."""
    process = cli.start("show", "--watch", "--json")
    assert process.stdout is not None
    for _ in range(2):
        look = json.loads(process.stdout.readline())
        assert list(look) == ["time", "plugs"]
        assert [list(one) for one in look["plugs"]] == [KEYS]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE)[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize("columns", [100, 48])
def test_watching_on_a_terminal_redraws(wire: Wire, plug: PlugQdisc, cli: Cli, columns: int) -> None:
    """On a terminal, however narrow, one screen: a note that sizes are bytes, the heads, and each plug once, now, with
    a bar where the limit is known; on Ctrl-C what was there before comes back, with status 0."""
    wire.shrink()
    plug.set_limit(1000)
    terminal = cli.terminal("show", "--watch", columns=columns)
    terminal.until(lambda _: len(terminal.screen()) == 3)
    note, heads, row = terminal.screen()
    assert note[10:].startswith("sizes are bytes, 1Kb is 1024 "[: columns - 11])
    assert heads.split()[:5] == ["DEVICE", "PARENT", "QLEN", "BACKLOG", "LIMIT"]
    assert row.split()[:5] == [wire.device, "root", "0", "0b", "-"], "the holder has set no limit: none is shown"

    def shown() -> list[str]:
        return terminal.screen()[2].split()

    with plug.hold(timeout=30):
        numbers = expect_held(wire, plug, 5)
        terminal.until(lambda _: shown()[2:5] == ["5", "500b", "1000b"])
        if columns == 100:
            heads, row = terminal.screen()[1:]
            assert shown()[5] == "[#####.....]"
            assert heads.index("FULL") == row.index("[")
            assert row.index(f"pid {os.getpid()}, ") == heads.index("HOLDER")
            assert re.search(r" \d+\.\d of 30 s$", row)
    wire.expect(numbers)
    terminal.until(lambda _: shown()[2:5] == ["0", "0b", "-"])
    if columns == 100:
        terminal.until(lambda _: re.search(rf"{wire.device} +root +0 +0b +- +- +[1-9]\d* +0 +-", terminal.text))
    assert len(terminal.screen()) == 3
    assert max(len(line) for line in terminal.screen()) <= columns
    terminal.type(CTRL_C)
    assert terminal.status() == 0
    assert terminal.screen() == []
    assert "Traceback" not in terminal.text


def test_a_terminal_that_is_resized(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """The next look has the new size: no line is wrapped or left over."""
    terminal = cli.terminal("show", "--watch", columns=100)
    terminal.expect("HOLDER", 2)
    terminal.resize(30, 2)
    terminal.until(lambda _: terminal.screen()[1:] == ["... 2 more lines"])
    assert len(terminal.screen()[0]) == 30
    terminal.resize(120, 24)
    terminal.until(lambda _: len(terminal.screen()) == 3 and terminal.screen()[2].endswith(" -"))
    terminal.process.terminate()
    assert terminal.status() == 128 + signal.SIGTERM
    assert terminal.text.endswith("\x1b[?1049l"), "the screen is given back"


def test_watching_that_is_stopped(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Ctrl-Z gives the terminal back to the shell, with what was there before; fg draws the screen again."""
    terminal = cli.shell()
    terminal.expect("$ ")
    terminal.type(f"{cli.line('show', '--watch')}\n")
    for times in (1, 2):
        terminal.until(lambda _: len(terminal.screen()) == 3 and wire.device in terminal.screen()[2])
        terminal.type(CTRL_Z)
        terminal.until(lambda _, times=times: terminal.text.count("\x1b[?1049l") == times)
        terminal.until(lambda _: terminal.text.rpartition("\x1b[?1049l")[2].rstrip(" ").endswith("$"))
        assert "Stopped" in terminal.text.rpartition("\x1b[?1049l")[2]
        assert terminal.screen()[0].startswith("$ "), "what was there before"
        terminal.type("fg\n")
    terminal.until(lambda _: len(terminal.screen()) == 3 and wire.device in terminal.screen()[2])
    terminal.type(CTRL_C)
    terminal.until(lambda _: terminal.text.rpartition("\x1b[?1049l")[2].rstrip(" ").endswith("$"))
    terminal.type("exit $?\n")
    assert terminal.status() == 0
    assert "Traceback" not in terminal.text


def test_more_plugs_than_rows_stay_on_the_screen(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Where the terminal has too few rows, the last one says how much is missing, and nothing scrolls."""
    wire.near.tc("qdisc add dev lo root handle 1: prio bands 6")
    for band in range(1, 7):
        libnlplug.attach("lo", parent=f"1:{band}", netns=wire.near).close()
    terminal = cli.terminal("show", "--watch", columns=200, rows=5)
    terminal.expect("more lines", 3)
    lines = terminal.screen()
    terminal.type(CTRL_C)
    assert terminal.status() == 0
    assert len(lines) == 5
    assert lines[4] == "... 5 more lines"


def test_a_device_that_vanishes_ends_the_watching(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """show DEV --watch ends with 1 and one line when the device is gone."""
    process = cli.start("show", wire.device, "--watch")
    assert process.stdout is not None
    process.stdout.readline()
    wire.near.ip(f"link del {wire.device}")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.startswith(f"libnlplug: cannot find {wire.device}: No such device")


def test_completion_offers_names_and_never_runs_them(tmp_path: Path) -> None:
    """Devices and namespaces are offered by name, one that looks like a command is not run."""
    program = (
        "mount -t sysfs sys /sys && mkdir -p /run/netns && mount -t tmpfs run /run/netns && touch /run/netns/blue"
        f" && cd {tmp_path} && ip link add '$(id>x)' type dummy && ip link add plain0 type dummy"
        ' && eval "$("$@" --bash-completion)"'
        ' && COMP_CWORD=2 && COMP_WORDS=(libnlplug buffer "") && _libnlplug && echo "${COMPREPLY[@]}"'
        ' && COMP_CWORD=3 && COMP_WORDS=(libnlplug show --netns "") && _libnlplug && echo "${COMPREPLY[@]}"'
    )
    argv = ["unshare", "--net", "--mount", "bash", "--norc", "-c", program, "bash"]
    done = subprocess.run([*argv, *COMMAND], capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["$(id>x) lo plain0", "blue"]
    assert os.listdir(tmp_path) == []
