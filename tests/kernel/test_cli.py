# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs attach, buffer, release, limit and detach, as scripts use them: real packets, real statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from libnlplug import PlugQdisc
from tests.support.command import Cli, let_end
from tests.support.hold import (
    NOBODY,
    expect_ended,
    expect_flow,
    expect_held,
    holder_of,
    mark_of,
    marks,
    process_status,
    squatting,
)
from tests.support.netlab import FRAME, Wire, random_name


@pytest.fixture
def cli(wire: Wire) -> Cli:
    """The command in the wire's near namespace."""
    return Cli(wire.near)


def test_attach_buffer_release_detach(wire: Wire, cli: Cli) -> None:
    """attach lets packets pass, buffer holds them, release lets them go in order, detach removes the plug; silently."""
    assert cli("attach", wire.device) == ("", "")
    shown = wire.near.qdisc(wire.device)
    assert (shown["kind"], shown["handle"]) == ("plug", "504c:")
    wire.expect(wire.send(3))

    assert cli("buffer", wire.device) == ("", "")
    numbers = wire.send(5)
    assert wire.near.qdisc(wire.device)["qlen"] == 5
    assert wire.arrived() == []

    assert cli("release", wire.device) == ("", "")
    wire.expect(numbers + wire.send(2))
    assert cli("detach", wire.device) == ("", "")
    assert "plug" not in wire.near.kinds(wire.device)


def test_attach_adopts_what_is_there(wire: Wire, cli: Cli) -> None:
    """A second attach changes nothing but a given limit; a handle that differs is refused, and said."""
    cli("attach", wire.device, "--handle", "40:")
    plug = PlugQdisc.open(wire.device, netns=wire.near)
    plug.buffer()
    numbers = wire.send(3)
    wire.shrink()
    cli("attach", wire.device, "--limit", "400b")
    numbers += wire.send(2)
    shown = wire.near.qdisc(wire.device)
    assert (shown["handle"], shown["qlen"], shown["drops"]) == ("40:", 4, 1)
    assert "plug 40: is there" in cli.complaint("attach", wire.device, "--handle", "41:")
    plug.release_indefinite()
    wire.expect(numbers[:4])


def test_a_configured_qdisc_is_not_displaced(wire: Wire, cli: Cli) -> None:
    """attach refuses to replace an admin's root qdisc, and works at a class of it; so do the other verbs."""
    wire.near.tc(f"qdisc add dev {wire.device} root handle 1: prio")
    assert "prio 1: is there and is not replaced" in cli.complaint("attach", wire.device)
    cli("attach", wire.device, "--parent", "1:1")
    cli("buffer", wire.device, "--parent", "1:1")
    held, passing = wire.send(3, to_class=0x10001), wire.send(3, to_class=0x10002)
    wire.expect(passing)
    cli("detach", wire.device, "--parent", "1:1")
    wire.expect(held)
    assert "plug" not in wire.near.kinds(wire.device)


