# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug hold DEV -- COMMAND: held while the command runs, released whatever happens, its status kept."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

import libnlplug
from libnlplug import PlugQdisc
from libnlplug.command import main as cli_main
from tests.support.command import PATIENCE, Cli, let_end
from tests.support.hold import (
    NOBODY,
    Child,
    child,
    expect_ended,
    expect_flow,
    expect_held,
    holder_of,
    mark_of,
    marks,
    squatting,
)
from tests.support.netlab import FRAME, Wire, eventually, setns
from tests.support.terminal import CTRL_C

REPORT = r"libnlplug: held {packets} \({bytes} bytes\) of {device} for \d+\.\d{{3}} s, dropped {dropped}\n"


@pytest.fixture
def cli(wire: Wire) -> Cli:
    """The command in the wire's near namespace."""
    return Cli(wire.near)


def test_it_holds_while_the_command_runs(wire: Wire, cli: Cli) -> None:
    """Packets wait until the command ends, then arrive in order; one line says how many; the plug is removed again."""
    process = cli.holding(wire.device, script="exit 7")
    numbers = wire.send(5)
    assert wire.near.qdisc(wire.device)["qlen"] == 5
    assert wire.arrived() == []
    out, err = let_end(process, 7)
    expect_flow(wire, numbers)
    assert out == ""
    before = f"; packets may be lost when hold makes and removes a plug: run 'libnlplug attach {wire.device}' before"
    dropped = f"none{before}"
    assert re.fullmatch(REPORT.format(packets="5 packets", bytes=5 * FRAME, device=wire.device, dropped=dropped), err)
    assert "plug" not in wire.near.kinds(wire.device)


