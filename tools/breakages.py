# SPDX-License-Identifier: GPL-2.0-or-later
"""The breakages of tools/mutants: what is broken, in which file, which text becomes which, and who should notice.

``survives`` is the reason why no test can notice it; it is empty for nearly all. The unit tests check that each text is
still in its file exactly once: whoever changes it here changes the breakage too.
"""

from __future__ import annotations

from typing import NamedTuple


class Breakage(NamedTuple):
    """One way to break the code."""

    name: str
    file: str
    text: str
    broken: str
    tests: tuple[str, ...]
    survives: str = ""


BREAKAGES: list[Breakage] = []


def breaks(name: str, file: str, text: str, broken: str, tests: str, survives: str = "") -> None:
    """Add a breakage. ``tests`` are paths below tests/ without '.py', as kernel/test_attach or unit/test_x::test_y."""
    named = (test.partition("::") for test in tests.split())
    full = tuple(f"tests/{path}.py{colons}{test}" for path, colons, test in named)
    BREAKAGES.append(Breakage(name, file, text, broken, full, survives))


# -- the drop-in port

PORT = "libnlplug/plug_qdisc.py"
breaks(
    "port: a release that fails after the attach is no failure",
    PORT,
    '    if error < 0:\n        return _failed(f"cannot release',
    '    if False:\n        return _failed(f"cannot release',
    "parity/test_kernel_parity::test_a_refused_release",
)
breaks(
    "port: an interrupted attach leaves the plug holding",
    PORT,
    "        _in_turn(ours, lib.rtnl_qdisc_plug_release_indefinite, lib.rtnl_qdisc_add, 0)\n        raise",
    "        raise",
    "kernel/test_port_requests::test_an_interrupted_attach_leaves_nothing_held",
)
breaks(
    "port: two threads that attach first open a socket each",
    PORT,
    "    with _beginning:\n",
    "    if True:\n",
    "kernel/test_port_requests::test_the_first_attach_of_another_thread_is_not_forgotten",
)
breaks(
    "port: limit 0 is sent to the kernel",
    PORT,
    "add = lib.rtnl_qdisc_add if limit else lib.libnlplug_add_without_options",
    "add = lib.rtnl_qdisc_add",
    "kernel/test_port_packets::test_limit_0_is_the_kernels_default",
)
breaks(
    "port: another program's fork uses the socket",
    PORT,
    "if statics is None or _forked:",
    "if statics is None:",
    "kernel/test_port_packets::test_in_a_forked_child_everything_is_minus_1_until_init",
)
breaks(
    "port: answers of earlier requests are taken for this one's",
    PORT,
    "    lib.libnlplug_match_answers(nl_sock)\n",
    "",
    "kernel/test_port_requests::test_an_unread_answer_shifts_nothing",
)
breaks(
    "port: each answer is received twice",
    PORT,
    "    lib.nl_socket_disable_msg_peek(nl_sock)",
    "    ",
    "kernel/test_cost::test_the_ports_toggles_cost_the_same",
)

# -- attach and detach

