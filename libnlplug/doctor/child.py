# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a trial in a child process: it may be refused, block or be killed without harm to the caller.

    in_child(work)  -->  fork  -->  work yields lines  -->  the lines come back, however the child ends

Threads: call it from a process with one thread, because the child runs Python after the fork.
"""

from __future__ import annotations

import os
import select
import signal
import time

__all__ = ["AT_ONCE", "PATIENCE", "in_child", "trial"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

PATIENCE = 15.0  # seconds for one child
AT_ONCE = 3.0  # seconds for what should happen at once


def in_child(work: Callable[[int], Iterable[str]]) -> tuple[list[str], str]:
    """Run ``work`` in a child process. Return the lines that it yielded, and why it did not finish ("" if it did).

    ``work`` gets the descriptor for its lines. If it starts a process that outlives it, that process must close the
    descriptor. A child that takes longer than PATIENCE is killed.
    """
    ours, theirs = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(ours)
        os.close(theirs)
        return [], f"failed: no process can be started, {error.strerror} (ulimit -u, pids.max)"
    if not pid:
        _work(work, theirs)
    os.close(theirs)
    try:
        text = _read_all(ours, time.monotonic() + PATIENCE)
    finally:
        os.close(ours)
        status = _end(pid)
    whole = text.split("\n")[:-1]
    lines = [line[1:] for line in whole if line.startswith("=")]
    for line in whole:
        if line.startswith("!"):
            return lines, f"failed: {line[1:]}"
        if line == ".":
            return lines, ""
    return lines, _how_it_ended(status)


def trial(call: Callable[[], None]) -> str:
    """Try ``call`` in a child. Return why it fails, or "" if it works."""

    def work(_out: int) -> Iterator[str]:
        call()
        yield "done"

    lines, why = in_child(work)
    return "" if lines else why.replace("failed: ", "", 1)


def _work(work: Callable[[int], Iterable[str]], out: int) -> None:
    """Be the child. This never returns to the caller's code."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if the caller ignores it, no child can be waited for
        for line in work(out):
            os.write(out, f"={line}\n".encode())
        os.write(out, b".\n")
    except Exception as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        os.write(out, "!{}\n".format(words.replace("\n", " ")).encode())
    finally:
        os._exit(0)


def _read_all(fd: int, deadline: float) -> str:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    text = b""
    while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
        part = os.read(fd, 1 << 16)
        if not part:
            break
        text += part
    return text.decode(errors="replace")


def _end(pid: int) -> int | None:
    """Wait for the child, or kill it. Return its wait status, or None if it is unknown."""
    for patience, last in ((0.2, False), (AT_ONCE, True)):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # this process ignores SIGCHLD, so the kernel reaped the child
                return None
            if ended:
                return status
            time.sleep(0.001)
        if not last:
            os.kill(pid, signal.SIGKILL)
    return None


def _how_it_ended(status: int | None) -> str:
    signum = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
    words = {
        0: "ended without an answer",
        signal.SIGSYS: "was killed: a seccomp filter forbids it",
        signal.SIGKILL: f"did not end within {PATIENCE:g} s, or was killed",
    }
    return words.get(signum, f"was ended by signal {signum}")
