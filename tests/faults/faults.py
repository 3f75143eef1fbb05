# SPDX-License-Identifier: GPL-2.0-or-later
"""Every other fault: what is done to a hold, and how it must end.

Each fault is one function. It returns how long the worst packet waited after the event, or how long it took until the
holder was told, in milliseconds; it raises Failed where that did not happen. The good end is one of

    flows     the traffic flows again          refused   no hold began, and the traffic was never stopped
    told      there is nothing left to flow: the holder gets an error that says so, and mark and guard go
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from libnlplug import GuardUnavailable, PlugBusy, PlugQdisc
from libnlplug.guard import client as guard
from tests.faults.flow import Flow, Holder, Page, now, opened, process_gone
from tests.support.hold import NOBODY, Cgroup, become_nobody
from tests.support.netlab import Wire, in_guest, random_name, setns, up

CLONE_NEWPID = 0x20000000
REFUSED, TOLD, EXPIRED, MISSED = 11, 12, 13, 14  # exit statuses of holders


class Failed(Exception):
    """It did not end as it must."""


class NotTried(Exception):
    """It cannot be tried here, and why."""


class Fault:
    """One line of the table."""

    def __init__(self, name: str, end: str, do, times: int = 20) -> None:
        self.name, self.end, self.do, self.times = name, end, do, times


def need(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)


def _stay(plug: PlugQdisc, page: Page, **options) -> int:
    """A holder's life: hold until killed, and say how it ended otherwise."""
    page["guard"] = plug.guard().pid
    try:
        page["armed"] = now()
        with plug.hold(**options):
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
        page["phase"] = now()
    except FileNotFoundError:
        page["phase"] = now()
        return TOLD
    except TimeoutError:
        page["phase"] = now()
        return EXPIRED
    except GuardUnavailable:
        page["phase"] = now()
        return MISSED
    return 0


@contextmanager
def held(flow: Flow, work=None, **options):
    """A process that holds, with packets waiting in the plug already."""

    def stay(page: Page, wait_for_start) -> int:
        wait_for_start()
        if work is not None:
            return work(page)
        return _stay(opened(flow), page, **options)

    holder = Holder(stay)
    try:
        holder.prepare()
        flow.begin()
        holder.start()
        need(flow.until(lambda: holder.page["held"] or holder.dead()) and holder.page["held"], "did not hold")
        need(flow.stands_still(0.01), "did not hold anything")
        yield holder
    finally:
        holder.close()


def flowed(flow: Flow, holder: Holder, event: int) -> float:
    """The traffic flows again, and the mark and the guard go."""
    need(flow.flows(), "traffic did not flow again")
    pid = holder.page["guard"]
    need(flow.until(lambda: flow.plug.holder() is None and process_gone(pid)), "the mark or the guard stayed")
    return flow.worst_wait(event)


def killed(flow: Flow, holder: Holder, number: int = signal.SIGKILL) -> float:
    """The same after a signal that ends the holder."""
    event = holder.kill(number)
    need(flow.until(holder.dead, files=[holder.pidfd]), "the holder did not die")
    return flowed(flow, holder, event)


def refused(flow: Flow, work) -> float:
    """No hold begins, and no packet waits."""

    def attempt(page: Page, wait_for_start) -> int:
        wait_for_start()
        return work(page)

    holder = Holder(attempt)
    try:
        holder.prepare()
        flow.begin()
        event = now()
        holder.start()
        need(flow.until(holder.dead, files=[holder.pidfd]), "the holder hangs")
        need(holder.status == REFUSED, f"the holder was not refused: status {holder.status}")
        need(flow.flows(), "traffic does not flow")
        return flow.worst_wait(event)
    finally:
        holder.close()


def _refusal(plug: PlugQdisc) -> int:
    try:
        plug.hold().__enter__()
    except (GuardUnavailable, PlugBusy):
        return REFUSED
    except OSError:
        return REFUSED
    return 0


# -- the holder