ATTACH = "libnlplug/attaching.py"
PLUG = "libnlplug/plug.py"
breaks(
    "attach: a qdisc that appeared since is displaced",
    ATTACH,
    "flags = lib.NLM_F_CREATE | lib.NLM_F_EXCL",
    "flags = lib.NLM_F_CREATE | lib.NLM_F_REPLACE",
    "kernel/test_attach::test_a_qdisc_that_appears_after_the_look_is_not_displaced",
)
breaks(
    "attach: the new plug is not released",
    ATTACH,
    'requests = [creation, plug.message("release_indefinite")]',
    "requests = [creation]",
    "kernel/test_hold_and_release::test_a_new_plug_lets_packets_pass",
)
breaks(
    "attach: a new plug that cannot be released stays",
    ATTACH,
    '        sk.execute(deletion, "detach the plug of", plug.device)\n',
    "",
    "kernel/test_recovery::test_a_failed_release_of_a_new_plug_removes_it",
)
breaks(
    "attach: without the plug's mark",
    ATTACH,
    "with Taken(sk, plug.place, _OPERATION):",
    "if True:",
    "kernel/test_guard_alone::test_attach_keeps_others_away_while_it_creates",
)
breaks(
    "attach: a device with txqueuelen 0 gets limit 0",
    ATTACH,
    "_own_default(link) if limit is None and link.txqueuelen == 0 else limit",
    "limit",
    "kernel/test_limits::test_no_limit_is_never_0",
)
breaks(
    "attach: below a scheduler that a silent class stops",
    ATTACH,
    "            refuse_parent(sk, link.ifindex, device, parent)\n",
    "",
    "kernel/test_attach::test_below_a_scheduler_that_a_silent_class_stops_it_is_refused",
)
breaks(
    "detach: the first busy check",
    PLUG,
    "        with Taken(self.socket(), self.place, operation):\n            self.release_indefinite()",
    "        if True:\n            self.release_indefinite()",
    "kernel/test_hold_exclusive::test_detach_is_refused_while_held",
)
breaks(
    "detach: the second busy check",
    PLUG,
    "with Taken(self.socket(), self.place, operation):  # from here on no hold can begin",
    "if True:",
    "kernel/test_detach::test_a_hold_that_begins_while_detach_waits_is_not_ended",
)
breaks(
    "detach: it does not wait until the queue is empty",
    PLUG,
    """            waiting = self.stats().qlen
            if not waiting:
                with""",
    """            return self._delete()
            if not waiting:
                with""",
    "kernel/test_detach::test_a_queue_that_cannot_drain_is_not_deleted",
)
breaks(
    "with: what was adopted and left holding is not released",
    PLUG,
    "            elif holding:\n                self.release_indefinite()",
    "            elif holding:\n                pass",
    "kernel/test_detach::test_with_releases_what_it_adopted_and_left_holding",
)
breaks(
    "with: a held plug that has gone is passed over in silence",
    PLUG,
    "            if holding:  # the held packets",
    "            if False:  # the held packets",
    "kernel/test_detach::test_with_is_loud_about_a_held_plug_that_is_gone",
)
breaks(
    "buffer: an interrupt forgets that it was sent",
    PLUG,
    "before, self._last_action = self._last_action, action",
    "before = self._last_action",
    "kernel/test_interrupts",
)
breaks(
    "stats: of another qdisc that took the plug's place",
    PLUG,
    'found = self._sk.qdisc(self._ifindex, self._parent, self._device, self._handle, b"plug")',
    "found = self._sk.qdisc(self._ifindex, self._parent, self._device)",
    "kernel/test_errors::test_a_plug_that_was_replaced",
)
breaks(
    "release: no second try",
    PLUG,
    "reversed(range(RELEASE_TRIES))",
    "reversed(range(1))",
    "kernel/test_hold_ends::test_a_failed_release_is_tried_again",
)

# -- a hold