def test_a_plug_that_was_there_stays(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """hold uses the plug that is there, with a given limit, and leaves it there, released."""
    wire.shrink()
    process = cli.holding(wire.device, "--limit", "300b")
    numbers = wire.send(4)
    _, err = let_end(process)
    assert "held 3 packets (300 bytes)" in err
    assert "dropped 1: a limit of " in err
    (needed,) = re.findall(r"\(--limit (\d+)\)", err)
    assert int(needed) >= 4 * FRAME
    expect_flow(wire, numbers[:3])
    assert plug.stats().drops == 1


def test_json_is_one_line_of_known_keys(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """--json puts one object on stderr, the same keys always, and leaves stdout to the command."""
    process = cli.holding(wire.device, "--json", script="echo out; exit 3")
    wire.send(2)
    out, err = let_end(process, 3)
    report = json.loads(err)
    assert (out, err.count("\n")) == ("out\n", 1)
    seconds = report.pop("seconds")
    assert isinstance(seconds, float)
    assert seconds > 0
    assert report == {
        "device": wire.device,
        "packets": 2,
        "bytes": 2 * FRAME,
        "dropped": 0,
        "limit_needed": None,
        "expired": False,
        "temporary": False,
        "command_status": 3,
        "status": 3,
        "error": None,
    }


def test_json_says_what_failed(cli: Cli) -> None:
    """Where nothing could be held, --json is the same object: nothing held, no command's status, and the error."""
    _, err = cli("hold", "nosuch", "--json", "--", "true", status=125)
    report = json.loads(err)
    assert "No such device" in report["error"]
    assert (report["status"], report["command_status"], report["packets"], report["seconds"]) == (125, None, None, None)


def test_a_plug_that_is_held_is_refused_and_the_command_not_run(
    wire: Wire, plug: PlugQdisc, cli: Cli, tmp_path: Path
) -> None:
    """125, the holder's pid, the command was not run; and the hold that is on goes on, its limit unchanged."""
    with plug.hold(timeout=60):
        numbers = expect_held(wire, plug)
        touch = ("touch", str(tmp_path / "touched"))
        why = cli.complaint("hold", wire.device, "--limit", "1", "--", *touch, status=125)
        assert why == f"cannot hold {wire.device}: process {os.getpid()} holds it; the command was not run"
        numbers += expect_held(wire, plug)
    expect_flow(wire, numbers)
    assert not (tmp_path / "touched").exists()


def test_no_plug_is_made_that_cannot_be_held(wire: Wire, cli: Cli) -> None:
    """Somebody is on the mark of the plug that would be made for it: refused with his pid, and no plug stays."""
    with libnlplug.attach(wire.device, netns=wire.near) as plug:
        mark = mark_of(plug)
    with squatting(wire, mark) as squatter:
        assert squatter.hear() == "sitting"
        why = cli.complaint("hold", wire.device, "--", "true", status=125)
    who = f"process {squatter.pid} of uid {NOBODY} has taken the plug's mark"
    assert why.startswith(f"cannot attach a plug to {wire.device}: {who}")
    assert why.endswith("; the command was not run")
    assert wire.near.kinds(wire.device) == ["noqueue"]


def test_who_begins_to_hold_when_a_hold_has_ended_does_not_spoil_it(wire: Wire) -> None:
    """Its plug cannot be removed then, and that is told; the status is the command's own, and so is the report."""

    def work(this: Child) -> None:
        setns(wire.near.fileno())
        detach, others = PlugQdisc.detach, []

        def after_another_hold_has_begun(plug: PlugQdisc, **options: float) -> None:
            others.append(PlugQdisc.open(wire.device))
            others[-1].hold().__enter__()
            detach(plug, **options)

        PlugQdisc.detach = after_another_hold_has_begun
        with redirect_stderr(io.StringIO()) as lines:
            status = cli_main(["hold", wire.device, "--", "sh", "-c", "exit 3"])
        this.say([status, lines.getvalue().splitlines()])

    with child(work) as process:
        status, (trouble, report) = process.hear()
        assert process.status() == 0
    does = f"'libnlplug detach {wire.device}' does"
    stays = f"a 'libnlplug hold' removes the plug at its end; after another hold, {does}"
    assert (status, trouble) == (
        3,
        f"libnlplug: cannot detach the plug of {wire.device}: process {process.pid} holds it; {stays}",
    )
    assert report.startswith(f"libnlplug: held 0 packets (0 bytes) of {wire.device} for ")


def test_an_expired_hold_is_released_at_once_and_the_command_runs_on(
    wire: Wire, plug: PlugQdisc, cli: Cli, tmp_path: Path
) -> None:
    """At the deadline packets flow; the command runs to its end undisturbed; then 124, with the command's status."""
    process = cli.holding(wire.device, "--timeout", "0.5", script=f"touch {tmp_path}/touched; exit 3")
    numbers = wire.send(5)
    wire.expect(numbers)
    expect_flow(wire, [])
    assert process.poll() is None
    assert not (tmp_path / "touched").exists()
    out, err = let_end(process, 124)
    assert (tmp_path / "touched").exists()
    assert "timeout of 0.5 s" in err
    assert err.endswith("; the command's status was 3\n")
    assert err.count("\n") == 1


def test_the_failure_of_a_hold_comes_before_the_programs_status(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """A program that ends with 3 after the hold has expired: 124, not 3."""
    out, err = cli("hold", wire.device, "--timeout", "0.1", "--", "sh", "-c", "sleep 0.5; exit 3", status=124)
    assert "the command's status was 3" in err


def test_a_timeout_of_0_is_none(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """--timeout 0 holds without a deadline, and still with a guard; without the option there are ten seconds."""
    for option, timeout in (("0", None), (None, 10.0)):
        process = cli.holding(wire.device, timeout=option)
        assert holder_of(plug).timeout == timeout
        let_end(process)


def test_a_command_that_cannot_be_run(wire: Wire, cli: Cli) -> None:
    """126 and 127 as a shell has them; nothing stays held, and the plug is removed."""
    _, err = cli("hold", wire.device, "--", "/nosuch/program", status=127)
    assert err.startswith("libnlplug: cannot run /nosuch/program: no such command\n")
    _, err = cli("hold", wire.device, "--", "/proc/self", status=126)
    assert err.startswith("libnlplug: cannot run /proc/self: Permission denied\n")
    assert "plug" not in wire.near.kinds(wire.device)
    expect_flow(wire, [])


def test_signals_go_to_the_command(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """HUP, INT and USR1 sent to libnlplug reach the command, and the hold goes on; TERM ends both, released."""
    traps = "trap 'echo HUP' HUP; trap 'echo INT' INT; trap 'echo USR1' USR1; trap 'echo TERM; exit 9' TERM"
    script = f"{traps}; echo ready; while :; do sleep 0.01; done"
    process = cli.start("hold", wire.device, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    numbers = expect_held(wire, plug)
    for name in ("HUP", "INT", "USR1"):
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == f"{name}\n"
        numbers += expect_held(wire, plug, 1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("TERM\n", 9)
    expect_flow(wire, numbers)


def test_a_command_that_a_signal_ends_gives_128_and_its_number(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """A command killed by SIGKILL gives 137; what was held flows."""
    process = cli.holding(wire.device, script="kill -9 $$")
    numbers = expect_held(wire, plug)
    let_end(process, 137)
    expect_flow(wire, numbers)


def test_ctrl_c_reaches_the_command_once(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """On a terminal, Ctrl-C is the command's: it gets one SIGINT and may go on, held; the status is its own."""
    script = "trap 'echo got one' INT; trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    terminal = cli.terminal("hold", wire.device, "--", "sh", "-c", script)
    terminal.expect("ready")
    numbers = expect_held(wire, plug)
    for times in (1, 2, 3):
        terminal.type(CTRL_C)
        terminal.expect("got one", times)
        numbers += expect_held(wire, plug)
    terminal.process.terminate()
    assert terminal.status() == 4
    assert terminal.text.count("got one") == 3
    expect_flow(wire, numbers)


def test_ctrl_c_releases(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """A command that dies of Ctrl-C gives 130, and nothing stays held."""
    terminal = cli.terminal("hold", wire.device, "--", "sh", "-c", "echo ready; exec sleep 60")
    terminal.expect("ready")
    numbers = expect_held(wire, plug)
    terminal.type(CTRL_C)
    assert terminal.status() == 130
    expect_flow(wire, numbers)


def test_sigkill_of_the_holder_releases(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """libnlplug hold dies by SIGKILL: packets flow within two seconds, the guard goes, and the command is not hurt."""
    process = cli.holding(wire.device, script="sleep 60")
    numbers = expect_held(wire, plug)
    guard = holder_of(plug).guard
    killed = time.monotonic()
    process.kill()
    wire.expect(numbers)
    assert time.monotonic() - killed < 2
    expect_flow(wire, [])
    expect_ended(guard)
    assert marks(wire.near) == []
    process.wait(PATIENCE)
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def test_a_stopped_holder_is_released_at_its_deadline(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """libnlplug hold stopped by SIGSTOP beyond its timeout: packets flow; when it goes on, it says 124."""
    process = cli.holding(wire.device, "--timeout", "0.5")
    process.send_signal(signal.SIGSTOP)
    numbers = wire.send(5)
    wire.expect(numbers)
    expect_flow(wire, [])
    process.send_signal(signal.SIGCONT)
    _, err = let_end(process, 124)
    assert "overstayed" in err


def test_a_device_that_vanishes_is_said(wire: Wire, cli: Cli) -> None:
    """The device is removed while held: 125 and a line that says so, not a hang; the command's status is in it."""
    process = cli.holding(wire.device)
    wire.send(3)
    wire.near.ip(f"link del {wire.device}")
    _, err = let_end(process, 125)
    assert wire.device in err
    assert "No such device" in err
    assert err.endswith("the command's status was 0\n")


def test_input_and_output_are_the_commands(cli: Cli) -> None:
    """libnlplug hold works in a pipe: stdin and stdout are the command's alone."""
    process = cli.start("hold", "lo", "--", "tr", "a-z", "A-Z", stdin=-1)
    out, err = process.communicate("from here\n", timeout=PATIENCE)
    assert (process.returncode, out) == (0, "FROM HERE\n")
    assert err.count("\n") == 1


def test_it_is_shown_as_the_holder(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """While it holds, show names its pid; when it has ended, nobody."""
    process = cli.holding(wire.device)
    assert f"pid {process.pid} since " in cli("show", wire.device).out
    let_end(process)
    assert eventually(lambda: plug.holder() is None, "the mark goes")


def test_a_handover_ends_when_the_old_listener_has_closed(cli: Cli, wire: Wire) -> None:
    """--handover holds on after the command until the old listener has closed and a new one is there, and says so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wire.near.ip("link set lo up")
    made = [wire.near.run(socket.socket) for _ in range(2)]
    for one in made:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", port))
    old, new = made
    old.listen()
    words = ("hold", "lo", "--tcp-syn", "--dst-port", str(port), "--handover", "--timeout", "10", "--json")
    process = cli.start(*words, "--", "echo", "ran")
    assert process.stdout is not None
    assert process.stdout.readline() == "ran\n"
    new.listen()
    time.sleep(0.3)
    assert process.poll() is None, "the old listener is there, so it is held"
    old.close()
    _, err = process.communicate(timeout=PATIENCE)
    report = json.loads(err)
    assert (process.returncode, report["handover"], report["error"]) == (0, "handed over", None)
    new.close()
    assert "--handover needs" in cli.complaint_of_usage("hold", "lo", "--handover", "--tcp-syn", "--", "true")


def test_what_is_said_of_a_listener_that_stays(cli: Cli, wire: Wire) -> None:
    """A command that succeeds: the same socket still listens, which has two possible reasons. One that fails has
    replaced nothing, and nothing is said."""
    wire.near.ip("link set lo up")
    with wire.near.run(socket.create_server, ("127.0.0.1", 0)) as server:
        words = ("hold", "lo", "--tcp-syn", "--dst-port", str(server.getsockname()[1]), "--handover", "--")
        assert cli(*words, "true").err.splitlines()[1].startswith("libnlplug: the same socket still listens: ")
        assert len(cli(*words, "false", status=1).err.splitlines()) == 1