def test_release_one_lets_one_epoch_go(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """release --one lets go what came before the latest buffer, and goes on holding what came after it."""
    plug.buffer()
    first = wire.send(3)
    cli("buffer", wire.device)
    second = wire.send(2)
    cli("release", wire.device, "--one")
    wire.expect(first)
    assert wire.near.qdisc(wire.device)["qlen"] == 2
    plug.release_indefinite()
    wire.expect(second)


def test_limit_is_bytes_as_tc_writes_them(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """limit DEV 1k holds ten packets of 100 bytes and drops the others; the units are tc's."""
    wire.shrink()
    plug.buffer()
    cli("limit", wire.device, "1k")
    numbers = wire.send(12)
    shown = wire.near.qdisc(wire.device)
    assert (shown["qlen"], shown["backlog"], shown["drops"]) == (10, 10 * FRAME, 2)
    plug.release_indefinite()
    wire.expect(numbers[:10])


def test_detach_loses_nothing(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """detach of a plug that a plain buffer left holding delivers what it holds, and then removes it."""
    plug.buffer()
    numbers = wire.send(20)
    cli("detach", wire.device)
    assert "plug" not in wire.near.kinds(wire.device)
    expect_flow(wire, numbers)


def test_others_are_refused_while_a_hold_is_on(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """detach, buffer and a second hold are status 1, 1 and 125, name the holder's pid, and let nothing go."""
    process = cli.holding(wire.device)
    numbers = expect_held(wire, plug)
    why = f"process {process.pid} holds it"
    assert cli.complaint("detach", wire.device) == f"cannot detach the plug of {wire.device}: {why}"
    assert cli.complaint("buffer", wire.device) == f"cannot buffer on {wire.device}: {why}"
    assert why in cli.complaint("buffer", wire.device, "--timeout", "5")
    assert why in cli.complaint("hold", wire.device, "--", "true", status=125)
    numbers += expect_held(wire, plug)
    let_end(process)
    expect_flow(wire, numbers)


def test_release_while_somebody_holds_says_so(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """release always releases; where that is behind a holder's back, it says whose."""
    process = cli.holding(wire.device)
    numbers = expect_held(wire, plug)
    err = cli("release", wire.device).err
    assert err == (f"libnlplug: released {wire.device}, but process {process.pid} still holds it and was not told\n")
    expect_flow(wire, numbers)
    let_end(process)


def test_release_says_that_another_user_may_hold(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Another user's mark may be a guard's: release does its work, and says whose hold that may have been."""
    with squatting(wire, mark_of(plug)) as squatter:
        assert squatter.hear() == "sitting"
        who = f"process {squatter.pid} of uid {NOBODY}"
        err = cli("release", wire.device).err
        assert err == f"libnlplug: released {wire.device}, but {who} has the plug's mark and may hold it\n"
        assert f"pid {squatter.pid} of uid {NOBODY}, perhaps no guard\n" in cli("show").out


def test_a_holder_in_another_pid_namespace(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """It is named by its pid as it is here, not there; and where it has none, that is said."""
    elsewhere = ("unshare", "--pid", "--fork")
    process = cli.holding(wire.device, before=elsewhere)
    holder = holder_of(plug)
    status = process_status(holder.pid)
    assert (status["PPid"], status["NSpid"].split()) == (str(process.pid), [str(holder.pid), "1"])
    assert f"process {holder.pid} holds it" in cli.complaint("buffer", wire.device)
    why = cli.complaint("buffer", wire.device, before=elsewhere)
    assert why == f"cannot buffer on {wire.device}: a process in another pid namespace holds it"
    assert "  in another pid namespace since " in cli("show", before=elsewhere).out
    let_end(process)


def test_verbs_need_a_plug(wire: Wire, cli: Cli) -> None:
    """Without a plug, a verb that needs one is status 1, says what is missing and what to do, and makes none."""
    assert "it has none; 'libnlplug show' lists the plugs" in cli.complaint("release", wire.device)
    assert "attach one first" in cli.complaint("buffer", wire.device, "--timeout", "5")
    assert f"libnlplug attach {wire.device}" in cli.complaint("show", wire.device)
    assert "plug" not in wire.near.kinds(wire.device)


def test_no_such_device(cli: Cli) -> None:
    """A device that is not there is status 1 with the kernel's words, for hold 125."""
    for words, status in (
        ("attach nosuch", 1),
        ("release nosuch", 1),
        ("show nosuch", 1),
        ("hold nosuch -- true", 125),
    ):
        assert "cannot find nosuch: No such device" in cli.complaint(*words.split(), status=status)


def test_a_missing_right_is_named(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """Without CAP_NET_ADMIN changing is status 1, for hold 125, and the line names it; show works."""
    bare = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--")
    assert "CAP_NET_ADMIN" in cli.complaint("buffer", wire.device, before=bare)
    assert "CAP_NET_ADMIN" in cli.complaint("hold", wire.device, "--", "true", status=125, before=bare)
    assert wire.device in cli("show", before=bare).out
    expect_flow(wire, [])


def test_buffer_with_a_timeout_is_released_by_its_guard(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """The command ends at once and its guard stays, shown as the holder, releases at the deadline, and goes."""
    cli("buffer", wire.device, "--timeout", "1.5")
    numbers = expect_held(wire, plug)
    holder = plug.holder()
    assert holder is not None
    assert (holder.detached, holder.timeout, holder.pid) == (True, 1.5, holder.guard)
    wire.expect(numbers)
    expect_flow(wire, [])
    expect_ended(holder.guard)
    assert marks(wire.near) == []


def test_the_guard_keeps_nothing_of_the_command(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """$(libnlplug buffer DEV --timeout S) ends with the command: the guard has no hand on its output or terminal."""
    started = time.monotonic()
    cli("buffer", wire.device, "--timeout", "60")
    assert time.monotonic() - started < 30, "the pipe was closed only when the guard ended"
    holder = plug.holder()
    assert holder is not None
    with open(f"/proc/{holder.guard}/stat") as stat:
        session, terminal = stat.read().rpartition(")")[2].split()[3:5]
    assert (int(session), terminal) == (holder.guard, "0")
    cli("release", wire.device)


def test_a_guard_that_is_told_to_end_releases_first(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """SIGTERM, as when the unit or the session it was left by ends: what is held flows before anything can kill it."""
    cli("buffer", wire.device, "--timeout", "60")
    numbers = expect_held(wire, plug)
    guard = holder_of(plug).guard
    os.kill(guard, signal.SIGTERM)
    expect_flow(wire, numbers)
    expect_ended(guard)
    assert marks(wire.near) == []


def test_release_ends_the_guard_of_a_timeout(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """release lets everything go before the deadline and ends the guard: the next hold is free to begin at once."""
    cli("buffer", wire.device, "--timeout", "60")
    numbers = expect_held(wire, plug)
    holder = plug.holder()
    assert holder is not None
    assert "'libnlplug release " in cli.complaint("buffer", wire.device)
    assert cli("release", wire.device) == ("", "")
    expect_flow(wire, numbers)
    assert plug.holder() is None
    expect_ended(holder.guard)
    with plug.hold(timeout=5):
        expect_held(wire, plug)


def test_release_from_another_pid_namespace(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """A guard whose pid cannot be seen is asked over its mark: it releases and ends, and nobody is sent a signal."""
    cli("buffer", wire.device, "--timeout", "60")
    numbers = expect_held(wire, plug)
    pid = holder_of(plug).guard
    assert cli("release", wire.device, before=("unshare", "--pid", "--fork"), start_new_session=True) == ("", "")
    expect_flow(wire, numbers)
    assert plug.holder() is None
    expect_ended(pid)


def test_a_timeout_of_0_is_none(wire: Wire, plug: PlugQdisc, cli: Cli) -> None:
    """buffer --timeout 0 is a plain buffer: no guard, no holder."""
    cli("buffer", wire.device, "--timeout", "0")
    expect_held(wire, plug)
    assert plug.holder() is None
    plug.release_indefinite()


@pytest.fixture
def name():
    """The name of a namespace, as ip-netns knows them, that is to be made; it is gone afterwards."""
    name = random_name()
    yield name
    Path("/run/netns", name).unlink(missing_ok=True)


def test_netns_by_name_path_and_pid(wire: Wire, plug: PlugQdisc, name: str) -> None:
    """--netns takes a name, a path and a pid, and everything happens there."""
    Path("/run/netns").mkdir(exist_ok=True)
    Path("/run/netns", name).symlink_to(wire.near.path)
    inside = wire.near.run(subprocess.Popen, ["sleep", "60"])
    cli = Cli(wire.far)
    try:
        assert "No such device" in cli.complaint("buffer", wire.device)
        for where in (name, wire.near.path, str(inside.pid)):
            cli("buffer", wire.device, "--netns", where)
            numbers = expect_held(wire, plug)
            plug.release_indefinite()
            wire.expect(numbers)
        assert wire.device in cli("show", "--netns", name).out
    finally:
        inside.kill()
        inside.wait()


def test_the_command_of_a_hold_stays_in_the_callers_namespace(wire: Wire, plug: PlugQdisc) -> None:
    """hold --netns holds there, and runs its command here."""
    look = f"ip link show {wire.peer} && ! ip link show {wire.device}"
    Cli(wire.far)("hold", wire.device, "--netns", wire.near.path, "--", "sh", "-c", look)


def test_no_such_namespace(cli: Cli, name: str) -> None:
    """A namespace that is not there is status 1 (for hold 125), and the line names it."""
    assert name in cli.complaint("attach", "lo", "--netns", name)
    assert "/nosuch/ns" in cli.complaint("show", "--netns", "/nosuch/ns")
    assert "4194305" in cli.complaint("hold", "lo", "--netns", "4194305", "--", "true", status=125)
