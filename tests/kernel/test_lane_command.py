# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug hold DEV with packet options, and libnlplug lane add|show|del: what they do, print and end with."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from libnlplug import Match, PlugLane
from libnlplug.lane.filters import FIRST_PRIO
from tests.support.command import Cli, let_end
from tests.support.hold import marks
from tests.support.lane import UDP, Sight, listed, qlen, tc
from tests.support.netlab import FRAME, PORT, eventually, shrink
from tests.support.road import Road, veth

OPTIONS = ("--ip-proto", "udp", "--dst-port", str(PORT))
HOOKS = pytest.mark.parametrize("ingress", [False, True], ids=["egress", "ingress"])


@pytest.fixture
def road():
    """A veth pair."""
    with veth() as made:
        yield made


@pytest.fixture
def cli(road: Road) -> Cli:
    """The command in the near namespace."""
    return Cli(road.near)


def arriving(ingress: bool) -> tuple[str, ...]:
    return ("--ingress",) if ingress else ()


@HOOKS
def test_hold_with_packet_options(road: Road, cli: Cli, ingress: bool) -> None:
    """It sets a lane up, holds only the chosen packets while the command runs, releases them, and leaves nothing."""
    before, flow, other = Sight(road.near, road.device), road.flow(ingress), road.flow(not ingress)
    process = cli.holding(road.device, *OPTIONS, *arriving(ingress), script="exit 3")
    numbers = flow.send(5)
    other.expect(other.send())
    (lane,) = listed(road.near, road.device)
    assert qlen(road.near, lane.ifb) == 5
    assert (lane.match, lane.hook, lane.state) == (str(UDP), "ingress" if ingress else "egress", "alive")
    assert lane.pid == process.pid
    out, err = let_end(process, 3)
    assert out == ""
    assert f"held 5 packets ({5 * FRAME} bytes) of {road.device} for " in err
    flow.expect(numbers)
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


def test_hold_of_new_connections(road: Road, cli: Cli) -> None:
    """--tcp-syn alone means TCP; JSON names the device and counts what was held."""
    process = cli.holding(road.device, "--tcp-syn", "--json")
    (lane,) = listed(road.near, road.device)
    assert lane.match == "ip_proto=tcp,tcp_syn"
    road.leaving.expect(road.leaving.send())
    report = json.loads(let_end(process).err)
    assert (report["device"], report["packets"], report["dropped"], report["status"]) == (road.device, 0, 0, 0)


def test_hold_uses_the_lane_that_is_kept(road: Road, cli: Cli) -> None:
    """With 'lane add' before, hold finds the lane, holds it, and leaves it there."""
    assert cli("lane", "add", road.device, *OPTIONS) == ("", "")
    (kept,) = listed(road.near, road.device)
    process = cli.holding(road.device, *OPTIONS)
    numbers = road.leaving.send(3)
    assert qlen(road.near, kept.ifb) == 3
    let_end(process)
    road.leaving.expect(numbers)
    assert [lane.state for lane in listed(road.near, road.device)] == ["kept"]
    assert cli("lane", "del", road.device) == ("", "")


def test_hold_of_a_lane_that_is_held(road: Road, cli: Cli) -> None:
    """A lane that somebody holds is not held twice: 125, the command is not run, and its limit stays as it was."""
    with PlugLane(road.device, UDP, netns=road.near) as lane, lane.hold() as held:
        for words in ((), ("--limit", "100")):
            err = cli.complaint("hold", road.device, *OPTIONS, *words, "--", "echo", "ran", status=125)
            assert f"process {os.getpid()} holds it" in err
            assert "the command was not run" in err
        numbers = road.leaving.expect_held(lane)
    road.leaving.expect(numbers)
    assert (held.packets, held.dropped) == (5, 0)


def test_a_hold_that_is_killed(road: Road, cli: Cli) -> None:
    """SIGKILL to libnlplug: the guard releases; the next hold cleans up what was left."""
    before = Sight(road.near, road.device)
    process = cli.holding(road.device, *OPTIONS)
    numbers = road.leaving.send(3)
    assert road.leaving.arrived() == []
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    road.leaving.expect(numbers + road.leaving.send(2))
    eventually(lambda: marks(road.near) == [], "the guard has ended")
    assert [lane.state for lane in listed(road.near, road.device)] == ["orphan"]
    let_end(cli.holding(road.device, "--ip-proto", "tcp"))
    before.uncounted().expect(Sight(road.near, road.device).uncounted())