def stopped(flow: Flow, chance: random.Random) -> float:
    with held(flow, timeout=0.3) as holder:
        holder.kill(signal.SIGSTOP)
        need(flow.flows(), "traffic did not flow again")
        event = holder.page["armed"] + 300_000_000
        need(flow.first_after(holder.page["held"]) >= (event - holder.page["held"]) / 1e6, "released too early")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(event)


def crashed(flow: Flow, chance: random.Random) -> float:
    """SIGSEGV, while a program that is in no hurry takes the core."""
    if not in_guest():
        raise NotTried("the core pattern is this machine's")
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    pattern.write_text("|/bin/sleep 0.5")

    def work(page: Page) -> int:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return _stay(opened(flow), page)

    try:
        with held(flow, work) as holder:
            event = holder.kill(signal.SIGSEGV)
            need(flow.flows(), "traffic did not flow again")
            need(not holder.dead(), "there was no core to wait for")
            need(flow.until(holder.dead), "the holder did not die")
            return flowed(flow, holder, event)
    finally:
        pattern.write_text(before)


def guard_killed(flow: Flow, chance: random.Random) -> float:
    with held(flow) as holder:
        os.kill(holder.page["guard"], signal.SIGKILL)
        need(flow.stands_still(0.01), "the hold ended with its guard")
        holder.page["note"] = 1
        event = now()
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == MISSED, "the holder was not told that its guard has gone")
        return flowed(flow, holder, event)


def closed(flow: Flow, chance: random.Random) -> float:
    """close(): how long the guard's process is there after it has returned."""
    plug = opened(flow)
    plug.guard()
    with plug.hold():
        pass
    pidfd = os.pidfd_open(plug._guard.pid)  # type: ignore[union-attr]
    try:
        event = now()
        plug.close()
        need(flow.until(lambda: process_gone(plug_guard) if (plug_guard := _pid_of(pidfd)) else True), "it stayed")
        return (now() - event) / 1e6
    finally:
        os.close(pidfd)


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as lines:
        return max(0, next(int(line.split()[1]) for line in lines if line.startswith("Pid:")))


def detached(flow: Flow, chance: random.Random) -> float:
    """buffer with a deadline: the process that began it has ended long before."""

    def work(page: Page, wait_for_start) -> None:
        plug = opened(flow)
        wait_for_start()
        arm = guard.Guard.hold

        def armed(*args, **options) -> None:
            page["armed"] = now()
            arm(*args, **options)

        guard.Guard.hold = armed  # type: ignore[method-assign]
        plug.hold_detached(0.2)

    holder = Holder(work)
    try:
        holder.prepare()
        flow.begin()
        holder.start()
        need(flow.until(holder.dead), "it did not end")
        need(holder.status == 0 and flow.stands_still(0.01), "it does not hold")
        need(flow.flows(), "traffic did not flow again")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(holder.page["armed"] + 200_000_000)
    finally:
        holder.close()


# -- resources


def _use_up_descriptors() -> None:
    while True:
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError:
            return


def no_descriptors(flow: Flow, chance: random.Random) -> float:
    def work(page: Page) -> int:
        plug = opened(flow)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        _use_up_descriptors()
        for number in range(chance.randrange(4)):
            os.close(199 - number)
        return _refusal(plug)

    return refused(flow, work)


def no_descriptors_left(flow: Flow, chance: random.Random) -> float:
    """They run out while it holds, and it leaves the block."""

    def work(page: Page) -> int:
        plug = opened(flow)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        page["guard"] = plug.guard().pid
        with plug.hold():
            _use_up_descriptors()
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
            page["phase"] = now()
        return 0

    with held(flow, work) as holder:
        holder.page["note"] = 1
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == 0, f"the release failed: status {holder.status}")
        return flowed(flow, holder, holder.page["phase"])


