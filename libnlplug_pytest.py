# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin of libnlplug: a network of a test's own, whose packets it can hold at a chosen moment.

    def test_a_late_reply_is_not_lost(plug_net, hold):
        server = plug_net.far.popen([sys.executable, "server.py", plug_net.far_ip])
        client = plug_net.near.run(connect, plug_net.far_ip)
        with hold(timeout=5):                  # what near sends waits
            client.send(b"first")
            provoke_the_race()
        assert client.recv(100) == b"answer"   # and then it goes

``plug_net`` is two network namespaces, near and far, joined by a veth pair, with nothing else on it. ``plug`` is the
plug on near's device, released; ``hold`` is its hold(). What the tests of a host cannot have is skipped, with one
reason. The machine's own network is not touched, and nothing is left behind however a test ends: the namespaces have no
name and go with their last socket or process.

pytest loads this file wherever libnlplug is installed, so it imports the library only where a fixture is used.
"""

from __future__ import annotations

import os
import subprocess

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


class Namespace:
    """A network namespace without a name; ``path`` is what names it, for ``netns=`` and for ip(8)."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:  # unshare is per thread, and this thread ends here
            self._file = pool.submit(self._make).result()
        self._processes: list[subprocess.Popen[Any]] = []

    @staticmethod
    def _make() -> Any:
        from libnlplug._libnl import ffi, lib

        if lib.unshare(lib.CLONE_NEWNET) < 0:
            raise OSError(ffi.errno, f"no right to make a network namespace: {os.strerror(ffi.errno)}")
        return open("/proc/thread-self/ns/net", "rb")  # noqa: SIM115

    def fileno(self) -> int:
        """The namespace's descriptor, which is what ``netns=`` takes."""
        return int(self._file.fileno())

    @property
    def path(self) -> str:
        """The namespace as a path, valid while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fileno()}"

    def run(self, call: Callable[..., T], *args: Any, **named: Any) -> T:
        """The result of ``call`` inside the namespace; sockets it makes stay there."""
        from libnlplug.route import in_netns

        return in_netns(self, lambda: call(*args, **named))

    def socket(self, *args: Any) -> socket.socket:
        """A socket of the namespace: the arguments are those of socket.socket()."""
        import socket

        return self.run(socket.socket, *args)

    def popen(self, command: list[str], **named: Any) -> subprocess.Popen[Any]:
        """Start a program inside the namespace, as subprocess.Popen does; it is killed when the test ends."""
        process: subprocess.Popen[Any] = self.run(subprocess.Popen, command, **named)
        self._processes.append(process)
        return process

    def check_output(self, *command: str) -> str:
        """What a program prints that runs to its end inside the namespace; CalledProcessError where it fails."""
        return self.run(subprocess.run, command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def close(self) -> None:
        """Kill its programs and forget the namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._file.close()


class PlugNet:
    """Two namespaces, ``near`` and ``far``, each with one end of a veth pair, ``device``, and lo, both up."""

    device = "veth0"
    near_ip, far_ip = "192.0.2.1", "192.0.2.2"
    _near_mac, _far_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"

    def __init__(self) -> None:
        self.near, self.far = Namespace(), Namespace()
        self.near.check_output(
            *f"ip link add {self.device} address {self._near_mac} type veth peer name {self.device}"
            f" address {self._far_mac} netns {self.far.path}".split()
        )
        self._end(self.near, self.near_ip, self.far_ip, self._far_mac)
        self._end(self.far, self.far_ip, self.near_ip, self._near_mac)

    def _end(self, here: Namespace, ip: str, other_ip: str, other_mac: str) -> None:
        """One end: quiet, so that nothing is held but what the test sends. No IPv6 address, no ARP."""
        lines = [
            "link set lo up",
            f"addr add {ip}/24 dev {self.device}",
            f"neigh add {other_ip} lladdr {other_mac} dev {self.device} nud permanent",
        ]
        if os.path.isdir("/proc/sys/net/ipv6"):
            here.check_output("ip", "link", "set", self.device, "addrgenmode", "none")
        here.check_output("ip", "link", "set", self.device, "up")
        for line in lines:
            here.check_output("ip", *line.split())

    def close(self) -> None:
        """Forget both namespaces."""
        self.near.close()
        self.far.close()


@pytest.fixture(scope="session")
def _why_no_plug() -> str:
    """Why this host cannot hold packets; empty where it can."""
    try:
        import libnlplug

        namespace = Namespace()
        namespace.check_output("ip", "link", "show", "dev", "lo")
        libnlplug.attach("lo", netns=namespace).close()
        namespace.close()
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return ""


@pytest.fixture
def plug_net(_why_no_plug: str) -> Iterator[PlugNet]:
    """Two namespaces with a veth pair between them, of this test alone."""
    if _why_no_plug:
        pytest.skip(f"no packets can be held on this host ('libnlplug doctor' says more): {_why_no_plug}")
    net = PlugNet()
    yield net
    net.close()


@pytest.fixture
def plug(plug_net: PlugNet) -> Iterator[PlugQdisc]:
    """The plug on near's device, released: it holds what near sends to far. It may hold 32 MiB."""
    import libnlplug

    with libnlplug.attach(plug_net.device, limit=32 << 20, netns=plug_net.near) as made:
        yield made


@pytest.fixture
def hold(plug: PlugQdisc) -> Callable[..., Hold]:
    """PlugQdisc.hold() of the plug: ``with hold(timeout=5) as held: ...``."""
    return plug.hold