@pytest.mark.parametrize("kept", [False, True], ids=["own", "kept"])
def test_the_next_hold_releases_a_lane_whose_guard_was_killed(road: Road, cli: Cli, kept: bool) -> None:
    """Holder and guard are killed together, as with their cgroup: what the lane holds waits for the next hold of it."""
    if kept:
        cli("lane", "add", road.device, *OPTIONS)
    process = cli.holding(road.device, *OPTIONS)
    (shown,) = json.loads(cli("show", "-j").out)
    for pid in (shown["holder"]["guard"], process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    numbers = road.leaving.send(3)
    eventually(lambda: marks(road.near) == [], "the guard has ended")
    assert road.leaving.arrived() == []
    cli("hold", road.device, *OPTIONS, "--", "true")
    road.leaving.expect(numbers + road.leaving.send(2))
    if kept:
        cli("lane", "del", road.device)


def test_a_hold_that_expires(road: Road, cli: Cli) -> None:
    """The time is up before the command has ended: the packets flow, then 124, and the lane is gone."""
    process = cli.holding(road.device, *OPTIONS, "--timeout", "200ms")
    road.leaving.expect(road.leaving.send(3))
    _, err = let_end(process, 124)
    assert "overstayed its timeout" in err
    assert listed(road.near, road.device) == []


def test_a_signal_ends_command_and_lane(road: Road, cli: Cli) -> None:
    """SIGTERM goes on to the command; the lane is closed, what was held arrives, and the status says so."""
    process = cli.holding(road.device, *OPTIONS)
    numbers = road.leaving.send(3)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM  # with its input still open, which ends the command too
    process.communicate()
    road.leaving.expect(numbers)
    assert listed(road.near, road.device) == []


def test_what_shadows_a_lane_is_a_warning(road: Road, cli: Cli) -> None:
    """A filter that may keep packets from the lane is said on stderr; the hold goes on, its status is the command's."""
    road.near.tc(f"qdisc add dev {road.device} clsact")
    road.near.tc(f"filter add dev {road.device} egress protocol ip pref 10 u32 match u32 0 0 action ok")
    out, err = cli("hold", road.device, *OPTIONS, "--", "true")
    lines = err.splitlines()
    assert lines[0].startswith("libnlplug: warning: the u32 filter of preference 10 comes first")
    assert lines[1].startswith("libnlplug: held 0 packets")
    assert "LaneShadowed" not in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--dst-port", "80"), "--dst-port needs --ip-proto tcp, udp or sctp, and --ip-proto is not given"),
        (("--ip-proto", "tpc"), "--ip-proto is 'tpc'"),
        (("--ip-proto", "udp", "--tcp-syn"), "--tcp-syn needs --ip-proto tcp"),
        (("--src-ip", "10.0.0.1/8"), "--src-ip is '10.0.0.1/8'"),
        (("--ip-proto", "tcp", "--dst-port", "0"), "--dst-port is 0"),
        (("--ip-proto", "tcp", "--parent", "1:2"), "--parent"),
        (("--dst-ip", ""), "--dst-ip is ''"),
        (("--ip-proto", ""), "--ip-proto is ''"),
        (("--dst-port", "0"), "--dst-port is 0"),
    ],
)
def test_what_cannot_be_expressed(road: Road, cli: Cli, words: tuple[str, ...], sentence: str) -> None:
    """A match that means nothing: one line that names the part, the command is not run, nothing is made."""
    before = Sight(road.near, road.device)
    out, err = cli("hold", road.device, *words, "--", "echo", "ran", status=2)
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err
    before.expect(Sight(road.near, road.device))


def test_a_lane_that_cannot_be_made(road: Road, cli: Cli) -> None:
    """hold ends with 125, lane add with 1, each with one line that says what and why; nothing is left."""
    road.near.tc(f"qdisc add dev {road.device} clsact")
    road.near.tc(f"filter add dev {road.device} egress protocol ip pref 65500 matchall action ok")
    before = Sight(road.near, road.device)
    for status, words in ((125, ("hold",)), (1, ("lane", "add"))):
        command = ("--", "echo", "ran") if words == ("hold",) else ()
        err = cli.complaint(*words, road.device, *OPTIONS, *command, status=status)
        assert f"cannot make a lane on {road.device}: the matchall filter of preference 65500 would not see" in err
        assert f"below {FIRST_PRIO}" in err
    before.expect(Sight(road.near, road.device))


