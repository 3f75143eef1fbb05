# SPDX-License-Identifier: GPL-2.0-or-later
"""Children: what may be refused, may block or may be killed is done by a process of its own, which ends soon.

    in_child(work)  -->  fork  -->  work yields lines  -->  they come back, however the child ends

Threads: for a process with one thread, as the command is. The child runs Python after the fork.
"""

from __future__ import annotations

import os
import select
import signal
import time

__all__ = ["ANSWER", "PATIENCE", "in_child", "trial"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

PATIENCE = 15.0  # seconds for all that one child does
ANSWER = 3.0  # seconds for what should happen at once


def in_child(work: Callable[[int], Iterable[str]]) -> tuple[list[str], str]:
    """The lines that ``work`` yields in a child process, and what kept it from ending well, "" for nothing.

    ``work`` is given the descriptor that its lines go to: a process that it starts and that outlives it closes that.
    A child that takes longer than PATIENCE is killed.
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
    """Why ``call`` does not work, tried in a child; "" where it does."""

    def work(_out: int) -> Iterator[str]:
        call()
        yield "done"

    lines, why = in_child(work)
    return "" if lines else why.replace("failed: ", "", 1)


def _work(work: Callable[[int], Iterable[str]], out: int) -> None:
    """The child: it never returns to the caller's code, whatever happens."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller may ignore it, then no child could be waited for
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
    """The wait status of a child that has ended or is killed now; None where it cannot be known."""
    for patience, last in ((0.2, False), (ANSWER, True)):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # this process ignores SIGCHLD, so the kernel has waited for it
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
