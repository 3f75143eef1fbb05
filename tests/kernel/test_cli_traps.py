# SPDX-License-Identifier: GPL-2.0-or-later
"""The traps that other tools for the plug qdisc set: each is shown, where tc can show it, and not fallen into here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import libnlplug
from libnlplug import PlugQdisc
from tests.support.command import COMMAND, ENVIRONMENT, PATIENCE, Cli, let_end
from tests.support.hold import expect_ended, expect_flow, expect_held, holder_of
from tests.support.netlab import FRAME, Wire


@pytest.fixture
def cli(wire: Wire) -> Cli:
    """The command in the wire's near namespace."""
    return Cli(wire.near)


def script(wire: Wire, text: str) -> subprocess.CompletedProcess[str]:
    """A shell script in which ``libnlplug`` is the command, run in the near namespace."""
    command = f'libnlplug() {{ {" ".join(COMMAND)} "$@"; }}; DEV={wire.device}\n{text}'
    return wire.near.run(
        subprocess.run, ["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE
    )


def test_a_plug_without_a_limit_drops_nothing(wire: Wire, cli: Cli) -> None:
    """Trap: a plug made without a limit gets limit 0 and drops every packet, also after the release. Not here."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 40: plug limit 0")
    wire.near.tc(f"qdisc change dev {wire.device} handle 40: plug release_indefinite")
    wire.send(3)
    assert wire.near.qdisc(wire.device)["drops"] == 3
    wire.near.tc(f"qdisc del dev {wire.device} root")

    cli("attach", wire.device)
    wire.expect(wire.send(3))
    process = cli.holding(wire.device)
    numbers = wire.send(200)
    let_end(process)
    wire.expect(numbers)
    assert wire.near.qdisc(wire.device)["drops"] == 0


def test_a_limit_of_0_is_refused_everywhere(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: limit 0 is taken and stops the traffic for ever. Here it is status 2, and ValueError in the library."""
    for words in (["attach", wire.device, "--limit", "0"], ["limit", wire.device, "0k"]):
        assert "drop every packet for ever" in cli.complaint_of_usage(*words)
    with pytest.raises(ValueError, match="drop every packet for ever"):
        plug.set_limit(0)
    with pytest.raises(ValueError, match="drop every packet for ever"):
        libnlplug.attach(wire.device, limit=0, netns=wire.near)
    expect_flow(wire, [])


def test_an_unknown_action_holds_nothing(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: an unknown action, or the number 2, is taken for BUFFER: a typo stops the traffic. Here it is status 2."""
    for action in ("bufer", "2"):
        assert action in cli.complaint_of_usage(action, wire.device)
    with pytest.raises(ValueError, match="on_death is 'relase'"):
        plug.hold(on_death="relase")
    expect_flow(wire, [])
    assert plug.last_action == "release_indefinite"


def test_a_stray_word_is_never_passed_over(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: --release-indefinite glued to the word before it is ignored with status 0. Here it is status 2."""
    plug.buffer()
    numbers = expect_held(wire, plug)
    for words in (("release--one", wire.device), ("release", wire.device, "--release-indefinite")):
        cli.complaint_of_usage(*words)
    assert plug.stats().qlen == len(numbers), "what is not understood does nothing, not half of it"
    cli("release", wire.device)
    wire.expect(numbers)


def test_a_script_whose_release_is_mistyped_does_not_stop_the_traffic(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: the release is mistyped, its error goes to /dev/null, and the traffic stays held. A deadline mends that."""
    cli("buffer", wire.device, "--timeout", "1.5")
    numbers = expect_held(wire, plug)
    guard = holder_of(plug).guard
    assert script(wire, "libnlplug release--one $DEV 2>/dev/null; echo $?").stdout == "2\n"
    wire.expect(numbers)
    expect_flow(wire, [])
    expect_ended(guard)


def test_the_command_is_not_run_where_holding_failed(wire: Wire, cli: Cli, tmp_path: Path) -> None:
    """Trap: the command runs although plugging failed. Here it is not run, the file not touched, the status 125."""
    touched = tmp_path / "touched"
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    why = cli.complaint("hold", wire.device, "--", "touch", str(touched), status=125)
    assert why.endswith("the command was not run")
    assert not touched.exists()


def test_the_status_of_the_command_is_never_lost(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: the command's status is lost. Here it comes back, though packets were dropped and nobody reads stderr."""
    wire.shrink()
    process = cli.holding(wire.device, "--limit", "100b", script="exit 42")
    wire.send(5)
    assert "dropped 4" in let_end(process, 42).err
    done = script(
        wire,
        "set -o pipefail; for to in '2>&-' '2>/dev/full' '2>&1 >/dev/null | exec true' '<&- 2>&-'; do"
        " eval \"libnlplug hold $DEV -- sh -c 'exit 43' $to\"; echo $?; done",
    )
    assert done.stdout.split() == ["43"] * 4


def test_a_failed_release_is_never_0(wire: Wire, cli: Cli) -> None:
    """Trap: status 0 after releases that failed. Here a release that cannot be done is status 1, for hold 125."""
    process = cli.holding(wire.device)
    wire.near.tc(f"qdisc del dev {wire.device} root")
    assert let_end(process, 125).err.startswith("libnlplug: cannot ")
    assert "it has none; " in cli.complaint("release", wire.device)

    with pytest.raises(libnlplug.QdiscNotFound), libnlplug.attach(wire.device, netns=wire.near).hold():
        wire.near.tc(f"qdisc del dev {wire.device} root")


def test_a_limit_is_bytes_and_says_so(wire: Wire, cli: Cli) -> None:
    """Trap: a limit in bytes is taken for packets. Here help and drops name bytes, with the limit to give instead."""
    why = cli.complaint_of_usage("hold", wire.device, "--limit", "10", "--", "true")
    assert why.startswith(f"libnlplug hold: --limit is 10: packets of {wire.device} have up to 1514 bytes")
    wire.shrink()
    process = cli.holding(wire.device, "--limit", str(3 * FRAME))
    wire.send(10)
    (needed,) = re.findall(r"\(--limit (\d+)\)", let_end(process).err)
    process = cli.holding(wire.device, "--limit", needed)
    wire.send(10)
    assert "held 10 packets" in (err := let_end(process).err)
    assert "dropped none; " in err
    for verb in ("attach", "limit", "hold"):
        assert "bytes" in cli(verb, "--help").out


def test_removing_a_held_plug_loses_nothing(wire: Wire, cli: Cli) -> None:
    """Trap: deleting a held qdisc drops what it holds. detach releases first, waits, and then deletes."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 40: plug limit 100000")
    wire.send(3)
    wire.near.tc(f"qdisc del dev {wire.device} root")
    assert wire.arrived() == []

    libnlplug.attach(wire.device, netns=wire.near).buffer()
    numbers = wire.send(50)
    cli("detach", wire.device)
    wire.expect(numbers)


def test_no_state_is_invented(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: tools print a state that no kernel tells. show is the same for a plug that holds and one that does not."""
    released = cli("show").out
    plug.buffer()
    assert cli("show").out == released
    shown = cli("show", "--json").out
    words = r"\b(held|holding|holds|hold|open|closed|plugged|unplugged|released|state)\b"
    assert not re.search(words, released + shown, re.IGNORECASE)
    (one,) = json.loads(shown)
    assert not {"state", "held", "holding", "open", "status", "limit"} & set(one)
    assert not {"state", "held", "holding", "is_held", "is_open"} & set(dir(plug))
    plug.release_indefinite()


def test_a_holder_that_dies_leaves_nothing_held(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Trap: no other tool releases when the holder dies. Here not even SIGKILL of all its processes leaves it held."""
    process = cli.holding(wire.device, "--timeout", "0", start_new_session=True)
    numbers = expect_held(wire, plug)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    wire.expect(numbers)
    expect_flow(wire, [])