HOLD = "libnlplug/hold.py"
breaks(
    "hold: an expiry raises nothing",
    HOLD,
    "        raise expiry\n",
    "        return\n",
    "kernel/test_hold_expiry::test_a_hold_that_overstays_is_released_on_time",
)
breaks(
    "hold: a guard that has gone raises nothing",
    HOLD,
    "                raise self._without_guard()",
    "                return",
    "kernel/test_guard::test_a_killed_guard_is_done_without",
)
breaks(
    "hold: nobody releases where the guard has gone",
    HOLD,
    "            if answer is None and not self._held.closed:  # otherwise close()",
    "            if False:  # else close()",
    "kernel/test_guard::test_a_killed_guard_is_done_without",
)
breaks(
    "hold: an interrupt while leaving ends it without a release",
    HOLD,
    "        finally:  # an interrupt may have come before the release\n            self._end_surely()",
    "        finally:\n            pass",
    "kernel/test_guard_alone::test_two_interrupts_while_a_hold_is_left"
    " kernel/test_hold_ends::test_an_interrupt_at_any_line_of_hold_leaves_nothing_held",
)
breaks(
    "hold: begun where there is no room to leave it",
    HOLD,
    "        _try_stack(STACK)\n",
    "",
    "kernel/test_guard_alone::test_no_limit_of_recursion_leaves_a_hold_on",
)
breaks(
    "hold: two interrupts while it is entered leave it on",
    HOLD,
    "                    self._end_surely()\n            except NetlinkError",
    "                    self._end()\n            except NetlinkError",
    "kernel/test_guard_alone::test_two_interrupts_while_a_hold_is_entered",
)
breaks(
    "hold: a second one with one Hold object",
    HOLD,
    "        if self._guard is not None:\n            raise RuntimeError",
    "        if False:\n            raise RuntimeError",
    "kernel/test_hold_exclusive::test_a_hold_is_entered_once",
)
breaks(
    "report: packets that the kernel threw away uncounted count as none",
    HOLD,
    "if answer.lost is not None:",
    "if False:",
    "kernel/test_hold_uncounted::test_what_the_kernel_threw_away_uncounted_is_not_zero",
)
breaks(
    "report: no drops",
    HOLD,
    "report.dropped = answer.packets, answer.bytes, answer.dropped",
    "report.dropped = answer.packets, answer.bytes, 0",
    "kernel/test_hold_report::test_what_found_the_plug_full_is_counted_and_warned_of",
)
breaks(
    "report: the number of bytes is that of packets",
    HOLD,
    "report.dropped = answer.packets, answer.bytes, answer.dropped",
    "report.dropped = answer.packets, answer.packets, answer.dropped",
    "kernel/test_hold_report::test_packets_and_bytes_are_those_that_were_held",
)
breaks(
    "report: seconds are those of the whole object",
    HOLD,
    "        report.seconds = answer.seconds\n",
    "        report.seconds = time.monotonic()\n",
    "kernel/test_hold_report::test_seconds_is_how_long_it_held",
)
breaks(
    "hold: a timeout of 0 is taken",
    HOLD,
    "not 0 < timeout <= TIMEOUT_MAX",
    "not 0 <= timeout <= TIMEOUT_MAX",
    "unit/test_hold_arguments",
)

# -- the guard's client, and marks

CLIENT = "libnlplug/guard/client.py"
MARKS = "libnlplug/guard/holders.py"
breaks(
    "busy: this object's own hold is nobody's",
    CLIENT,
    "PlugBusy.by(self._device, os.getpid(), ",
    "PlugBusy.by(self._device, 0, ",
    "kernel/test_hold_exclusive::test_a_second_hold_of_the_same_object_is_refused",
)
breaks(
    "busy: a hold that ends at this moment is a refusal that names nobody",
    CLIENT,
    "if holder is not None or time.monotonic() > deadline:",
    "if True:",
    "kernel/test_hold_exclusive::test_threads_race_and_one_at_a_time_holds"
    " kernel/test_hold_exclusive::test_processes_race_and_one_at_a_time_holds",
)
breaks(
    "close: it does not wait for the guard",
    CLIENT,
    "                while self._socket.recv(64):\n                    pass\n",
    "                pass\n",
    "kernel/test_guard::test_close_waits_until_the_guard_has_released",
)
breaks(
    "close: the guard is not told to end",
    CLIENT,
    "            self._say_goodbye()\n            try:",
    "            try:",
    "kernel/test_guard::test_it_ends_with_close kernel/test_hold_ends::test_drop_is_only_for_death",
)
breaks(
    "guard: as a child of PID 1 it is not waited for",
    CLIENT,
    "        if self._is_child:\n            self.end()",
    "        if False:\n            self.end()",
    "kernel/test_guard_alone::test_the_first_process_of_a_pid_namespace_has_no_child_left",
)
breaks(
    "guard: a squatter is believed",
    MARKS,
    "known = ours or _is_guard_of(uid, pid)",
    "known = ours = True",
    "kernel/test_hold_exclusive::test_a_squatter_cannot_lie",
)
breaks(
    "marks: the holder of a plug at a class is that of the root",
    MARKS,
    "        return mark_name(self.ifindex, self.parent)",
    "        return mark_name(self.ifindex, 0xFFFFFFFF)",
    "kernel/test_hold_exclusive::test_the_holder_of_a_class_is_named",
)
breaks(
    "show: the holder of a plug at a class is that of the root",
    "libnlplug/command/plugs.py",
    "mark_name(info.ifindex, info.parent)",
    "mark_name(info.ifindex, 0xFFFFFFFF)",
    "kernel/test_cli_show::test_the_holder_of_a_class_is_shown",
)
breaks(
    "marks: a forked child keeps copies",
    MARKS,
    "os.register_at_fork(after_in_child=_close_copies)",
    "",
    "kernel/test_lane_owners::test_a_forked_child_keeps_no_lane_alive",
)