def test_lane_show(road: Road, cli: Cli) -> None:
    """A line for each lane, and the same as JSON; none is no error, an absent device is."""
    assert cli("lane", "show", road.device).out == f"no lane on {road.device}\n"
    assert json.loads(cli("lane", "show", road.device, "--json").out) == []
    cli("lane", "add", road.device, "--tcp-syn", "--dst-port", "80")
    with PlugLane(road.device, Match(), ingress=True, netns=road.near) as mine:
        kept, alive = listed(road.near, road.device)
        table = [re.split("  +", line) for line in cli("lane", "show", road.device).out.splitlines()]
        assert table == [
            ["DEVICE", "HOOK", "MATCH", "IFB", "STATE"],
            [road.device, "egress", "ip_proto=tcp,dst_port=80,tcp_syn", kept.ifb, "kept"],
            [road.device, "ingress", "ip", mine.ifb, f"alive, pid {os.getpid()}"],
        ]
        assert json.loads(cli("lane", "show", road.device, "--json").out) == [kept.as_dict(), alive.as_dict()]
        everywhere = json.loads(cli("lane", "show", "--json").out)
        assert everywhere == [kept.as_dict(), alive.as_dict()]
        cli("lane", "add", "lo", "--ip-proto", "udp")
        assert [one["device"] for one in json.loads(cli("lane", "show", "-j").out)] == ["lo", road.device, road.device]
        cli("lane", "del", "lo")
        assert "DEV is missing" in cli.complaint_of_usage("lane", "del")
    assert "nosuch0" in cli.complaint("lane", "show", "nosuch0")
    cli("lane", "del", road.device)


def test_lane_show_prints_what_can_be_typed(road: Road, cli: Cli) -> None:
    """Several ports and addresses are printed as the options take them: typed again, they find the same lane."""
    options = ("--tcp-syn", "--dst-port", "443,80,8000-8010", "--src-ip", "192.0.2.7,10.0.0.0/8")
    cli("lane", "add", road.device, *options)
    shown = cli("lane", "show", road.device).out.splitlines()[1].split()[2]
    assert shown == "ip_proto=tcp,src_ip=10.0.0.0/8,192.0.2.7/32,dst_port=80,443,8000-8010,tcp_syn"
    again = ("--tcp-syn", "--dst-port", "80,443,8000-8010", "--src-ip", "10.0.0.0/8,192.0.2.7/32")
    assert f"the lane for {shown} on " in cli.complaint("lane", "add", road.device, "--tcp-syn")
    assert cli("lane", "del", road.device, *again) == ("", "")
    assert listed(road.near, road.device) == []


def test_lane_show_says_what_is_wrong(road: Road, cli: Cli) -> None:
    """A kept lane whose filter somebody has replaced is an orphan: show says why, and what to do, in the namespace that
    was given; 'lane add' with the same options mends it."""
    cli("lane", "add", road.device, *OPTIONS)
    (lane,) = listed(road.near, road.device)
    other = f"flower ip_proto udp dst_port 9 action mirred egress redirect dev {lane.ifb}"
    tc(road.near, f"filter replace dev {road.device} egress pref 65280 handle 0x10001 protocol ip {other}")
    outside = Cli(road.far)
    line = outside("lane", "show", road.device, "--netns", road.near.path).out.splitlines()[1]
    why = "orphan, its filters were changed: add the lane again; or"
    assert line.endswith(
        f"{why} 'libnlplug -n {road.near.path} lane del {road.device}' deletes all lanes of {road.device}"
    )
    cli("lane", "add", road.device, *OPTIONS)
    assert [(one.state, one.trouble) for one in listed(road.near, road.device)] == [("kept", None)]
    road.near.ip(f"link set {lane.ifb} down")
    line = cli("lane", "show", road.device).out.splitlines()[1]
    assert line.endswith(f"drops, {lane.ifb} is down: 'ip link set dev {lane.ifb} up'")
    cli("lane", "del", road.device)


