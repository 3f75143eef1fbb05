# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of faults: what is done to a hold, and how it must end."""

from __future__ import annotations

from functools import partial
from signal import SIGKILL, SIGSTOP

from tests.faults import devices, holders, limits, others, resources
from tests.faults.others import tested
from tests.faults.trial import Fault

MANY_PLUGS = Fault("1,000 plugs of a group, SIGKILL", "flows", partial(others.many_plugs, count=1000), 3, 100)
# instead, in the short form
FEWER_PLUGS = Fault("500 plugs of a group, SIGKILL", "flows", partial(others.many_plugs, count=500), 1, 50)

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
    MANY_PLUGS,
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
    Fault(
        "attach beside a hold that begins",
        "flows",
        tested("guard_alone.attach_does_not_end_a_hold_that_begins_meanwhile"),
        5,
        0,
    ),
    Fault(
        "5 hold commands at once, no plug before",
        "flows",
        tested("hold_temporary.of_many_holds_at_once_none_leaves_the_plug_behind"),
        1,
        0,
    ),
    Fault(
        "the same, all killed, and one more",
        "flows",
        tested("hold_temporary.a_plug_that_killed_holds_leave_is_removed_by_the_next"),
        1,
        0,
    ),
    Fault(
        "an expired hold, left in the next one",
        "flows",
        tested("hold_again.a_late_leaver_does_not_end_a_later_hold"),
        5,
        0,
    ),
    Fault("two interrupts while it is left", "flows", tested("guard_alone.two_interrupts_while_a_hold_is_left"), 5, 0),
    Fault(
        "at the limit of recursion",
        "flows",
        tested("guard_alone.no_limit_of_recursion_leaves_a_hold_on"),
        1,
        0,
    ),
    Fault("link down and up: counts", "None", others.losing("_down_and_up", "link went down"), 3, 0),
    Fault("carrier lost: counts", "None", others.losing("_carrier", "lost its carrier"), 3, 0),
    Fault("txqueuelen changed: counts", "None", others.losing("_queue_length", "txqueuelen was changed"), 3, 0),
    Fault("clsact added: counts", "None", others.losing("_clsact", "clsact"), 3, 0),
    Fault("the plug made again: counts", "None", others.losing("_replaced", "was deleted or replaced"), 3, 0),
    Fault(
        "fork after unshare(CLONE_NEWPID)",
        "works",
        tested("guard_alone.a_caller_that_has_unshared_its_pid_namespace_can_still_fork"),
        3,
        0,
    ),
    Fault(
        "PID 1 waits for all its children",
        "works",
        tested("guard_alone.the_first_process_of_a_pid_namespace_has_no_child_left"),
        3,
        0,
    ),
    Fault("a subreaper waits for all its children", "works", tested("guard.a_subreaper_gets_no_zombie"), 3, 0),
    Fault(
        "RLIMIT_FSIZE, affinity, umask of the holder",
        "flows",
        tested("guard_alone.it_takes_over_nothing_that_binds_its_holder"),
        3,
        0,
    ),
    Fault(
        "1,000,000,000 descriptors, no close_range",
        "works",
        tested("guard_cannot_start.many_descriptors_to_close_take_no_time"),
        1,
        0,
    ),
    Fault(
        "close() of a stopped guard",
        "flows",
        tested("guard_alone.close_does_not_wait_for_ever_for_a_stopped_guard"),
        1,
        0,
    ),
    Fault(
        "a squatter of the mark and release", "spared", tested("guard_alone.a_squatter_is_not_ended_as_a_guard"), 3, 0
    ),
    Fault("whom PlugBusy names", "right", tested("hold_exclusive.processes_race_and_one_at_a_time_holds"), 1, 0),
    Fault(
        "a user's detached hold, and root's release",
        "flows",
        tested("guard_cannot_start.root_ends_what_a_user_has_left_held"),
        3,
        0,
    ),
    Fault("seccomp refuses pidfd_open", "refused", others.refusing("pidfd_open"), 3, 0),
    Fault("seccomp refuses unix sockets", "refused", others.refusing("unix sockets"), 3, 0),
    Fault(
        "a thread with a stack of 36 KiB",
        "works",
        tested("guard_cannot_start.a_thread_with_a_small_stack_may_hold", kilobytes=36),
        1,
        0,
    ),
    Fault("another user squats the mark", "refused", others.squatted, 10),
)

LIMITS = (
    Fault("holder and guard ended by one cgroup.kill", "held", limits.cgroup_killed, 3, 0),
    Fault("holder and guard ended with their pid namespace", "held", limits.pid_namespace_killed, 3, 0),
    Fault("the guard killed first, then the holder", "held", limits.both_killed, 3, 0),
    Fault("holder and guard frozen past the timeout", "held", limits.frozen, 3, 0),
)