# -- sockets

SOCKET = "libnlplug/netlink/route_socket.py"
EXCHANGE = "libnlplug/netlink/exchange.c"
breaks(
    "fork: a child uses the parent's socket",
    SOCKET,
    "os.register_at_fork(after_in_child=_count_fork)",
    "",
    "kernel/test_threads_and_fork::test_a_forked_child_is_refused_and_the_parent_goes_on",
)
breaks(
    "socket: requests without an answer count as done",
    SOCKET,
    "for seq in range(max(failures, default=-1) + 1, last + 1):",
    "for seq in range(0):",
    "kernel/test_recovery::test_more_answers_than_the_queue_takes",
)
breaks(
    "socket: an interrupted dump is believed",
    SOCKET,
    "if not any(reply.flags & lib.NLM_F_DUMP_INTR for reply in replies):",
    "if True:",
    "unit/test_route_socket::test_an_interrupted_dump_is_asked_for_again",
)
breaks(
    "netns: the caller's thread is moved",
    "libnlplug/netlink/netns.py",
    "start_new_thread(go, ())",
    "go()",
    "unit/test_namespaces::test_many_threads_at_once_never_move_the_caller",
)
breaks(
    "netns: it is not entered",
    "libnlplug/netlink/netns.py",
    "if lib.setns(fd, lib.CLONE_NEWNET) < 0:",
    "if False:",
    "unit/test_namespaces::test_by_path",
)
breaks(
    "exchange: a full queue is nothing",
    EXCHANGE,
    "lost = ENOBUFS;",
    "lost = 0;",
    "unit/test_route_socket::test_a_full_queue_is_a_lost_answer",
)
breaks(
    "exchange: an answer that was cut off is nothing",
    EXCHANGE,
    "lost = EMSGSIZE;",
    "lost = 0;",
    "unit/test_route_socket::test_an_answer_that_is_cut_off_is_lost",
)
breaks(
    "exchange: after a failure the queue is not emptied",
    EXCHANGE,
    "while (recv(line->fd, &rest, 1, MSG_DONTWAIT) > 0)",
    "while (0)",
    "kernel/test_recovery",
    "recvmsg fails with EAGAIN where the queue is empty, and no kernel is known to fail in another way",
)
breaks(
    "exchange: packets are 32 bits",
    EXCHANGE,
    "	attribute_copy(attribute_inside(stats, STATS_PACKETS64), &packets, sizeof packets);\n",
    "",
    "unit/test_route_socket::test_packets_are_counted_beyond_32_bits",
)

# -- groups

GROUP = "libnlplug/group.py"
breaks(
    "group: failures are not raised",
    GROUP,
    "            raise GroupError.of(_OPERATIONS[action], len(self._plugs), failures)",
    "            pass",
    "kernel/test_group::test_a_device_that_is_gone_is_named_and_the_others_are_done",
)
breaks(
    "group: a plug that a dump misses is gone",
    GROUP,
    " or _asked_for(plug, sk)\n",
    "\n",
    "kernel/test_group::test_a_plug_that_a_dump_misses_is_counted",
)
breaks(
    "group: a send is larger than a socket takes",
    GROUP,
    "if length + len(message) > size or len(plugs) == answers:",
    "if False:",
    "kernel/test_group::test_sends_are_split_at_what_a_socket_takes",
)
breaks(
    "group: more answers than a queue takes",
    GROUP,
    " or len(plugs) == answers:",
    ":",
    "kernel/test_group::test_no_send_has_more_answers_than_the_queue_takes",
)

# -- lanes and handover