def test_lane_add_is_repeatable_and_takes_a_limit(road: Road, cli: Cli) -> None:
    """Adding a lane that is there changes nothing but a given limit; each command says nothing when all is well."""
    shrink(road.near, road.device)
    for words in ((), ("--limit", "1000b"), ()):
        assert cli("lane", "add", road.device, *OPTIONS, *words) == ("", "")
    assert len(listed(road.near, road.device)) == 1
    process = cli.holding(road.device, *OPTIONS)
    road.leaving.send(12)
    _, err = let_end(process)
    assert "held 10 packets" in err
    assert "dropped 2" in err
    cli("lane", "del", road.device, *OPTIONS)


def test_lane_del(road: Road, cli: Cli) -> None:
    """del takes the lanes of one match and hook, or all of the device; none is status 1, a living one a refusal."""
    before = Sight(road.near, road.device)
    assert f"no such lane on {road.device}" in cli.complaint("lane", "del", road.device)
    for words in (OPTIONS, (*OPTIONS, "--ingress"), ("--ip-proto", "tcp"), ("--ip-proto", "icmp")):
        cli("lane", "add", road.device, *words)
    assert "no such lane" in cli.complaint("lane", "del", road.device, "--ip-proto", "sctp")
    assert "--dst-ip is ''" in cli.complaint_of_usage("lane", "del", road.device, "--dst-ip", "")
    cli("lane", "del", road.device, *OPTIONS, "--ingress")
    assert [lane.hook for lane in listed(road.near, road.device)] == ["egress"] * 3
    cli("lane", "del", road.device, "--ip-proto", "tcp")
    assert [lane.match for lane in listed(road.near, road.device)] == [str(UDP), "ip_proto=icmp"]
    with PlugLane(road.device, Match(ip_proto="sctp"), netns=road.near):
        err = cli.complaint("lane", "del", road.device)
        assert f"cannot delete the lanes of {road.device}: process {os.getpid()} uses the one on" in err
    cli("lane", "del", road.device)
    before.expect(Sight(road.near, road.device))


def test_lane_del_without_ingress_means_leaving_packets(road: Road, cli: Cli) -> None:
    """With packet options, 'lane del' takes what 'lane add' with the same options had made, not the other hook's."""
    for words in ((), ("--ingress",)):
        cli("lane", "add", road.device, *OPTIONS, *words)
    cli("lane", "del", road.device, *OPTIONS)
    assert [lane.hook for lane in listed(road.near, road.device)] == ["ingress"]
    cli("lane", "del", road.device)


def test_another_namespace(road: Road) -> None:
    """--netns with a path or a pid: the lane is there, and not in the caller's namespace."""
    outside = Cli(road.far)
    outside("lane", "add", road.device, *OPTIONS, "--netns", road.near.path)
    assert len(listed(road.near, road.device)) == 1
    process = outside.holding(road.device, *OPTIONS, "--netns", road.near.path)
    numbers = road.leaving.send(3)
    assert road.leaving.arrived() == []
    let_end(process)
    road.leaving.expect(numbers)
    outside("lane", "del", road.device, "--netns", road.near.path)
    assert listed(road.near, road.device) == []


def test_without_the_right(road: Road, cli: Cli) -> None:
    """Without CAP_NET_ADMIN: one line that names it, and nothing is made; the lanes that are there are shown."""
    before = Sight(road.near, road.device)
    drop = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--")
    for status, words in ((1, ("lane", "add", road.device)), (125, ("hold", road.device, *OPTIONS, "--", "true"))):
        err = cli.complaint(*words, before=drop, status=status)
        assert "CAP_NET_ADMIN is " in err
    before.expect(Sight(road.near, road.device))
    cli("lane", "add", road.device)
    assert cli("lane", "show", road.device, before=drop).out.endswith("  kept\n")
    assert "CAP_NET_ADMIN is " in cli.complaint("lane", "del", road.device, before=drop)
    cli("lane", "del", road.device)


def test_stray_words(road: Road, cli: Cli) -> None:
    """What is no verb of lane, no option, or no option of the verb, is not understood."""
    for words in (("lane", "list", road.device), ("lane", "add", road.device, "--port", "80")):
        cli.complaint_of_usage(*words)
    for action, option in (("add", "--json"), ("show", "--tcp-syn"), ("show", "--ingress"), ("del", "--limit=1k")):
        name = option.partition("=")[0]
        complaint = cli.complaint_of_usage("lane", action, road.device, option)
        assert f"'lane {action}' has no option {name}" in complaint
    assert listed(road.near, road.device) == []
