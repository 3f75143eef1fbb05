# SPDX-License-Identifier: GPL-2.0-or-later
"""Command: run a program to its end, as timeout(1) does: pass signals on to it, and return its exit status."""

from __future__ import annotations

import errno
import os
import signal

from ..netlink.libnl import lib

__all__ = ["Command"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)
_IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]
NOT_RUN, NOT_FOUND = 126, 127


class Command:
    """A program and its arguments. Creating the object blocks the signals that run() forwards, until close()."""

    def __init__(self, words: list[str], say: Callable[[str], None]) -> None:
        self._words = words
        self._say = say
        # A caller that ignores SIGCHLD hands that on, and the kernel then keeps no status of a child.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._awaited = {signum for signum in _FORWARDED if signal.getsignal(signum) != signal.SIG_IGN}
        self._awaited.add(signal.SIGCHLD)
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited)

    def run(self) -> int:
        """Run the program. Return its exit status, 128 plus the number of the signal that ended it, or 126 or 127
        if it did not run."""
        arrived_early = signal.sigpending() & self._awaited - {signal.SIGCHLD, signal.SIGWINCH}
        if arrived_early:  # it would not reach the program: a Ctrl-C goes to those that run already
            return 128 + int(min(arrived_early))
        try:
            pid = self._start()
        except (FileNotFoundError, NotADirectoryError):
            return self._not_started("no such command", NOT_FOUND)
        except (OSError, ValueError) as error:
            return self._not_started(str(getattr(error, "strerror", None) or error), NOT_RUN)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                ended_with = os.waitstatus_to_exitcode(status)  # the negative number of a signal
                return ended_with if ended_with >= 0 else 128 - ended_with
            arrived = signal.sigwaitinfo(self._awaited)
            # The terminal signals the program as well, but it sends SIGHUP only to the leader of its session.
            from_terminal = arrived.si_code == lib.SI_KERNEL and arrived.si_signo != signal.SIGHUP
            if arrived.si_signo != signal.SIGCHLD and not from_terminal:
                os.kill(pid, arrived.si_signo)

    def close(self) -> None:
        """Restore the signal mask, and discard signals that came too late for the program."""
        while signal.sigtimedwait(self._awaited, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)

    def _start(self) -> int:
        words = self._words
        if not words[0]:
            raise FileNotFoundError
        try:
            return self._spawn(words)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
        import shutil

        # A script without a #! line: a shell would run it as its own.
        return self._spawn(["/bin/sh", shutil.which(words[0]) or words[0], *words[1:]])

    def _spawn(self, words: list[str]) -> int:
        return os.posix_spawnp(words[0], words, os.environ, setsigmask=self._mask_before, setsigdef=_IGNORED_BY_PYTHON)

    def _not_started(self, why: str, status: int) -> int:
        self._say(f"cannot run {self._words[0] or repr('')}: {why}")
        return status