LANE = "libnlplug/lane/lane.py"
REMOVE = "libnlplug/lane/remove.py"
LANE_HOLD = "libnlplug/lane/hold.py"
FILTERS = "libnlplug/lane/filters.py"
NEIGHBOURS = "libnlplug/lane/neighbours.py"
breaks(
    "lane: closed without letting out what is held",
    REMOVE,
    "                _let_out(sk, device, lane, plug, deadline)\n",
    "                pass\n",
    "kernel/test_lane_close::test_what_is_held_arrives_before_the_lane_goes",
)
breaks(
    "lane: closed while somebody holds it",
    REMOVE,
    "            _keep_holders_away(sk, lane, plug, mark, deadline)\n",
    "",
    "kernel/test_lane_close::test_a_lane_that_somebody_holds_is_not_closed",
)
breaks(
    "lane: what a dead process left stays",
    REMOVE,
    ' or are_now.get(lane.ifb.name) == "orphan":',
    ":",
    "kernel/test_lane_owners::test_an_orphan_lets_packets_flow_and_is_cleaned_by_the_next_lane",
)
breaks(
    "lane: no lock for the lanes of a device",
    "libnlplug/lane/lock.py",
    "while not self._mark.take(self._sk):",
    "while False:",
    "kernel/test_lane_slots::test_somebody_on_the_lock",
)
breaks(
    "lane: two for the same packets",
    NEIGHBOURS,
    "if theirs is None or match.overlaps(theirs):",
    "if False and theirs:",
    "kernel/test_lane_neighbours::test_a_lane_for_some_of_the_same_packets_is_refused",
)
breaks(
    "lane: whatever redirects in a lane's preference is taken for a lane's",
    FILTERS,
    "(one.redirects and slot_of(one) in slots)",
    "one.redirects",
    "kernel/test_lane_hold::test_a_filter_that_comes_behind_a_lane_during_its_hold_is_told"
    " kernel/test_lane_neighbours::test_a_filter_that_a_closed_lane_has_left",
)
breaks(
    "lane: it bypasses somebody's filter",
    NEIGHBOURS,
    "    if what:\n",
    "    if False:\n",
    "kernel/test_lane_neighbours::test_a_lane_that_would_bypass_a_filter_is_refused",
)
breaks(
    "lane: tcx programs before it are not said",
    NEIGHBOURS,
    "count = tcx_programs(sk, ifindex, ingress)",
    "count = 0",
    "kernel/test_lane_neighbours::test_tcx_programs_are_reported",
)
breaks(
    "lane: its clsact qdisc throws away what waits",
    "libnlplug/lane/create.py",
    "    refuse_to_drop(sk, device, ifindex)\n",
    "",
    "kernel/test_lane_setup::test_what_waits_on_the_device_is_not_thrown_away",
)
breaks(
    "lane: what broke it during a hold is not raised",
    LANE_HOLD,
    "            raise broken\n",
    "            return\n",
    "kernel/test_lane_hold::test_a_lane_that_breaks_during_a_hold_is_told",
)
breaks(
    "lane: a replaced filter is not noticed",
    "libnlplug/lane/inventory.py",
    '    if digest(mine) != lane.words.get("keys"):\n',
    "    if False:\n",
    "kernel/test_lane_hold::test_a_lane_whose_filter_was_replaced_is_told",
)
breaks(
    "lane: nobody inherits that of a dead process",
    LANE,
    "            self._inherit()\n        return",
    "            pass\n        return",
    "kernel/test_lane_owners::test_an_adopter_inherits_from_a_process_that_died",
)
breaks(
    "lane: more connections than the backlog has room for are not said",
    LANE_HOLD,
    "        if held > self._report.backlog:",
    "        if False:",
    "kernel/test_lane_handover::test_more_connections_than_the_backlog_has_room_for",
)
breaks(
    "handover: the block begins with connections in the accept queue",
    LANE_HOLD,
    "if found.quiet and (not found.half_done or now >= silent):",
    "if not found.half_done or now >= silent:",
    "kernel/test_lane_handover::test_the_block_waits_for_the_accept_queue",
)
breaks(
    "handover: the block begins with a handshake half done",
    LANE_HOLD,
    "if found.quiet and (not found.half_done or now >= silent):",
    "if found.quiet:",
    "kernel/test_lane_handover::test_the_block_waits_for_a_handshake",
)
breaks(
    "handover: it ends while the old listener is there",
    LANE_HOLD,
    "if not missing and not replaced and (complete or now - changed >= UNCHANGED):",
    "if not missing:",
    "kernel/test_lane_handover::test_the_hold_lasts_until_the_old_listener_has_closed",
)
breaks(
    "handover: it ends when nobody listens on one of the ports",
    LANE_HOLD,
    "if not missing and not replaced and (complete or now - changed >= UNCHANGED):",
    "if not replaced and (complete or now - changed >= UNCHANGED):",
    "kernel/test_lane_handover::test_the_hold_lasts_until_there_is_a_listener_on_each_port",
)
breaks(
    "handover: it ends when the first of two addresses has a listener",
    LANE_HOLD,
    "complete = not old and set(",
    "complete = not old or set(",
    "kernel/test_lane_handover::test_the_hold_lasts_until_there_is_a_listener_on_each_address",
)

