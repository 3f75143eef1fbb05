# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest, whatever its kernel: its directory, what its init reads, its output, its end, and COMMAND's status.

What goes between this process and the guest:

  a directory, removed afterwards  -> /run/job       init and command are read from it, status is written to it
  a pipe, copied to our output     <- a serial line  COMMAND's output
  a file in that directory         <- the console    kernel messages; init's, where it fails
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PREFIX = "libnlplug-testkernel-"
Command = tuple[list[str], dict[str, str]]  # the words, and what is in its environment besides ours


class GuestFailed(Exception):
    """The guest gave no status for COMMAND."""

    status = 125


class TimedOut(GuestFailed):
    """The time ran out."""

    status = 124


class Kernel(NamedTuple):
    """A kernel, and what the guest's init has to know of it."""

    file: Path
    modules: Path  # the host's directory that has one of them for each release of the kernel
    line: str  # the serial line, in the guest, that comes out of our standard output
    shared: str  # how the guest mounts directories of the host: hostfs or 9p


# Parameters that every kernel is started with.
PARAMETERS = (
    "rw",
    "oops=panic",
    "ifb.numifbs=0",
    "dummy.numdummies=0",
    "ipv6.disable_ipv6=1",  # or idle links send packets of their own; a test that wants IPv6 turns it on per device
)


@contextmanager
def job_directory() -> Iterator[Path]:
    """A directory for one guest, locked while it is in use; those of killed runs are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            old = left.stat().st_mtime < time.time() - 60
            if old and lock(left):
                shutil.rmtree(left)
        except OSError:
            pass  # in use, another user's, or gone already
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        held = lock(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(held)


def lock(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def write_job(job: Path, kernel: Kernel, options: argparse.Namespace) -> None:
    """Write what the guest's init reads: its own text, this guest's settings, COMMAND and its surroundings."""
    environment = {name: value for name, value in os.environ.items() if name.isidentifier() and name != "TMPDIR"}
    path = environment.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":")
    environment["PATH"] = ":".join(path + [p for p in ("/usr/sbin", "/sbin") if p not in path])
    command = [
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        f"cd {shlex.quote(os.getcwd())} || exit 125",
        f"exec {' '.join(map(shlex.quote, options.command))}",
    ]
    settings = {
        "line": kernel.line,
        "shared": kernel.shared,
        "modules": str(kernel.modules),
        "without": environment.get("LIBNLPLUG_GUEST_WITHOUT", ""),
        "directory": str(own_directory(options) or ""),
        "terminal": "",
    }
    if sys.stdout.isatty():
        columns, lines = shutil.get_terminal_size()
        settings["terminal"] = f"cols {columns} rows {lines}"
    shutil.copy(HERE / "init", job / "init")
    (job / "command").write_bytes(os.fsencode("\n".join(command) + "\n"))
    (job / "settings").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))


def own_directory(options: argparse.Namespace) -> Path | None:
    """The current directory, where it is not in the guest's root file system."""
    return Path.cwd() if options.root != Path("/") and os.getcwd() != "/" else None


@contextmanager
def kept_processor(shared: int = 8) -> Iterator[int | None]:
    """The host's processor that a guest of one processor is kept on: one where fewest others are.

    Its kernel and its programs are processes that wake each other, one at a time. Between two processors of a virtual
    machine that takes 130 us where it takes 10 on one. Who binds the name of a place has it, for as long as it runs.
    """
    for place in range(shared):
        for processor in sorted(os.sched_getaffinity(0)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
                try:
                    taken.bind(f"\0{PREFIX}processor-{processor}-{place}")
                except OSError:
                    continue  # another guest's
                yield processor
                return
    yield None


def run_guest(job: Path, command_for: Callable[[int], Command], options: argparse.Namespace) -> int:
    """Start the guest, copy its output to ours until it is gone; no process of it is left, however this ends."""
    output, guest_output = os.pipe()
    words, more = command_for(guest_output)
    around = [
        *(["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []),
        *(["taskset", "-c", str(options.pin)] if options.pin is not None else []),
    ]
    with open(job / "console", "wb") as messages:
        process = subprocess.Popen(
            [*around, *words],
            cwd=job,
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            pass_fds=[guest_output],
            start_new_session=True,  # its processes are one group, and Ctrl-C does not reach them
        )
    os.close(guest_output)
    try:
        copy_output(output, process, time.monotonic() + options.timeout)
    except TimeoutError:
        if not (job / "status").exists():
            raise TimedOut(f"time out: killed the guest after {options.timeout:g} s") from None
    finally:
        end(process)
        os.close(output)
        if options.console:
            shutil.copyfile(job / "console", options.console)
    return process.returncode


def copy_output(output: int, process: subprocess.Popen[bytes], deadline: float) -> None:
    while time.monotonic() < deadline:
        ended = process.poll() is not None  # asked before what it has written last is looked for
        if select.select([output], [], [], 0 if ended else 0.2)[0]:
            data = os.read(output, 1 << 16)
            if not data:
                return
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        elif ended:
            return
    raise TimeoutError


def end(process: subprocess.Popen[bytes]) -> None:
    """Let no process of the guest be left.

    The guest's programs are processes traced by its kernel: if that one alone got SIGKILL, they would run on, untraced.
    """
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        pass
    patience = time.monotonic() + 2
    try:
        while time.monotonic() < patience:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(0.01)
    except ProcessLookupError:
        pass  # the last one is gone


def read_status(job: Path, ended: int) -> int:
    """COMMAND's status, or else why there is none: init's own word, the panic, or whatever came last."""
    try:
        return int((job / "status").read_text())
    except (OSError, ValueError):
        pass
    messages = [line.strip() for line in (job / "console").read_text(errors="replace").splitlines() if line.strip()]
    for sign in ("testkernel: ", "Kernel panic"):
        for line in messages:
            if line.startswith(sign):
                raise GuestFailed(f"the guest failed: {line}")
    how = f"was killed by signal {-ended}" if ended < 0 else "ended"
    raise GuestFailed(f"the guest {how} without a status; its last message: {messages[-1] if messages else 'none'}")
