# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets in other network namespaces: every way to name one, and the caller's own never changes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from libnlplug import NetlinkError, NetnsNotFound, NotPermitted
from libnlplug.netlink.route_socket import RouteSocket
from tests.support.netlab import Netns, descriptors, unprivileged

SIOCGSKNS = 0x894C  # linux/sockios.h


def namespace_of(sk: RouteSocket) -> int:
    """The number of the namespace that a socket is in; the socket is closed."""
    fd = fcntl.ioctl(sk.fileno(), SIOCGSKNS)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)
        sk.close()


def number(netns: object) -> int:
    """The number of a namespace that is given by its path."""
    return os.stat(netns).st_ino  # type: ignore[arg-type]


def here() -> int:
    """The namespace of the calling thread."""
    return number("/proc/thread-self/ns/net")


def test_the_callers_own_is_the_default(netns: Netns) -> None:
    """Without netns a socket is in the calling thread's namespace."""
    assert namespace_of(netns.run(RouteSocket)) == number(netns.path)
    assert here() != number(netns.path)


def test_by_path(netns: Netns) -> None:
    """A path with a slash, as str or as PathLike."""
    assert namespace_of(RouteSocket(netns.path)) == namespace_of(RouteSocket(Path(netns.path))) == number(netns.path)


def test_by_an_object_with_a_descriptor(netns: Netns) -> None:
    """An open file of a namespace; it stays open, and the caller's."""
    with open(netns.path) as file:
        for _ in range(2):
            assert namespace_of(RouteSocket(file)) == number(netns.path)
        os.fstat(file.fileno())


def test_by_pid(netns: Netns) -> None:
    """A process's namespace, by its pid."""
    process = netns.run(subprocess.Popen, ["sleep", "60"])
    try:
        assert namespace_of(RouteSocket(process.pid)) == number(netns.path)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(NetnsNotFound):
        RouteSocket(process.pid)


NAMED = """
import os, subprocess, sys
from libnlplug import NetnsNotFound
from libnlplug.netlink.route_socket import RouteSocket
from tests.unit.test_namespaces import namespace_of, number
there = number("/run/netns/given")
assert namespace_of(RouteSocket("given")) == there
kept = RouteSocket("given")
subprocess.run(["ip", "netns", "del", "given"], check=True)
assert kept.ifindex_of("lo") == 1
assert namespace_of(kept) == there
try:
    RouteSocket("given")
except NetnsNotFound as error:
    print(error)
"""


def test_by_name() -> None:
    """A name of `ip netns`. With the name gone it is NetnsNotFound, while a socket that is open lives on."""
    private = ["unshare", "--mount", "--net", *(["--map-root-user"] if os.geteuid() else [])]
    prepare = 'mount -t tmpfs run /run && ip netns add given && exec "$@"'
    try:
        subprocess.run([*private, "sh", "-c", prepare, "sh", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"'ip netns add' does not work here: {getattr(error, 'stderr', error)!r}")
    argv = [*private, "sh", "-c", prepare, "sh", sys.executable, "-B", "-c", NAMED]
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "cannot enter the network namespace given: No such file or directory; 'ip netns' lists"
    )


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("nosuch", NetnsNotFound),
        ("/nosuch/path", NetnsNotFound),
        ("", NetlinkError),
        ("/dev/null", NetlinkError),
        ("/proc/self/ns/mnt", NetlinkError),
        (Path("nosuch"), NetnsNotFound),
        (2**22 + 1, NetnsNotFound),
        (0, ValueError),
        (-1, ValueError),
        (True, TypeError),
        (1.5, TypeError),
        (b"name", TypeError),
        ([], TypeError),
        ("nul\0", ValueError),
        ("\ud800", ValueError),
    ],
)
def test_what_is_no_namespace(wrong: object, kind: type[Exception]) -> None:
    """A name that is not there, a file that is none, a pid of nobody, a value of no kind: each is refused plainly."""
    before, opened = here(), descriptors()
    with pytest.raises(kind):
        RouteSocket(wrong)  # type: ignore[arg-type]
    assert (here(), descriptors()) == (before, opened)


def test_a_file_that_is_no_namespace_says_so() -> None:
    """The sentence names what was given and why it cannot be entered."""
    with pytest.raises(NetlinkError, match="cannot enter the network namespace /dev/null: Invalid argument; it is not"):
        RouteSocket("/dev/null")


def test_without_the_right(netns: Netns) -> None:
    """Without CAP_SYS_ADMIN: NotPermitted, which names that capability."""
    with unprivileged(), pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"):
        RouteSocket(netns)


def test_many_threads_at_once_never_move_the_caller(netns: Netns) -> None:
    """Eight threads open sockets there and fail to, all at once: each stays where it was, and so does the main one."""
    before, there = here(), number(netns.path)
    wrong: list[object] = []
    started = threading.Barrier(8)

    def work() -> None:
        try:
            started.wait()
            for _ in range(50):
                if namespace_of(RouteSocket(netns)) != there:
                    wrong.append("opened elsewhere")
                for bad in ("/dev/null", "nosuch"):
                    with pytest.raises(NetlinkError):
                        RouteSocket(bad)
                if here() != before:
                    wrong.append("moved")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert here() == before
    for thread in threads:
        thread.join()
    assert (wrong, here()) == ([], before)