# -- the command

CHILD = "libnlplug/command/child.py"
VERBS = "libnlplug/command/verbs.py"
COMMAND_HOLD = "libnlplug/command/hold.py"
UNITS = "libnlplug/command/units.py"
breaks(
    "command: a signal before the start is not 128 and its number (130)",
    CHILD,
    "            return 128 + int(min(arrived_early))",
    "            return 1",
    "unit/test_cli_run::test_a_signal_before_the_start_means_no_start",
)
breaks(
    "command: a signal before the start starts the program",
    CHILD,
    "        if arrived_early:",
    "        if False:",
    "unit/test_cli_run::test_a_signal_before_the_start_means_no_start",
)
breaks(
    "command: a program that a signal ended is not 128 and its number",
    CHILD,
    "ended_with if ended_with >= 0 else 128 - ended_with",
    "ended_with if ended_with >= 0 else 1",
    "unit/test_cli_run::test_a_death_by_a_signal_is_128_and_its_number",
)
breaks(
    "command: a hang-up of the terminal is not passed on",
    CHILD,
    "from_terminal = arrived.si_code == lib.SI_KERNEL and arrived.si_signo != signal.SIGHUP",
    "from_terminal = arrived.si_code == lib.SI_KERNEL",
    "unit/test_cli_run::test_a_terminal_that_hangs_up_ends_the_program",
)
breaks(
    "command: Ctrl-C reaches the program twice",
    CHILD,
    "from_terminal = arrived.si_code == lib.SI_KERNEL and arrived.si_signo != signal.SIGHUP",
    "from_terminal = False",
    "unit/test_cli_run::test_ctrl_c_reaches_the_program_once",
)
breaks(
    "command: an expired hold ends with another status than 124",
    COMMAND_HOLD,
    "self._fail(EXPIRED, sentence)",
    "self._fail(NOT_HELD, sentence)",
    "kernel/test_cli_hold::test_an_expired_hold_is_released_at_once_and_the_command_runs_on",
)
breaks(
    "command: the program's status hides that the hold failed",
    COMMAND_HOLD,
    "return self.failed or self.ended or DONE",
    "return self.ended or self.failed or DONE",
    "kernel/test_cli_hold::test_the_failure_of_a_hold_comes_before_the_programs_status",
)
breaks(
    "command: hold --limit changes the limit of who holds",
    COMMAND_HOLD,
    "        _refuse_if_held(args)  # or",
    "        pass  # or",
    "kernel/test_cli_hold::test_a_plug_that_is_held_is_refused_and_the_command_not_run",
)
breaks(
    "command: buffer where somebody holds",
    VERBS,
    '    plug.refuse_while_held("buffer on")\n',
    "",
    "kernel/test_cli::test_others_are_refused_while_a_hold_is_on",
)
breaks(
    "command: release does not end a detached hold",
    VERBS,
    "    if plug.end_detached():",
    "    if True:",
    "kernel/test_cli::test_release_ends_the_guard_of_a_timeout",
)
breaks(
    "command: doctor ends with 0 where nothing can be held",
    VERBS,
    "return DONE if doctor.can_hold(checks) else FAILED",
    "return DONE",
    "kernel/test_doctor_kernel::test_command_ends_with_1_without_plug",
)
breaks("units: k is 1000", UNITS, '"k": 1 << 10', '"k": 1000', "unit/test_units")
breaks("units: a minute has 61 seconds", UNITS, '"m": 60.0', '"m": 61.0', "unit/test_units")
breaks(
    "units: a limit of 0",
    UNITS,
    "if not 1 <= size <= LIMIT_MAX:",
    "if not 0 <= size <= LIMIT_MAX:",
    "unit/test_cli_usage",
)

# -- the doctor

