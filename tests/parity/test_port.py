# SPDX-License-Identifier: GPL-2.0-or-later
"""The port beside the reference program, as far as any kernel shows it: sch_plug is not needed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.parity import WITHOUT_NET_ADMIN, Driver, Ended, Pair

CLASSIDS = "# for the tests\n40:\tholder\n1:4\tlane\n"


@pytest.fixture(scope="module")
def port(pair: Pair) -> Iterator[Driver]:
    """The port in one process, for what the C program would not survive."""
    driver = pair.driver("port")
    yield driver
    driver.close()


@pytest.fixture(autouse=True)
def bare_lo(pair: Pair) -> None:
    """Every test begins with a loopback device that has no qdisc: no other device is sure to be there."""
    for world in pair.worlds.values():
        world.tc("qdisc delete dev lo root")  # complains where there is none


@pytest.fixture
def classid_file(tmp_path: Path) -> Path:
    """A classid file of our own: libnl looks for it in the directory that NLSYSCONFDIR names."""
    file = tmp_path / "classid"
    file.write_text(CLASSIDS)
    return file


def end_of_c(pair: Pair, *commands: str) -> int:
    """The status of the C program, which ends at the last of the commands and sends no RTM_NEWQDISC for it."""
    driver = pair.driver("c")
    for command in commands[:-1]:
        driver.call(command)
    driver.requests()
    with pytest.raises(Ended) as ended:
        driver.call(commands[-1])
    assert driver.requests() == []
    return ended.value.status


@pytest.mark.parametrize("where", ["root -", "root 1:3", "1:4 40:", "0x1:4 8000:", "ROOT none"])
@pytest.mark.parametrize("limit", [1, 2**31, 2**32 - 1])
def test_messages(pair: Pair, where: str, limit: int) -> None:
    """Whatever the kernel answers, the port sends the same messages and returns the same values."""
    pair.begin()
    pair.call(f"attach lo {where} {limit}")
    assert pair.last_sent
    for command in ("buffer", "release", "buffer", "release"):
        pair.call(command)
        assert len(pair.last_sent) == 1


def test_calls_of_libnl(pair: Pair) -> None:
    """The port calls the functions of libnl that plug_qdisc.c calls, in the same order, with the same arguments."""
    where = "device 1 parent ffffffff handle 400000 kind plug"
    release = ["rtnl_qdisc_plug_release_indefinite", f"rtnl_qdisc_add {where} flags 0"]
    buffer = ["rtnl_qdisc_plug_buffer", f"rtnl_qdisc_add {where} flags 0"]
    pair.begin()
    attached = pair.call("attach lo root 40: 32768") == 0  # a kernel without sch_plug refuses it
    assert pair.last_called == [
        "device 1",
        "rtnl_tc_set_parent ffffffff",
        "rtnl_tc_set_handle 400000",
        "rtnl_tc_set_kind plug",
        "rtnl_qdisc_plug_set_limit 32768",
        f"rtnl_qdisc_add {where} flags 400",
        *(release if attached else []),
    ]
    for command, called in (("buffer", buffer), ("release", release)):
        pair.call(command)
        assert pair.last_called == called


@pytest.mark.parametrize("parent", ["none", ":", "0:", "0"])
def test_no_parent(pair: Pair, parent: str) -> None:
    """A parent that is no place is -1 and sends nothing; a toggle after it is sent and refused, as in the C."""
    pair.begin()
    assert pair.call(f"attach lo {parent} 1: 1000") == -1
    assert pair.last_sent == []
    assert pair.call("buffer") < 0
    assert len(pair.last_sent) == 1


def test_without_the_right(pair: Pair) -> None:
    """Without CAP_NET_ADMIN attach is -1 and a toggle libnl's -28, after the same messages."""
    pair.begin(prefix=WITHOUT_NET_ADMIN)
    assert [pair.call("attach lo root 1: 32768"), len(pair.last_sent)] == [-1, 1]
    assert [pair.call("buffer"), len(pair.last_sent)] == [-28, 1]
    assert [pair.call("release"), len(pair.last_sent)] == [-28, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        "nosuchdevice root 1:",
        "devicenamewithoutend root 1:",
        " root 1:",
        "lo:1 root 1:",
        "lo  1:",
        "lo 1:x -",
        "lo 1:4:4 -",
        "lo 10000:1 -",
        "lo 1:10000 -",
        "lo noclass -",
        "lo noqdisc:1 -",
        "lo root 1:x",
        "lo root 10000:",
        "lo root noqdisc:1",
    ],
)
def test_where_the_c_ends(pair: Pair, port: Driver, arguments: str) -> None:
    """What libnl-cli cannot read ends the C process; the port returns -1, sends nothing and stays where it was."""
    assert port.call("init") == 0
    port.call("attach lo root 1: 1000")
    port.requests()
    before = [port.call("buffer"), port.requests()]
    assert end_of_c(pair, f"attach {arguments} 1000") > 0
    assert port.call(f"attach {arguments} 1000") == -1
    assert port.requests() == []
    assert [port.call("buffer"), port.requests()] == before


