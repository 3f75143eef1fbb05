# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference program and the port side by side: each in a network namespace of its own, given the same commands."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from libnlplug.netlink.libnl import lib
from tests.support.netlab import required

HERE = Path(__file__).resolve().parents[1] / "parity"
FUNCTIONS = HERE.parents[1] / "vendor_headers" / "libnl_functions.h"
PATIENCE = 20.0  # seconds for one answer of a program, on a slow machine
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")

_ROOT = os.geteuid() == 0
_UNSHARE = ["unshare", "-n"] if _ROOT else ["unshare", "-rn"]
_NSENTER = ["nsenter", "-n"] if _ROOT else ["nsenter", "--preserve-credentials", "-U", "-n"]


def cannot(reason: str) -> None:
    """End the test: skipped at a desk, failed where every test must run."""
    if required():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def in_namespace(*command: str) -> list[str]:
    """The command line that runs ``command`` in a new network namespace, where it may do everything."""
    return [*_UNSHARE, *command]


class NotCompiled(Exception):
    """The compiler's complaint."""


def compile_c(output: Path, *sources: Path | str, packages: tuple[str, ...] = (), link: bool = True) -> Path:
    """Compile C with every warning an error, against the installed headers of libnl's ``packages``."""
    compiler = os.environ.get("CC", "cc")
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2"]
    if packages:
        known = _tool("pkg-config", "--cflags", *(["--libs"] if link else []), *packages)
        if known.returncode:
            cannot(f"libnl's headers are missing (libnl-3-dev, libnl-route-3-dev, libnl-cli-3-dev): {known.stderr}")
        flags += known.stdout.split()
    done = _tool(compiler, *map(str, sources), "-o", str(output), *flags)
    if done.returncode:
        raise NotCompiled(done.stderr)
    return output


