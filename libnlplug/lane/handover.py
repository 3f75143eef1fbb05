# SPDX-License-Identifier: GPL-2.0-or-later
"""Handover: a hold that lasts from before the old listener's queues are empty until after it has closed.

    buffer --> queues empty, no handshake half done --> the block --> the old listeners have closed --> release

A listener that closes resets what waits in its accept queue, and a handshake that is half done dies with it. While new
SYNs are held nothing new comes into either; and what is released after the old listener has closed reaches the new one.
All of it is done within the hold's timeout; what was not is a sentence.
"""

from __future__ import annotations

import time

from ..netlink.route_socket import RouteSocket
from .listeners import Listener, owners, sockets_of
from .match import Match

__all__ = ["Handover", "checked"]

PAUSE = 0.005  # seconds between two looks
CALM = 0.02  # seconds for which nothing may wait: a SYN may have passed the lane and not have reached its socket yet
SILENT = 3.0  # seconds after which a half-done handshake's client is taken to be gone: SYN floods, port scans
UNCHANGED = 1.0  # seconds after which listeners that stayed are taken to stay


class Handover:
    """One handover of the listeners for a match, within ``timeout`` seconds. ValueError where there can be none."""

    def __init__(self, sk: RouteSocket, match: Match, timeout: float | None) -> None:
        self._sk, self._match, self._timeout = sk, match, checked(match, timeout)
        self._deadline = 0.0
        self._before: dict[bytes, Listener] = {}
        self._given_up = False
        self.outcome: str | None = None

    def give_up(self) -> None:
        """Have the waits return at once, also in another thread."""
        self._given_up = True

    def wait_until_quiet(self) -> str | None:
        """Wait until nothing waits in the listeners' queues; what did not happen in time, or None."""
        begun = time.monotonic()
        self._deadline = begun + self._timeout
        silent = begun + min(SILENT, self._timeout / 2)
        calm: float | None = None
        while not self._given_up:
            found, now = sockets_of(self._sk, self._match), time.monotonic()
            if found.quiet and (not found.half_done or now >= silent):
                calm = now if calm is None else calm
                if now - calm >= CALM:
                    self._before = {listener.cookie: listener for listener in found.listeners}
                    return None
            else:
                calm = None
            if now >= self._deadline:
                full = [listener for listener in found.listeners if listener.waiting]
                waiting = sum(listener.waiting for listener in full)
                where = f"the accept queue of {_shown(full)} still has {waiting} connections" if full else ""
                return where or f"{found.half_done} handshakes are still half done"
            time.sleep(PAUSE)
        return None

    def wait_until_closed(self) -> str | None:
        """Wait until the listeners of wait_until_quiet() have closed and others are there, or it is clear that they
        stay; what did not happen in time, or None."""
        if not self._before:
            self.outcome = "nothing listened"
            return None
        cookies, changed = set(self._before), time.monotonic()
        while not self._given_up:
            listeners, now = sockets_of(self._sk, self._match).listeners, time.monotonic()
            if {listener.cookie for listener in listeners} != cookies:
                cookies, changed = {listener.cookie for listener in listeners}, now
            old = [listener for listener in listeners if listener.cookie in self._before]
            new = [listener for listener in listeners if listener.cookie not in self._before]
            replaced = [one for one in old if any(_covers(one, other) for other in new)]
            if listeners and not replaced and (not old or now - changed >= UNCHANGED):
                same = len(old) == len(self._before) and not new
                self.outcome = "same socket" if same else "handed over"
                return None
            if now >= self._deadline:
                if not listeners:
                    return f"nothing listens on {_shown(list(self._before.values()))}"
                return f"{_shown(replaced or old)} is still listened on by the old socket"
            time.sleep(PAUSE)
        return None


def checked(match: Match, timeout: float | None) -> float:
    """The timeout; ValueError where there can be no handover."""
    if match.ip_proto != "tcp" or match.dst_port is None:
        raise ValueError(f"handover is of TCP listeners: give ip_proto tcp and a dst_port; the match is {match}")
    if timeout is None:
        raise ValueError("handover waits for others: give the hold a timeout")
    return timeout


def _covers(one: Listener, other: Listener) -> bool:
    """Whether both listen for some of the same connections."""
    everywhere = ("0.0.0.0", "::")
    same = one.address == other.address or one.address in everywhere or other.address in everywhere
    return one.port == other.port and same


def _shown(listeners: list[Listener]) -> str:
    """The listeners and, where it can be seen, whose they are."""
    whose = [f"{name}, pid {pid}" for pid, name in sorted(owners({one.inode for one in listeners}).items())]
    return ", ".join(sorted(set(map(str, listeners)))) + (f" ({'; '.join(whose)})" if whose else "")
