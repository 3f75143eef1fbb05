# SPDX-License-Identifier: GPL-2.0-or-later
"""What is no limit, handle or parent is refused before anything is sent, and before a socket is opened."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import libnlplug
from libnlplug import InvalidHandle, PlugQdisc
from libnlplug.attaching import _default_handle
from libnlplug.netlink.libnl import lib
from libnlplug.netlink.messages import handle_text, parse_handle
from tests.support.netlab import unable

LIMIT_MAX = 2**31 - 1


class NoSocket:
    """In RouteSocket's place: nothing may be asked of it."""

    def __init__(self, *arguments: object) -> None:
        pytest.fail("a socket was opened")


class Deaf:
    """In a RouteSocket's place: remembers what would have been sent."""

    closed = False

    def __init__(self) -> None:
        self.sent: list[str] = []

    def execute(self, message: bytes, operation: str, device: str) -> None:
        self.sent.append(operation)


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a socket fails the test."""
    monkeypatch.setattr("libnlplug.plug.RouteSocket", NoSocket)
    monkeypatch.setattr("libnlplug.netlink.route_socket.RouteSocket", NoSocket)


NO_LIMITS = st.one_of(
    st.integers(max_value=0), st.integers(min_value=LIMIT_MAX + 1), st.floats(), st.booleans(), st.text(), st.binary()
)


@given(limit=NO_LIMITS)
@pytest.mark.usefixtures("no_socket")
def test_no_limit_reaches_the_kernel_unchecked(limit: object) -> None:
    """attach() refuses every limit but an int from 1 to 2^31-1 or None, with the range in the sentence."""
    with pytest.raises(ValueError, match=r"limit is .*: it must be 1 to 2147483647 bytes.*, or None"):
        libnlplug.attach("lo", limit=limit)  # type: ignore[arg-type]


@given(limit=st.none() | NO_LIMITS)
def test_set_limit_refuses_the_same(limit: object) -> None:
    """set_limit() sends nothing for what is no limit; None is none there."""
    sk = Deaf()
    plug = PlugQdisc(sk, "lo", 1, lib.TC_H_ROOT, 0x10000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit is "):
        plug.set_limit(limit)  # type: ignore[arg-type]
    assert (sk.sent, plug.limit) == ([], None)


@given(limit=st.integers(1, LIMIT_MAX))
def test_every_limit_in_the_range_is_sent(limit: int) -> None:
    """1 to 2^31-1 are limits."""
    sk = Deaf()
    plug = PlugQdisc(sk, "lo", 1, lib.TC_H_ROOT, 0x10000)  # type: ignore[arg-type]
    plug.apply_limit(limit)
    assert (len(sk.sent), plug.limit) == (1, limit)


def test_limit_0_says_why() -> None:
    """0, the trap of other tools, is refused with the reason."""
    with pytest.raises(ValueError, match="0 would drop every packet for ever"):
        libnlplug.attach("lo", limit=0)


NO_HANDLES = [
    "",
    ":",
    "1:1",
    "1:3",
    "root",
    "none",
    "ingress",
    "0:",
    "ffff:",
    "10000:",
    "-1:",
    "x",
    "1",
    "\0",
    "\ud800",
]


@pytest.mark.parametrize("handle", [*NO_HANDLES, 1, b"1:", 1.5, object()])
@pytest.mark.usefixtures("no_socket")
def test_no_handle_reaches_the_kernel_unchecked(handle: object) -> None:
    """A handle is a major number from 1 to fffe and a colon: anything else is InvalidHandle, with an example."""
    with pytest.raises(InvalidHandle, match="it must be a hexadecimal number from 1 to fffe and a colon") as caught:
        libnlplug.attach("lo", handle=handle)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert caught.value.errno is None


@pytest.mark.parametrize(
    "parent",
    ["", ":", "none", "ingress", "clsact", "0:", "ffff:", "ffff:1", "ffff:fff1", "ffff:fff2", "x:1", "\0", "\ud800"]
    + [None, 1, b"root", object()],
)
@pytest.mark.usefixtures("no_socket")
def test_no_parent_reaches_the_kernel_unchecked(parent: object) -> None:
    """A parent is 'root' or a class: nothing, ingress and clsact are ValueError, for attach() and open() alike."""
    for make in (libnlplug.attach, PlugQdisc.open):
        with pytest.raises(ValueError, match="parent is .*: it must be 'root' or a class of a classful qdisc"):
            make("lo", parent=parent)  # type: ignore[operator]


@given(number=st.integers(0, 0xFFFF_FFFE))
def test_handles_are_written_as_they_are_read(number: int) -> None:
    """handle_text and parse_handle are each other's inverse, as tc writes and reads them."""
    assert parse_handle(handle_text(number)) == number


@given(text=st.text(max_size=20) | st.from_regex(r"\A[0-9a-fx-]{0,6}:[0-9a-fx-]{0,6}\Z"))
def test_any_text_is_a_handle_or_none(text: str) -> None:
    """parse_handle never raises: a number of 32 bits, or None."""
    number = parse_handle(text)
    assert number is None or 0 <= number <= 0xFFFF_FFFF


def test_the_default_handles() -> None:
    """504c: at the root, 5000: plus the minor number at a class: each class up to fff has its own."""
    assert handle_text(_default_handle(lib.TC_H_ROOT)) == "504c:"
    assert handle_text(_default_handle(0x1_0003)) == "5003:"
    assert len({_default_handle(0x1_0000 | minor) for minor in range(1, 0x1000)}) == 0xFFF


REFUSED = """
import libnlplug
for name, value in ("limit", 0), ("limit", 2**31), ("handle", "1:3"), ("handle", "x"), ("parent", "none"):
    try:
        libnlplug.attach("lo", **{name: value})
    except ValueError:
        continue
    raise SystemExit(f"{name} {value} was not refused")
"""


def test_nothing_is_sent(tmp_path) -> None:
    """strace's word for it: with what is refused, no socket is made and no message sent."""
    output = tmp_path / "strace"
    argv = ["strace", "-f", "-e", "trace=socket,sendmsg,sendto", "-o", str(output), sys.executable, "-c"]
    try:
        done = subprocess.run([*argv, REFUSED], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        unable("strace is not installed")
    if "PTRACE" in done.stderr:
        unable(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert "NETLINK" not in output.read_text()
    program = "import libnlplug; libnlplug.PlugQdisc.open('lo')"
    subprocess.run([*argv, program], capture_output=True, timeout=60, check=False)
    assert "NETLINK" in output.read_text()  # strace would have seen it