@pytest.mark.parametrize("command", ["buffer", "release"])
@pytest.mark.parametrize("before", [[], ["init"]])
def test_before_any_attach_the_c_ends(pair: Pair, command: str, before: list[str]) -> None:
    """Before any attach a toggle ends the C process by a signal."""
    assert end_of_c(pair, *before, command) < 0


def test_before_any_attach(pair: Pair) -> None:
    """Before any attach a toggle of the port is -1 and sends nothing, also after one that was refused."""
    driver = pair.driver("port")
    refused = ["attach lo root 1:x 1000", "attach nosuchdevice root 1: 1000"]
    for commands in (["buffer", "release"], [*refused, "buffer", "release"]):
        assert [driver.call(command) for command in commands] == [-1] * len(commands)
    assert driver.call("init") == 0
    assert [driver.call("buffer"), driver.call("release")] == [-1, -1]
    assert driver.requests() == []
    driver.close()


@pytest.mark.parametrize("standard_error", ["2>/dev/full", "2>&-"])
def test_standard_error_that_takes_nothing(pair: Pair, standard_error: str) -> None:
    """Where standard error takes no line, a failure is -1 all the same, and standard output stays clean."""
    driver = pair.driver("port", prefix=("sh", "-c", f'exec "$0" "$@" {standard_error}'))
    assert driver.call("attach nosuchdevice root 1: 1000") == -1
    assert driver.call("attach lo 7:1 1: 1000") == -1
    driver.close()


def test_names_of_the_classid_file(pair: Pair, classid_file: Path) -> None:
    """A parent and an id may be names of libnl's classid file, which is only read."""
    sent = []
    for parent, handle in (("lane", "holder"), ("1:4", "40:")):
        pair.begin(environment={"NLSYSCONFDIR": str(classid_file.parent)})
        pair.call(f"attach lo {parent} {handle} 32768")
        sent.append(pair.last_sent)
    assert sent[0] == sent[1] != []
    assert classid_file.read_text() == CLASSIDS


def test_unknown_id(pair: Pair, classid_file: Path) -> None:
    """An unknown id is -1, sends nothing and leaves the classid file as it is, where the C adds a line to it."""
    environment = {"NLSYSCONFDIR": str(classid_file.parent)}
    unknown = ["attach lo root stranger 32768", "attach lo root  32768"]
    port = pair.driver("port", environment=environment)
    assert [port.call(command) for command in [*unknown, "buffer"]] == [-1, -1, -1]
    assert port.requests() == []
    port.close()
    assert classid_file.read_text() == CLASSIDS
    assert list(classid_file.parent.iterdir()) == [classid_file]

    c = pair.driver("c", environment=environment)
    for command in unknown:
        before = classid_file.read_text()
        c.call(command)
        assert classid_file.read_text().startswith(before)
        assert len(classid_file.read_text()) > len(before)
    c.close()


def test_limit_0(pair: Pair) -> None:
    """For limit 0 the port leaves TCA_OPTIONS out, so that the kernel's default counts; all else is the C's message."""
    pair.begin()
    returned, sent = pair.call_each("attach lo root 40: 0")
    assert returned["c"] == returned["port"]
    options = "0c000280" + "00000000" + "00000000"  # the header as libnl writes it, action, limit
    (c_header, c_body), (port_header, port_body) = (sent[name][0].split() for name in ("c", "port"))
    assert c_body == port_body + options
    assert c_header[8:] == port_header[8:]