def _tool(*command: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        cannot(f"{command[0]} is missing")
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


class Device(NamedTuple):
    name: str
    index: int

    @property
    def address(self) -> str:
        """The address that it is the way to."""
        return f"10.{self.index >> 8}.{self.index & 255}.2"


class World:
    """A new network namespace with a shell and a tc in it, which stay: a new process for every step is slow."""

    def __init__(self) -> None:
        try:
            self._shell = _Talk(in_namespace("bash"), stderr=subprocess.STDOUT)
            self.sh(
                "ip address add 10.255.255.1/32 dev lo && ip link set lo up",
                "{ [ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; }",
            )
        except (EOFError, OSError) as error:
            cannot(f"no network namespace can be made here: {error}")
        self._tc = _Talk(self.inside("tc", "-s", "-j", "-force", "-batch", "-"), stderr=subprocess.STDOUT)

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` in this namespace."""
        return [*_NSENTER, "-t", str(self._shell.process.pid), *command]

    def sh(self, *commands: str) -> str:
        """Run shell commands in the namespace; what they print. One that fails is an error."""
        script = " && ".join(commands)
        self._shell.send(f"{{ {script}\n}} </dev/null; printf '\\0%d\\0' $?")
        printed, status = self._shell.until(b"\0"), self._shell.until(b"\0")
        if int(status):
            raise RuntimeError(f"{script}: status {status}: {printed}")
        return printed

    def tc(self, *words: str) -> tuple[list[dict[str, Any]], list[str]]:
        """Run one tc command; what it shows and what it complains of."""
        self._tc.send(" ".join(words))
        self._tc.send("done")  # is no command: the complaint says that the one before it is done
        lines = []
        while not lines or not lines[-1].startswith('Object "done"'):
            lines.append(self._tc.until(b"\n"))
        assert self._tc.until(b"\n").startswith("Command failed")
        shown = [entry for line in lines if line.startswith("[") for entry in json.loads(line)]
        return shown, [line for line in lines[:-1] if not line.startswith(("[", "Command failed"))]

    def add_devices(self, devices: list[Device]) -> None:
        """Dummy devices that send nothing by themselves."""
        batch = [
            line
            for device in devices
            for line in (
                f"link add {device.name} index {device.index} type dummy",
                f"link set {device.name} up",
                f"route add {device.address} dev {device.name}",
            )
        ]
        self.sh("\n".join(["ip -batch - <<END", *batch, "END"]))

    def send_packets(self, device: Device, count: int) -> None:
        """Send UDP packets out of the device; those that find no way are lost."""
        self.sh(f"for ((i = 0; i < {count}; i++)); do echo $i >/dev/udp/{device.address}/9 || true; done 2>/dev/null")

    def show(self, device: Device) -> list[dict[str, Any]]:
        """What the kernel shows of the device's qdiscs, counters included; nothing where there is no such device.

        A handle that the kernel chose (8000: and up) is shown as such: the count behind it is the whole kernel's.
        """
        shown, complaints = self.tc("qdisc show dev", device.name)
        assert all("Cannot find device" in line for line in complaints), complaints
        for qdisc in shown:
            qdisc["handle"] = re.sub("^[89a-f][0-9a-f]{3}:$", "chosen", qdisc["handle"])
        return sorted(shown, key=lambda qdisc: str(qdisc.get("parent", "")))

    def plug(self, device: Device, **expected: int) -> dict[str, int]:
        """These numbers of the device's plug, looked at again for a while until they are as expected."""
        deadline = time.monotonic() + 2
        while True:
            (plug,) = [qdisc for qdisc in self.show(device) if qdisc["kind"] == "plug"]
            numbers = {name: plug[name] for name in expected}
            if numbers == expected or time.monotonic() > deadline:
                return numbers

    def close(self) -> None:
        self._tc.close()
        self._shell.close()


class Ended(Exception):
    """The program ended instead of answering; ``status`` is negative where a signal ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"ended with status {status}")
        self.status = status


class Driver:
    """The reference program or the port in a namespace: takes commands, and what it sends and calls is written down."""

    def __init__(
        self,
        program: list[str],
        world: World,
        preloaded: tuple[Path, ...],
        log: Path,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._sent, self._called = _Log(log.with_suffix(".sent")), _Log(log.with_suffix(".called"))
        logs = {"CAPTURE_FILE": str(self._sent.path), "CALLS_FILE": str(self._called.path)}
        self._talk = _Talk(
            world.inside(*prefix, *program),
            env={**os.environ, "LD_PRELOAD": ":".join(map(str, preloaded)), **logs, **(environment or {})},
        )

    @property
    def ended(self) -> bool:
        return self._talk.process.poll() is not None

    def call(self, command: str) -> int:
        """The value that the command returned; Ended where the program ended instead."""
        try:
            self._talk.send(command)
            return int(self._talk.until(b"\n"))
        except (EOFError, BrokenPipeError):
            raise Ended(self._talk.close()) from None

    def requests(self) -> list[str]:
        """The RTM_NEWQDISC messages sent since the last call, in order, in hexadecimal, without seq and pid."""
        return [
            f"{message[:8].hex()} {message[16:].hex()}"
            for line in self._sent.more()
            for message in _messages(bytes.fromhex(line))
            if struct.unpack_from("=H", message, 4) == (lib.RTM_NEWQDISC,)
        ]

    def calls(self) -> list[str]:
        """The calls of libnl's functions since the last call, in order, with their arguments."""
        return self._called.more()

    def close(self) -> None:
        self._talk.close()


class _Log:
    """A file that a preloaded library writes lines to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        path.write_bytes(b"")

    def more(self) -> list[str]:
        """The lines that are new."""
        written = self.path.read_bytes()[self._read :]
        self._read += len(written)
        return written.decode().splitlines()


def _messages(sent: bytes) -> list[bytes]:
    """The netlink messages of one send: each begins with its length and is padded to four bytes."""
    found = []
    while sent:
        (length,) = struct.unpack_from("=I", sent)
        assert 16 <= length <= len(sent), f"a message with a lying length: {sent.hex()}"
        found.append(sent[:length])
        sent = sent[(length + 3) & ~3 :]
    return found


class Pair:
    """The reference program and the port, each in a world of its own, with devices of the same name and index."""

    def __init__(self, reference: Path, preloaded: tuple[Path, ...], directory: Path) -> None:
        self._programs = {"c": [str(reference)], "port": [sys.executable, str(HERE / "port_driver.py")]}
        self._preloaded = preloaded
        self._directory = directory
        self._drivers: dict[str, Driver] = {}
        self._options: dict[str, Any] = {}
        self._devices: list[Device] = []
        self._indexes = itertools.count(100)
        self.worlds = {name: World() for name in self._programs}
        self.last_sent: list[str] = []
        self.last_called: list[str] = []

    def driver(self, name: str, **options: Any) -> Driver:
        """A new process of ``c`` or ``port``."""
        log = self._directory / f"sent-{name}-{os.urandom(4).hex()}"
        return Driver(self._programs[name], self.worlds[name], self._preloaded, log, **options)

    def begin(self, **options: Any) -> None:
        """Let neither know of an attach: the processes go on where they can, but with a new socket and qdisc."""
        for name in self._programs:
            if name not in self._drivers or self._drivers[name].ended or options != self._options:
                if name in self._drivers:
                    self._drivers[name].close()
                self._drivers[name] = self.driver(name, **options)
            assert self._drivers[name].call("init") == 0
            self._drivers[name].calls()
        self._options = options

    def new_device(self) -> Device:
        """A device that no test had before, in both worlds."""
        if not self._devices:
            self._devices = [Device(f"p{os.urandom(4).hex()}", next(self._indexes)) for _ in range(16)]
            for world in self.worlds.values():
                world.add_devices(self._devices)
        return self._devices.pop()

    def sh(self, command: str) -> None:
        """Run a shell command in both worlds."""
        for world in self.worlds.values():
            world.sh(command)

    def tc(self, *words: str) -> None:
        """Run a tc command in both worlds."""
        for world in self.worlds.values():
            assert world.tc(*words) == ([], [])

    def send_packets(self, device: Device, count: int) -> None:
        """Send UDP packets out of the device, in both worlds."""
        for world in self.worlds.values():
            world.send_packets(device, count)

    def call_each(self, command: str) -> tuple[dict[str, int], dict[str, list[str]]]:
        """The value that the command returned and the messages that it sent, by program."""
        returned = {name: driver.call(command) for name, driver in self._drivers.items()}
        return returned, {name: driver.requests() for name, driver in self._drivers.items()}

    def calls_each(self) -> dict[str, list[str]]:
        """The calls of libnl's functions since the last look, by program."""
        return {name: driver.calls() for name, driver in self._drivers.items()}

    def call(self, command: str) -> int:
        """The value that the command returned, which is the same for both, as are libnl's functions that were called,
        their arguments, and the messages that were sent."""
        self.calls_each()
        returned, sent = self.call_each(command)
        called = self.calls_each()
        assert called["port"] == called["c"], f"'{command}' calls something else in the port"
        assert returned["port"] == returned["c"], f"'{command}' returns something else in the port"
        assert sent["port"] == sent["c"], f"'{command}' sends something else in the port"
        self.last_sent, self.last_called = sent["c"], called["c"]
        return returned["c"]

    def show(self, device: Device) -> None:
        """See that the kernel shows the same in both worlds.

        A release is asynchronous, so what differs is looked at again for a while.
        """
        deadline = time.monotonic() + 2
        while True:
            shown = {name: world.show(device) for name, world in self.worlds.items()}
            if shown["port"] == shown["c"] or time.monotonic() > deadline:
                break
        assert shown["port"] == shown["c"], "the kernel shows something else after the port"

    def close(self) -> None:
        for part in (*self._drivers.values(), *self.worlds.values()):
            part.close()


class _Talk:
    """A process that is told lines and answers; no answer is waited for without end."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            **options,
        )
        self._said = b""

    def send(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n".encode())

    def until(self, mark: bytes) -> str:
        """What the process says up to ``mark``; EOFError where it ends before."""
        deadline = time.monotonic() + PATIENCE
        while mark not in self._said:
            if not select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer in {PATIENCE:g} s after {self._said!r}")
            more = self.process.stdout.read(1 << 16)
            if not more:
                raise EOFError(self._said.decode())
            self._said += more
        before, _, self._said = self._said.partition(mark)
        return before.decode()

    def close(self) -> int:
        """End the process; its status."""
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                pass
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def functions(text: str) -> list[str]:
    """The names of the functions that a header without preprocessor lines declares."""
    declarations = [part for part in without_comments(text).split(";") if "(" in part]
    return [re.search(r"(\w+)\s*\(", part).group(1) for part in declarations]  # type: ignore[union-attr]