PROBE = "libnlplug/doctor/probe.py"
breaks(
    "doctor: no holder is killed",
    PROBE,
    "        _kill_a_holder(packets, out)\n        packets.recv(1)\n",
    "",
    "kernel/test_doctor_kernel::test_a_guard_that_does_not_release_is_found",
)
breaks(
    "doctor: a packet that passed counts as held",
    PROBE,
    "        if held.packets:\n",
    "        if True:\n",
    "kernel/test_doctor_kernel::test_a_plug_that_does_not_hold_is_found",
)
breaks(
    "doctor: orphans are always waited for",
    "libnlplug/doctor/__init__.py",
    "        if _is_gone(pid):",
    "        if True:",
    "unit/test_doctor::test_a_pid_1_that_does_not_wait_is_found",
)

# -- the pytest plugin

breaks(
    "pytest plugin: programs are left running",
    "libnlplug/pytest_plugin.py",
    "                    os.kill(pid, signal.SIGKILL)\n",
    "                    pass\n",
    "kernel/test_pytest_plugin_kernel::test_nothing_is_left_behind",
)

# -- the tools

TESTED, SUMMARY, PARTS = "tools/tested", "tools/summary", "tools/parts"
GUEST = "tools/testkernel/guest.py"
breaks(
    "tools: an old report is believed",
    TESTED,
    "    report.unlink(missing_ok=True)\n",
    "",
    "unit/test_tools::test_an_old_report",
)
breaks(
    "tools: a run without a test that passed is believed",
    TESTED,
    "if status == 0 and not any(",
    "if False and not any(",
    "unit/test_tools::test_a_run_without_a_test_that_passed",
)
breaks(
    "tools: a failure that the status hides is believed",
    TESTED,
    'if status == 0 and any(case.end == "failed"',
    'if False and any(case.end == "failed"',
    "unit/test_tools::test_a_failure_that_the_status_hides",
)
breaks(
    "tools: some of the tests are enough",
    SUMMARY,
    '        print(f"no report has a test of {file}")\n        failed = True',
    '        print(f"no report has a test of {file}")',
    "unit/test_tools::test_the_same_part_twice",
)
breaks(
    "tools: a part that hangs is waited for",
    PARTS,
    "if key.data.seconds() > options.longest:",
    "if False:",
    "unit/test_tools::test_a_part_that_hangs",
)
breaks(
    "tools: the others go on where a part is broken",
    PARTS,
    "        for key in list(running.get_map().values()):\n            key.data.end()",
    "        for key in list(running.get_map().values()):\n            key.data.process.wait()",
    "unit/test_tools::test_the_first_broken_part_ends_all",
)
breaks(
    "tools: a guest that goes away without a status has done well",
    GUEST,
    "    for sign in (",
    "    return 0\n    for sign in (",
    "unit/test_tools::test_a_guest_that_ends_badly",
)

# -- the guard itself