def no_memory_for_the_guard(flow: Flow, chance: random.Random) -> float:
    """Its address space ends somewhere between its first instruction and its being ready."""
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "guard"
        program.write_text(f"#!/bin/sh\nulimit -v {chance.randrange(64, 800)}\nexec {guard.PATH}\n")
        program.chmod(0o755)

        def work(page: Page) -> int:
            guard.PATH = str(program)
            return _refusal(opened(flow))

        return refused(flow, work)


def out_of_memory(flow: Flow, chance: random.Random, *, group: bool = False) -> float:
    """The kernel's OOM killer ends the holder, whose cgroup is full."""
    try:
        cgroup = Cgroup("memory")
    except OSError as error:
        raise NotTried(str(error)) from None

    def work(page: Page) -> int:
        cgroup.write("cgroup.procs", 0)
        cgroup.write("memory.max", 32 << 20)
        if group:
            cgroup.write("memory.oom.group", 1)
        plug = opened(flow)
        page["guard"] = plug.guard().pid
        kept = []
        with plug.hold():
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
            while True:
                kept.append(b"x" * (1 << 20))
        return 0

    try:
        with held(flow, work) as holder:
            holder.page["note"] = 1
            need(flow.until(holder.dead, files=[holder.pidfd]), "it was not killed")
            need(holder.status == -signal.SIGKILL, f"it was not killed: {holder.status}")
            return flowed(flow, holder, holder.died)
    finally:
        cgroup.close()


def out_of_memory_group(flow: Flow, chance: random.Random) -> float:
    return out_of_memory(flow, chance, group=True)


