# SPDX-License-Identifier: GPL-2.0-or-later
"""Command: run a program to its end, as timeout(1) does: signals go on to it, its status comes back."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["Command"]

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
_FROM_THE_KERNEL = 0x80  # si_code SI_KERNEL (asm-generic/siginfo.h): the terminal sent it, and to the program as well
NOT_RUN, NOT_FOUND = 126, 127


class Command:
    """A program and its arguments. From the making of the object, signals wait for run() instead of ending us."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        forwarded = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN}
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
        self._awaited = forwarded | {signal.SIGCHLD}

    def run(self) -> int:
        """Run it; its exit status, 128 and the signal's number if a signal ended it, 126 or 127 if it did not run."""
        try:
            pid = os.posix_spawnp(
                self._words[0], self._words, os.environ, setsigmask=self._mask_before, setsigdef=[signal.SIGPIPE]
            )
        except (FileNotFoundError, NotADirectoryError):
            return self._not_started("no such command", NOT_FOUND)
        except (OSError, ValueError) as error:
            return self._not_started(str(getattr(error, "strerror", None) or error), NOT_RUN)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            arrived = signal.sigwaitinfo(self._awaited)
            if arrived.si_signo != signal.SIGCHLD and arrived.si_code != _FROM_THE_KERNEL:
                os.kill(pid, arrived.si_signo)

    def _not_started(self, why: str, status: int) -> int:
        print(f"libnlplug: cannot run {self._words[0]}: {why}", file=sys.stderr)
        return status
