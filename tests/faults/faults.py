# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of faults: what is done to a hold, and how it must end."""

from __future__ import annotations

from functools import partial
from signal import SIGKILL, SIGSTOP

from tests.faults import devices, holders, limits, others, resources
from tests.faults.trial import Fault

FAULTS = (
    Fault("SIGSTOP past the timeout", "flows", holders.stopped),
    Fault("SIGSEGV with a core that takes 0.5 s", "flows", holders.crashed, 10),
    Fault("SIGKILL for the guard, then the block ends", "flows", holders.guard_killed),
    Fault("timeouts of 10 us to 1 ms, SIGKILL", "flows", partial(holders.struck, what="plug", number=SIGKILL)),
    Fault("the same, SIGSTOP", "flows", partial(holders.struck, what="plug", number=SIGSTOP)),
    Fault("the same, a group, SIGKILL", "flows", partial(holders.struck, what="group", number=SIGKILL)),
    Fault("the same, a group, SIGSTOP", "flows", partial(holders.struck, what="group", number=SIGSTOP)),
    Fault("the same, detached, SIGKILL", "flows", partial(holders.struck, what="detached", number=SIGKILL)),
    Fault("the same, detached, SIGSTOP", "flows", partial(holders.struck, what="detached", number=SIGSTOP)),
    Fault("SIGSTOP for the guard past the timeout", "flows", holders.guard_stopped),
    Fault("a spinning realtime holder past the timeout", "flows", holders.spinning),
    Fault("exec, and a forked child lives on", "flows", holders.executed),
    Fault("the terminal of the command hangs up", "flows", holders.hung_up, 5),
    Fault("1,000 plugs of a group, SIGKILL", "flows", others.many_plugs, 3, 100),
    Fault("buffer with a deadline, the process gone", "flows", holders.detached),
    Fault("the guard's end after close()", "gone", holders.closed),
    Fault("out of descriptors before", "refused", resources.no_descriptors),
    Fault("out of descriptors in the block", "flows", resources.no_descriptors_left),
    Fault("out of memory for the guard", "refused", resources.no_memory_for_the_guard),
    Fault("out of memory, the holder is killed", "flows", resources.out_of_memory),
    Fault("the same, memory.oom.group", "flows", resources.out_of_memory_group),
    Fault("fork refused (RLIMIT_NPROC)", "refused", resources.no_processes),
    Fault("fork refused (pids.max)", "refused", resources.no_processes_in_the_cgroup),
    Fault("ENOBUFS on the socket", "flows", resources.jammed),
    Fault("the same, and no guard", "flows", resources.jammed_without_guard),
    Fault("device removed, the block ends", "told", devices.removed, 10),
    Fault("device removed, SIGKILL", "told", devices.removed_and_killed, 10),
    Fault("device moved away, the block ends", "told", devices.moved, 10),
    Fault("device moved away, SIGKILL", "told", devices.moved_and_killed, 10),
    Fault("device renamed, SIGKILL", "flows", devices.renamed),
    Fault("namespace deleted, SIGKILL", "flows", devices.namespace_deleted),
    Fault("qdisc replaced by someone else", "flows", devices.replaced, 10),
    Fault("two holders racing, SIGKILL for both", "flows", others.racing),
    Fault("another user squats the mark", "refused", others.squatted, 10),
)

LIMITS = (
    Fault("holder and guard ended by one cgroup.kill", "held", limits.cgroup_killed, 3, 0),
    Fault("holder and guard ended with their pid namespace", "held", limits.pid_namespace_killed, 3, 0),
    Fault("the guard killed first, then the holder", "held", limits.both_killed, 3, 0),
    Fault("holder and guard frozen past the timeout", "held", limits.frozen, 3, 0),
)