def no_processes(flow: Flow, chance: random.Random) -> float:
    """RLIMIT_NPROC, for a user with CAP_NET_ADMIN: it does not bind root."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        program = shutil.copy(guard.PATH, place)

        def work(page: Page) -> int:
            guard.PATH = program
            setns(flow.near.fileno())
            become_nobody(keep=True)
            plug = PlugQdisc.open(flow.device)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            return _refusal(plug)

        return refused(flow, work)


def no_processes_in_the_cgroup(flow: Flow, chance: random.Random) -> float:
    try:
        cgroup = Cgroup("pids")
    except OSError as error:
        raise NotTried(str(error)) from None

    def work(page: Page) -> int:
        plug = opened(flow)
        setns(flow.near.fileno())
        cgroup.write("pids.max", chance.choice([1, 2]))
        cgroup.write("cgroup.procs", 0)
        return _refusal(plug)

    try:
        return refused(flow, work)
    finally:
        cgroup.close()


def _jam(plug: PlugQdisc) -> None:
    """Fill the socket's receive buffer with answers that nobody reads, until the kernel has no room for one more."""
    with socket.socket(fileno=os.dup(plug._sk.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        question = (20).to_bytes(4, sys.byteorder) + b"\x12\0" + b"\x05\0" + bytes(12)  # RTM_GETLINK that asks an ACK
        for _ in range(50):
            same.send(question)


def jammed(flow: Flow, chance: random.Random, *, with_guard: bool = True) -> float:
    """ENOBUFS on the holder's socket when it leaves the block."""

    def work(page: Page) -> int:
        plug = opened(flow)
        page["guard"] = plug.guard().pid
        with suppress(*(() if with_guard else (GuardUnavailable,))), plug.hold():
            page["held"] = now()
            while not page["note"]:
                time.sleep(0.001)
            if not with_guard:
                os.kill(page["guard"], signal.SIGKILL)
            _jam(plug)
            page["phase"] = now()
        return 0

    with held(flow, work) as holder:
        holder.page["note"] = 1
        need(flow.until(holder.dead), "the holder hangs")
        need(holder.status == 0, f"the release failed: status {holder.status}")
        return flowed(flow, holder, holder.page["phase"])


def jammed_without_guard(flow: Flow, chance: random.Random) -> float:
    return jammed(flow, chance, with_guard=False)


# -- the device, its namespace, its qdisc


def _told(flow: Flow, spoil, *, kill: bool = False) -> float:
    """The holder is told when it leaves the block, or its guard ends when it is killed."""
    own = Flow()
    try:
        with held(own) as holder:
            spoil(own)
            if kill:
                event = holder.kill()
            else:
                event = now()
                holder.page["note"] = 1
            deadline = time.monotonic() + 5
            while not (holder.dead() and process_gone(holder.page["guard"])):
                need(time.monotonic() < deadline, "the holder or its guard hangs")
                time.sleep(0.0005)
            took = ((now() if kill else holder.page["phase"]) - event) / 1e6
            need(kill or holder.status == TOLD, f"the holder was not told: status {holder.status}")
            return took
    finally:
        own.close()


def _remove(flow: Flow) -> None:
    flow.near.ip(f"link del {flow.device}")


def _move(flow: Flow) -> None:
    flow.near.ip(f"link set {flow.device} netns {flow.far.path}")


def removed(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _remove)


def removed_and_killed(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _remove, kill=True)


def moved(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _move)


def moved_and_killed(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _move, kill=True)


def renamed(flow: Flow, chance: random.Random) -> float:
    name = random_name()
    with held(flow) as holder:
        flow.near.ip(f"link set {flow.device} down", f"link set {flow.device} name {name}", *up(name, Wire.NEAR))
        flow.near.ip(f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {name} nud permanent")
        flow.device = name
        flow.begin()  # setting it down has emptied the queue
        need(flow.stands_still(0.01), "the hold did not go on")
        return killed(flow, holder)


def namespace_deleted(flow: Flow, chance: random.Random) -> float:
    name = random_name()
    sleeper = flow.near.run(subprocess.Popen, ["sleep", "60"])
    try:
        need(
            flow.until(lambda: os.stat(f"/proc/{sleeper.pid}/ns/net").st_ino == os.fstat(flow.near.fileno()).st_ino), ""
        )
        subprocess.run(["ip", "netns", "attach", name, str(sleeper.pid)], check=True)
        try:
            with held(flow, lambda page: _stay(PlugQdisc.open(flow.device, netns=name), page)) as holder:
                subprocess.run(["ip", "netns", "del", name], check=True)
                sleeper.kill()
                return killed(flow, holder)
        finally:
            if os.path.exists(f"/run/netns/{name}"):
                subprocess.run(["ip", "netns", "del", name], check=True)
    finally:
        sleeper.kill()
        sleeper.wait()


def replaced(flow: Flow, chance: random.Random) -> float:
    """Somebody else's qdisc takes the plug's place, and drops what that held: the holder is told."""
    own = Flow()
    try:
        with held(own) as holder:
            own.near.tc(f"qdisc replace dev {own.device} root handle 77: pfifo")
            own.begin()
            event = now()
            holder.page["note"] = 1
            need(own.until(holder.dead), "the holder hangs")
            need(holder.status == TOLD, f"the holder was not told: status {holder.status}")
            need(own.flows(), "traffic does not flow")
            return own.worst_wait(event)
    finally:
        own.close()


# -- others


def racing(flow: Flow, chance: random.Random) -> float:
    """Two processes hold and hold again, each as often as it gets it, and are killed at a random moment."""

    def race(page: Page, wait_for_start) -> None:
        plug = opened(flow)
        plug.guard()
        wait_for_start()
        while True:
            try:
                with plug.hold():
                    page["held"] += 1
                    time.sleep(0.002)
            except PlugBusy as busy:
                if busy.pid in (0, os.getpid()):
                    os._exit(1)
                time.sleep(0.001)

    holders = [Holder(race), Holder(race)]
    try:
        for holder in holders:
            holder.prepare()
        flow.begin()
        for holder in holders:
            holder.start()
        flow.until(lambda: False, deadline=now() + int(chance.uniform(2e7, 2e8)))
        for holder in holders:
            event = holder.kill()
        for holder in holders:
            need(flow.until(holder.dead), "a holder did not die")
            need(holder.status == -signal.SIGKILL, f"a holder ended by itself: {holder.status}")
        need(flow.flows(), "traffic did not flow again")
        need(flow.until(lambda: flow.plug.holder() is None), "the mark stayed")
        return flow.worst_wait(event)
    finally:
        for holder in holders:
            holder.close()


def squatted(flow: Flow, chance: random.Random) -> float:
    """Another local user has taken the mark's name."""
    listening = chance.choice([True, False])

    def squat(page: Page, wait_for_start) -> None:
        setns(flow.near.fileno())
        os.setresuid(NOBODY, NOBODY, NOBODY)
        sitting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sitting.bind("\0" + flow.plug.place.mark)
        if listening:
            sitting.listen()
        wait_for_start()
        wait_for_start()

    squatter = Holder(squat)
    try:
        squatter.prepare()
        return refused(flow, lambda page: _refusal(opened(flow)))
    finally:
        squatter.close()


FAULTS = (
    Fault("SIGSTOP past the timeout", "flows", stopped),
    Fault("SIGSEGV with a core that takes 0.5 s", "flows", crashed, 10),
    Fault("SIGKILL for the guard, then the block ends", "flows", guard_killed),
    Fault("buffer with a deadline, the process gone", "flows", detached),
    Fault("the guard's end after close()", "gone", closed),
    Fault("out of descriptors before", "refused", no_descriptors),
    Fault("out of descriptors in the block", "flows", no_descriptors_left),
    Fault("out of memory for the guard", "refused", no_memory_for_the_guard),
    Fault("out of memory, the holder is killed", "flows", out_of_memory),
    Fault("the same, memory.oom.group", "flows", out_of_memory_group),
    Fault("fork refused (RLIMIT_NPROC)", "refused", no_processes),
    Fault("fork refused (pids.max)", "refused", no_processes_in_the_cgroup),
    Fault("ENOBUFS on the socket", "flows", jammed),
    Fault("the same, and no guard", "flows", jammed_without_guard),
    Fault("device removed, the block ends", "told", removed, 10),
    Fault("device removed, SIGKILL", "told", removed_and_killed, 10),
    Fault("device moved away, the block ends", "told", moved, 10),
    Fault("device moved away, SIGKILL", "told", moved_and_killed, 10),
    Fault("device renamed, SIGKILL", "flows", renamed),
    Fault("namespace deleted, SIGKILL", "flows", namespace_deleted),
    Fault("qdisc replaced by someone else", "flows", replaced, 10),
    Fault("two holders racing, SIGKILL for both", "flows", racing),
    Fault("another user squats the mark", "refused", squatted, 10),
)


# -- the stated limits: what ends the guard together with its holder


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


def cgroup_killed(flow: Flow, chance: random.Random) -> None:
    try:
        cgroup = Cgroup("pids")
    except OSError as error:
        raise NotTried(str(error)) from None

    def work(page: Page) -> int:
        cgroup.write("cgroup.procs", 0)
        return _stay(opened(flow), page)

    try:
        if not (cgroup.path / "cgroup.kill").exists():
            raise NotTried("no cgroup.kill: Linux 5.14 has it")
        _both_die(flow, work, lambda _: cgroup.write("cgroup.kill", 1))
    finally:
        cgroup.close()


def frozen(flow: Flow, chance: random.Random) -> None:
    """The guard's clock goes on, but the guard does not until the cgroup is thawed; then it releases at once."""
    try:
        cgroup = Cgroup("pids")
    except OSError as error:
        raise NotTried(str(error)) from None

    def work(page: Page) -> int:
        cgroup.write("cgroup.procs", 0)
        return _stay(opened(flow), page, timeout=1.0)

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
            _stay(opened(flow), page)
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


LIMITS = (
    Fault("holder and guard ended by one cgroup.kill", "held", cgroup_killed, 3),
    Fault("holder and guard ended with their pid namespace", "held", pid_namespace_killed, 3),
    Fault("the guard killed first, then the holder", "held", both_killed, 3),
    Fault("holder and guard frozen past the timeout", "held", frozen, 3),
)
