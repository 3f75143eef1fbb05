# SPDX-License-Identifier: GPL-2.0-or-later
"""The stated limits: what ends the guard together with its holder."""

from __future__ import annotations

import ctypes
import os
import random
import signal

from tests.faults.flow import Flow, Holder, Page, opened, process_gone
from tests.faults.trial import EXPIRED, NotTried, held, need, stay
from tests.support.hold import Cgroup


def _both_die(flow: Flow, work, kill) -> None:
    """Traffic stays held, as the documentation says, until somebody releases."""
    with held(flow, work) as holder:
        kill(holder)
        need(flow.until(holder.dead), "the holder did not die")
        need(flow.until(lambda: process_gone(holder.page["guard"])), "the guard did not die")
        still = flow.stands_still()
    flow.plug.release_indefinite()
    need(flow.flows(), "a release did not help")
    need(still, "it flowed again all the same")


CLONE_NEWPID = 0x2000_0000


def _cgroup() -> Cgroup:
    try:
        return Cgroup("pids")
    except OSError as error:
        raise NotTried(str(error)) from None


def cgroup_killed(flow: Flow, chance: random.Random) -> None:
    cgroup = _cgroup()

    def work(page: Page) -> int:
        cgroup.write("cgroup.procs", 0)
        return stay(opened(flow), page)

    try:
        if not (cgroup.path / "cgroup.kill").exists():
            raise NotTried("no cgroup.kill: Linux 5.14 has it")
        _both_die(flow, work, lambda _: cgroup.write("cgroup.kill", 1))
    finally:
        cgroup.close()


def frozen(flow: Flow, chance: random.Random) -> None:
    """The guard's clock goes on, but the guard does not until the cgroup is thawed; then it releases at once."""
    cgroup = _cgroup()

    def work(page: Page) -> int:
        cgroup.write("cgroup.procs", 0)
        return stay(opened(flow), page, timeout=1.0)

    try:
        if not (cgroup.path / "cgroup.freeze").exists():
            raise NotTried("no cgroup.freeze: Linux 5.2 has it")
        with held(flow, work) as holder:
            cgroup.write("cgroup.freeze", 1)
            still = flow.stands_still(1.5)
            cgroup.write("cgroup.freeze", 0)
            need(flow.flows(), "it did not flow after the thaw")
            holder.page["note"] = 1
            need(flow.until(holder.dead), "the holder hangs")
            need(holder.status == EXPIRED, f"the holder was not told: status {holder.status}")
        need(still, "it flowed again all the same")
    finally:
        cgroup.close()


def pid_namespace_killed(flow: Flow, chance: random.Random) -> None:
    def work(page: Page) -> int:
        if ctypes.CDLL(None).unshare(CLONE_NEWPID):
            raise OSError("cannot make a pid namespace")
        pid = os.fork()  # the namespace's init
        if pid:
            page["leaked"] = pid
            os.waitpid(pid, 0)
            return 0
        pid = os.fork()
        if pid == 0:
            stay(opened(flow), page)
            os._exit(0)
        os.waitpid(pid, 0)
        os._exit(0)

    def kill(holder: Holder) -> None:
        os.kill(holder.page["leaked"], signal.SIGKILL)
        holder.page["leaked"] = 0
        holder.page["guard"] = 0

    _both_die(flow, work, kill)


def both_killed(flow: Flow, chance: random.Random) -> None:
    def kill(holder: Holder) -> None:
        os.kill(holder.page["guard"], signal.SIGKILL)
        holder.kill()

    _both_die(flow, None, kill)
