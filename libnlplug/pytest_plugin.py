# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin of libnlplug: a private network for a test, which can hold its packets at a chosen moment.

    def test_a_late_request_is_answered(plug_net, hold):
        server = plug_net.far.popen([sys.executable, "server.py", plug_net.far_ip])
        client = plug_net.near.run(socket.create_connection, (plug_net.far_ip, 8080))
        with hold(timeout=5) as held:          # packets from near wait now
            client.send(b"question")
            provoke_the_race()
        assert client.recv(100) == b"answer"   # now they have been released

``plug_net`` is two network namespaces, near and far, joined by a veth pair that carries nothing else. ``plug`` is the
plug on near's device, released. ``hold`` is its hold(). If the host cannot hold packets, tests that use these fixtures
are skipped with the reason. The machine's own network is not touched. Nothing stays behind, however a test ends: the
namespaces have no name, their processes are killed, and they vanish with their last socket or process.

pytest loads this file wherever libnlplug is installed, so only the fixtures import the library.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from libnlplug import PlugQdisc
    from libnlplug.hold import Hold

    T = TypeVar("T")

__all__ = ["Namespace", "PlugNet"]

PATIENCE = 5.0  # seconds for killed processes to be gone


class Namespace:
    """A network namespace without a name. ``netns=`` accepts it. ``path`` names it for other programs."""

    def __init__(self) -> None:
        from libnlplug.netlink.netns import in_netns

        self._fd = in_netns("/proc/self/ns/net", self._make)  # in a thread of its own: unshare is per thread
        self._processes: list[subprocess.Popen[Any]] = []
        self._sockets: list[socket.socket] = []

    @staticmethod
    def _make() -> int:
        from libnlplug.netlink.libnl import ffi, lib

        if lib.unshare(lib.CLONE_NEWNET) < 0:
            raise OSError(ffi.errno, f"no network namespace can be made: {os.strerror(ffi.errno)}")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The namespace's descriptor."""
        return self._fd

    @property
    def path(self) -> str:
        """The namespace as a path, valid while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def run(self, call: Callable[..., T], *args: Any, **named: Any) -> T:
        """Call ``call`` in the namespace, in a thread of its own, and return its result. Its sockets stay there."""
        from libnlplug.netlink.netns import in_netns

        return in_netns(self, lambda: call(*args, **named))

    def socket(self, *args: Any) -> socket.socket:
        """Make a socket in the namespace; close() closes it. The arguments are those of socket.socket()."""
        import socket

        made = self.run(socket.socket, *args)
        self._sockets.append(made)
        return made

    def popen(self, command: list[str], **named: Any) -> subprocess.Popen[Any]:
        """Start a program in the namespace, as subprocess.Popen does."""
        process: subprocess.Popen[Any] = self.run(subprocess.Popen, command, **named)
        self._processes.append(process)
        return process

    def check_output(self, *command: str, words: str = "") -> str:
        """Run a program in the namespace, with these words as its input, and return what it prints. Raise OSError with
        its message if it fails."""
        pipe = subprocess.PIPE
        done = self.run(subprocess.run, command, input=words, stdout=pipe, stderr=pipe, text=True)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
        return str(done.stdout)

    def close(self) -> None:
        """Kill the processes in the namespace and those that popen() started, close its sockets, and let it go."""
        try:
            for one in self._sockets:
                one.close()
            self._kill_all()
            for process in self._processes:
                process.kill()  # it may have gone to another namespace
                process.wait(PATIENCE)
                for stream in (process.stdin, process.stdout, process.stderr):
                    try:
                        if stream is not None:
                            stream.close()
                    except BrokenPipeError:  # buffered input has no reader any more
                        pass
        finally:
            os.close(self._fd)

    def _kill_all(self) -> None:
        """Kill the processes in the namespace until there is none."""
        deadline = time.monotonic() + PATIENCE
        while (pids := self._pids()) and time.monotonic() < deadline:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.001)

    def _pids(self) -> list[int]:
        found, inode = [], os.fstat(self._fd).st_ino
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if os.stat(f"/proc/{name}/ns/net").st_ino == inode and int(name) != os.getpid():
                    found.append(int(name))
            except OSError:  # it has ended, or belongs to another user and so is not in this namespace
                pass
        return found


class PlugNet:
    """Two namespaces, ``near`` and ``far``: a veth pair joins them, each end named ``device``; lo is up too."""

    device = "veth0"
    near_ip, far_ip = "192.0.2.1", "192.0.2.2"
    _near_mac, _far_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"

    def __init__(self) -> None:
        self.near = Namespace()
        self.far = Namespace()
        try:
            self.near.check_output(
                *f"ip link add {self.device} address {self._near_mac} type veth"
                f" peer name {self.device} address {self._far_mac} netns {self.far.path}".split()
            )
            self._set_up(self.near, self.near_ip, self.far_ip, self._far_mac)
            self._set_up(self.far, self.far_ip, self.near_ip, self._near_mac)
        except BaseException:
            self.close()
            raise

    def _set_up(self, end: Namespace, ip: str, other_ip: str, other_mac: str) -> None:
        """Set up one end without traffic of its own: no IPv6 address, no neighbour discovery."""
        lines = [
            f"link set {self.device} addrgenmode none",
            "link set lo up",
            f"link set {self.device} up",
            f"addr add {ip}/24 dev {self.device}",
            f"neigh replace {other_ip} lladdr {other_mac} dev {self.device} nud permanent",
        ]
        if not os.path.isdir("/proc/sys/net/ipv6"):
            del lines[0]
        end.check_output("ip", "-batch", "-", words="\n".join(lines))

    def close(self) -> None:
        """Close both namespaces."""
        try:
            self.near.close()
        finally:
            self.far.close()


@pytest.fixture(scope="session")
def _why_no_plug() -> str:
    """Try to hold a packet as the tests do. Return why that fails, or "" if it works."""
    try:
        import libnlplug

        net = PlugNet()
        try:
            with libnlplug.attach(net.device, netns=net.near) as plug, plug.hold(timeout=PATIENCE):
                pass
        finally:
            net.close()
    except (ImportError, OSError) as error:
        return str(error)
    return ""


@pytest.fixture
def plug_net(_why_no_plug: str) -> Iterator[PlugNet]:
    """Two private network namespaces, near and far, joined by a veth pair."""
    if _why_no_plug:
        pytest.skip(f"this host cannot hold packets ('libnlplug doctor' says more): {_why_no_plug}")
    net = PlugNet()
    yield net
    net.close()


@pytest.fixture
def plug(plug_net: PlugNet) -> Iterator[PlugQdisc]:
    """The plug on near's device, released: a libnlplug.PlugQdisc with a limit of 32 MiB."""
    import libnlplug

    with libnlplug.attach(plug_net.device, limit=32 << 20, netns=plug_net.near) as made:
        yield made


@pytest.fixture
def hold(plug: PlugQdisc) -> Callable[..., Hold]:
    """The plug's hold(): ``with hold(timeout=5) as held: ...``."""
    return plug.hold