GUARD = "libnlplug/guard/guard.c"
breaks(
    "guard: good-bye drops where death would",
    GUARD,
    "		leave(GUARD_RELEASED);\n	else if (held && question.id",
    "		leave(GUARD_EXPIRED);\n	else if (held && question.id",
    "kernel/test_hold_ends::test_drop_is_only_for_death",
)
breaks(
    "guard: it gives the marks back before it releases",
    GUARD,
    "		last.error = act(drop ?",
    "		remove_marks();\n		last.error = act(drop ?",
    "kernel/test_guard_order::test_the_mark_goes_after_the_release",
)
breaks(
    "guard: a release that fails is not tried again",
    GUARD,
    "		if (!passing(last.error))\n			break;\n",
    "		break;\n",
    "kernel/test_guard_order::test_a_release_that_fails_for_a_passing_reason_is_sent_again",
)
breaks(
    "guard: it gives up a release that goes on failing",
    GUARD,
    "			answer(&last);\n			asked = 0;\n		}\n",
    "			break;\n		}\n",
    "kernel/test_guard_order::test_a_release_that_goes_on_failing_is_told_and_tried_on",
)
breaks(
    "guard: a holder that waits is not told that its release goes on failing",
    GUARD,
    "			answer(&last);\n			asked = 0;\n		}\n",
    "		}\n",
    "kernel/test_guard_order::test_a_release_that_goes_on_failing_is_told_and_tried_on",
)
breaks(
    "guard: a detached hold without a timeout",
    GUARD,
    " || (question->detached && !question->timeout)",
    "",
    "unit/test_guard_protocol::test_a_senseless_hold_is_refused",
)
breaks(
    "guard: it may have no more descriptors than its holder",
    GUARD,
    "			limit.rlim_cur = limit.rlim_max;	/* a group may need thousands of marks */\n",
    "",
    "kernel/test_group_hold::test_more_plugs_than_a_process_usually_has_descriptors",
)
breaks(
    "guard: a late release ends a later hold",
    GUARD,
    "else if (held && question.id == hold.id)",
    "else if (held)",
    "unit/test_guard_protocol::test_a_release_ends_only_its_own_hold",
)
breaks(
    "guard: a second hold while one is on",
    GUARD,
    "	else if (held)\n		said.error = EBUSY;\n",
    "",
    "unit/test_guard_protocol::test_a_second_hold_is_refused",
)
breaks(
    "guard: the time is never up",
    GUARD,
    "		if (time_left() <= 0)\n			end_hold(GUARD_EXPIRED, 0);\n",
    "",
    "unit/test_guard_protocol::test_an_expiry_is_told_with_what_came_of_it",
)
breaks(
    "guard: one that did not run in time has kept the time",
    GUARD,
    "	if (outcome == GUARD_RELEASED && time_left() <= 0)\n",
    "	if (0)\n",
    "kernel/test_guard_order::test_a_release_that_begins_in_time_and_ends_late_is_late",
)
breaks(
    "guard: a holder that executes another program goes on holding",
    GUARD,
    " || (looks && holder_left()))",
    ")",
    "kernel/test_guard_alone::test_a_holder_that_executes_another_program_ends_its_hold",
)
breaks(
    "guard: what the kernel threw away is not noticed",
    GUARD,
    "			last.lost = why;\n",
    "			last.lost = 0;\n",
    "kernel/test_hold_uncounted::test_what_the_kernel_threw_away_uncounted_is_not_zero",
)
breaks(
    "guard: a plug that was made again has lost nothing",
    GUARD,
    "(deleted || header->nlmsg_flags & NLM_F_REPLACE)",
    "deleted",
    "kernel/test_hold_uncounted::test_a_class_that_goes_and_comes_back",
)
breaks(
    "guard: a carrier that has come back was never away",
    GUARD,
    " || plug->carrier_downs != downs",
    "",
    "kernel/test_hold_uncounted::test_a_device_that_gets_fewer_queues",
)
breaks(
    "guard: a holder that dies while it leaves has died",
    GUARD,
    "		if (polled[COMMANDS].revents)\n",
    "		if (polled[COMMANDS].revents && !polled[HOLDER].revents)\n",
    "kernel/test_guard_order::test_a_holder_that_dies_while_it_leaves_has_left",
)
breaks(
    "guard: drops before the hold are the hold's",
    GUARD,
    "plug->counted ? plug->counters.drops : UINT32_MAX",
    "0",
    "kernel/test_hold_report::test_drops_before_the_hold_are_not_the_holds",
)
breaks(
    "guard: a visitor ends any hold",
    GUARD,
    "	if (hold.detached && !memcmp(from",
    "	if (!memcmp(from",
    "unit/test_guard_protocol kernel/test_hold_exclusive",
)
breaks(
    "guard: SIGTERM ends any hold",
    GUARD,
    "else if (told_to_end && held && hold.detached)",
    "else if (told_to_end && held)",
    "kernel/test_guard::test_it_ignores_the_signals_of_daily_life",
)
breaks(
    "guard: it stays on the processor of its holder",
    GUARD,
    "	sched_setaffinity(0, sizeof every, &every);\n",
    "",
    "kernel/test_guard_alone::test_it_takes_over_nothing_that_binds_its_holder",
    "the test kernel has one processor: only smp-test can notice it",
)
breaks(
    "guard: whoever visits a mark may end a detached hold",
    GUARD,
    " && (!visitor.uid || visitor.uid == geteuid()))",
    ")",
    "unit/test_guard_protocol::test_a_visitor_without_the_right_ends_nothing",
)
breaks(
    "guard: every visitor ends a detached hold",
    GUARD,
    " && !memcmp(from.sun_path, end, sizeof end - 1)",
    "",
    "unit/test_guard_protocol::test_a_visitor_without_the_right_ends_nothing",
)
