# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug doctor on whatever host this is: it answers, says what to do, hangs nowhere, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from libnlplug import doctor
from libnlplug.doctor import child, probe
from tests.support.netlab import Netns, unable

EXAMINE = "from libnlplug import doctor; print(doctor.as_json(doctor.examine()))"
# The interpreter may be where another user cannot go, so the change of user comes when all is loaded.
EXAMINE_AS_NOBODY = f"""
import ctypes, os, libnlplug.doctor.probe, libnlplug.hold
if os.geteuid() == 0:
    os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own /proc files are its own
{EXAMINE}
"""
STATES = {"ok", "warning", "failed"}
UNSHARE = {"x86_64": 272, "aarch64": 97, "riscv64": 97, "ppc64le": 282, "s390x": 303}


def examined(*before: str, text: str = EXAMINE, **how) -> dict[str, doctor.Check]:
    """The checks by name, from a process of its own, which ``before`` starts."""
    command = [*before, sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **how)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    checks = [doctor.Check(*values.values()) for values in json.loads(done.stdout)]
    assert tuple(one.name for one in checks) == doctor.NAMES
    return {one.name: one for one in checks}


def need_root(what: str) -> None:
    if os.geteuid():
        unable(f"only root can {what}")


@pytest.fixture(scope="module")
def here() -> dict[str, doctor.Check]:
    """What the doctor finds here."""
    return examined()


def test_every_check_is_answered(here: dict[str, doctor.Check]) -> None:
    """Each name has one check, in their order, with one of three states, and only what is not ok comes with advice."""
    assert tuple(here) == doctor.NAMES
    for one in here.values():
        assert one.state in STATES
        assert one.detail
        assert bool(one.advice) == (one.state != "ok")


def test_parts_are_those_that_tc_can_make(here: dict[str, doctor.Check]) -> None:
    """sch_plug and the parts of a lane are ok exactly where tc can make them in a network namespace."""
    try:
        netns = Netns()
    except PermissionError:
        unable("no right to make a network namespace")

    def tc(line: str) -> str:
        done = netns.run(subprocess.run, ["tc", *line.split()], capture_output=True)
        return "ok" if done.returncode == 0 else "failed"

    assert here["sch_plug"].state == tc("qdisc add dev lo root plug limit 10000")
    assert here["sch_ingress"].state == tc("qdisc add dev lo clsact")
    if here["sch_ingress"].state == "ok":
        flower = "filter add dev lo egress protocol ip flower"
        assert here["cls_flower"].state == tc(flower)
        redirected = tc(f"{flower} action mirred egress redirect dev lo")
        assert here["act_mirred"].state == (redirected if here["cls_flower"].state == "ok" else "warning")
    netns.close()


def test_a_kernel_without_plug_is_told_and_cannot_hold(here: dict[str, doctor.Check]) -> None:
    """Without sch_plug the check says which module is missing and where it is; the main job cannot be done."""
    if here["sch_plug"].state == "ok":
        pytest.skip("this kernel has sch_plug")
    assert "modprobe sch_plug" in here["sch_plug"].advice
    assert "CONFIG_NET_SCH_PLUG" in here["sch_plug"].advice
    assert here["sch_plug"].needed
    assert not doctor.can_hold(here.values())


def test_guard_starts(here: dict[str, doctor.Check]) -> None:
    """The guard of this installation starts on this host."""
    assert here["guard"].state == "ok", here["guard"].detail


def test_version_is_that_of_the_loaded_libnl(here: dict[str, doctor.Check]) -> None:
    """The libnl check names the version that pkg-config knows and the files that are loaded."""
    if shutil.which("pkg-config") is None:
        unable("pkg-config is missing")
    known = subprocess.run(["pkg-config", "--modversion", "libnl-3.0"], capture_output=True, text=True)
    if known.returncode:
        unable("libnl's headers are missing")
    assert f"version {known.stdout.strip()}," in here["libnl"].detail
    assert "/libnl-3.so.200" in here["libnl"].detail
    assert "/libnl-route-3.so.200" in here["libnl"].detail


def test_only_what_holding_needs_decides() -> None:
    """The main job can be done unless a needed check failed: warnings and a lane's missing parts do not prevent it."""
    made = [doctor.Check(name, "ok", "fine", None, name in ("sch_plug", "guard")) for name in doctor.NAMES]
    assert doctor.can_hold(made)
    for index, one in enumerate(made):
        for state in STATES:
            changed = [*made]
            changed[index] = doctor.Check(one.name, state, "changed", "do this", one.needed)
            assert doctor.can_hold(changed) == (not one.needed or state != "failed")


def test_report_has_one_line_for_each() -> None:
    """The report is one line for each check, also where a text has several lines, and ends with what to do."""
    checks = [
        doctor.Check("guard", "ok", "starts", None, True),
        doctor.Check("sch_plug", "failed", "not\nthere", "load it", True),
    ]
    first, second = doctor.report(checks).split("\n")
    assert first.split() == ["ok", "guard", "starts"]
    assert second.startswith("failed   sch_plug ")
    assert second.endswith("not there; load it")


def test_json_has_the_documented_keys() -> None:
    """The JSON is a list of objects with name, state, detail, advice and needed, advice null where there is none."""
    text = doctor.as_json([doctor.Check("guard", "ok", "starts", None, True)])
    assert json.loads(text) == [
        {"name": "guard", "state": "ok", "detail": "starts", "advice": None, "needed": True},
    ]


def test_the_package_does_not_load_it() -> None:
    """Importing libnlplug loads neither the doctor nor json."""
    names = {"libnlplug.doctor", "libnlplug.doctor.probe", "libnlplug.doctor.child", "json"}
    text = "import sys, libnlplug; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-c", text], capture_output=True, text=True, env=with_packages())
    assert loaded.stdout, loaded.stderr
    assert not names & set(loaded.stdout.split())


def with_packages() -> dict[str, str]:
    """An environment in which the packages are found without site."""
    import _cffi_backend

    import libnlplug

    places = {str(Path(module.__file__).parent) for module in (_cffi_backend,)}
    places.add(str(Path(libnlplug.__file__).parents[1]))
    return {**os.environ, "PYTHONPATH": ":".join(places)}


def test_unprivileged_user_is_told_the_right() -> None:
    """Without CAP_NET_ADMIN the check names it and says how to get it; the main job cannot be done."""
    checks = examined(text=EXAMINE_AS_NOBODY)
    assert checks["CAP_NET_ADMIN"].state == "failed"
    assert "CAP_NET_ADMIN" in checks["CAP_NET_ADMIN"].advice
    assert checks["netns"].state == "warning"
    assert not doctor.can_hold(checks.values())


def test_it_answers_without_proc() -> None:
    """On a host without /proc every check is still answered, and what cannot be known says so."""
    need_root("hide /proc in a mount namespace")
    hide = 'mount -t tmpfs none /proc && exec "$@"'
    checks = examined("unshare", "--mount", "sh", "-c", hide, "sh")
    for name in ("oom", "cgroup", "pid-namespace"):
        assert checks[name].state == "warning"
        assert "not known" in checks[name].detail
    assert checks["guard"].state == "ok"


def test_a_pid_namespace_is_named_with_its_pid_1() -> None:
    """In a pid namespace of its own, the check says whose end kills the guard with its holder."""
    need_root("make a pid namespace")
    checks = examined("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh")
    assert checks["pid-namespace"].state == "warning"
    assert "PID 1 (sh)" in checks["pid-namespace"].detail
    assert "guard" in checks["pid-namespace"].detail
    assert checks["orphans"].state == "ok"


def test_a_pid_1_that_does_not_wait_is_found() -> None:
    """Under a PID 1 that waits only for its own child, an orphan stays a zombie, and the check says so."""
    need_root("make a pid namespace")
    waits_for_one = "import os, sys; p = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); os.waitpid(p, 0)"
    checks = examined("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", waits_for_one)
    assert checks["orphans"].state == "warning"
    assert "zombie" in checks["orphans"].detail
    assert "--init" in checks["orphans"].advice


def test_as_pid_1_it_waits_for_its_orphans() -> None:
    """Where the doctor itself is PID 1, the orphan is its own and no zombie stays."""
    need_root("make a pid namespace")
    assert examined("unshare", "--pid", "--fork", "--mount-proc")["orphans"].state == "ok"


@pytest.mark.parametrize("action", ["refuse", "kill"])
def test_it_answers_under_a_seccomp_filter(action: str) -> None:
    """Where a seccomp filter refuses unshare, or kills for it, every check is still answered."""
    if platform.machine() not in UNSHARE:
        unable("the number of the system call is not known here")
    checks = examined(preexec_fn=lambda: filter_unshare(action))
    assert checks["sch_plug"].state in STATES
    for name in ("ifb", "sch_ingress", "cls_flower", "act_mirred"):
        assert checks[name].state == "warning"
        assert ("seccomp" if action == "kill" else "Operation not permitted") in checks[name].detail
    if checks["CAP_NET_ADMIN"].state == "ok":
        assert checks["guard"].state == "ok"


def filter_unshare(action: str) -> None:
    """Let the system call unshare end with EPERM, or with the caller's death (linux/seccomp.h, linux/filter.h)."""
    returned = {"refuse": 0x00050000 | errno.EPERM, "kill": 0x80000000}[action]
    program = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, UNSHARE[platform.machine()]),
        (0x06, 0, 0, returned),
        (0x06, 0, 0, 0x7FFF0000),
    ]

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))

    instructions = (Instruction * len(program))(*(Instruction(*line) for line in program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(len(program), instructions)), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def test_nothing_is_left_behind() -> None:
    """No process, no descriptor and no change of the own namespace's links and qdiscs is left."""

    def surroundings() -> tuple[object, ...]:
        shown = [["ip", "-j", "link"], ["tc", "-j", "qdisc"]]
        return tuple(subprocess.run(command, capture_output=True).stdout for command in shown)

    before, open_before, children_before = surroundings(), os.listdir("/proc/self/fd"), children()
    checks = doctor.examine()
    assert len(checks) == len(doctor.NAMES)
    assert os.listdir("/proc/self/fd") == open_before
    assert children() == children_before
    assert surroundings() == before


def test_a_probe_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel never answers, the child is killed after its time, and what it depends on counts as failed."""

    def hang(*_arguments: object) -> None:
        time.sleep(1000)

    children_before = children()
    monkeypatch.setattr(child, "PATIENCE", 0.5)
    monkeypatch.setattr(probe, "_probe_inside", hang)
    monkeypatch.setattr(probe, "_probe_outside", hang)
    checks = {one.name: one for one in doctor.examine()}
    assert tuple(checks) == doctor.NAMES
    assert checks["sch_plug"].state == checks["guard"].state == "failed"
    assert "0.5 s" in checks["sch_plug"].detail
    assert not doctor.can_hold(checks.values())
    assert children() == children_before


def test_a_child_that_dies_has_its_lines_and_its_end_told() -> None:
    """What a child said before it was killed is kept, and the signal is named."""

    def work(_out: int):
        yield "said"
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests' own caller made of it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        os.kill(os.getpid(), signal.SIGHUP)

    assert child.in_child(work) == (["said"], f"was ended by signal {int(signal.SIGHUP)}")


def test_an_error_in_a_child_is_told() -> None:
    """An exception in a child comes back as its words, on one line."""

    def fail() -> None:
        raise ValueError("two\nlines")

    assert child.trial(fail) == "two lines"
    assert child.trial(lambda: None) == ""


def test_a_refused_fork_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, that is the answer, and no descriptor is left open."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    before = os.listdir("/proc/self/fd")
    checks = {one.name: one for one in doctor.examine()}
    assert tuple(checks) == doctor.NAMES
    assert "ulimit -u" in checks["guard"].detail
    assert not doctor.can_hold(checks.values())
    assert os.listdir("/proc/self/fd") == before


def test_a_caller_that_ignores_sigchld_gets_answers() -> None:
    """Where SIGCHLD is ignored, so that the kernel itself waits for children, the answers are the same."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    checks = examined(sys.executable, "-c", ignoring)
    assert checks["guard"].state == "ok"
    assert checks["orphans"].state == "ok"


@pytest.mark.parametrize(
    ("cgroup", "state", "words"),
    [
        ("0::/\n", "ok", "root cgroup"),
        ("0::/system.slice/nginx.service\n", "warning", "ExecStopPost=-libnlplug release DEV"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "ok", "session-3.scope"),
        ("0::/system.slice/docker-0123.scope\n", "warning", "--netns PID"),
        ("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope\n", "warning", "a container"),
        ("4:memory:/x\n1:name=systemd:/system.slice/haproxy.service\n0::/\n", "warning", "haproxy.service"),
        ("12:pids:/a:b\n\nnonsense\n", "ok", "root cgroup"),
    ],
)
def test_cgroup_says_what_ends_the_guard_too(
    cgroup: str, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit or a container is a warning that says what to do, a session is named, and the root ends nothing."""
    monkeypatch.setattr(doctor, "text_of", lambda _path: cgroup)
    monkeypatch.setattr(doctor, "in_own_namespace", lambda _kind: False)
    found = doctor._cgroup()
    assert found.state == state
    assert words in f"{found.detail}; {found.advice}"


@pytest.mark.parametrize(
    ("cgroup", "state"), [("0::/system.slice/a.service\n", "ok"), ("0::/kubepods.slice/pod1\n", "warning")]
)
def test_cgroup_knows_of_a_guard_that_moves(cgroup: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LIBNLPLUG_GUARD_CGROUP=root is enough for a unit, and not for a container, whose root cgroup is its own."""
    monkeypatch.setattr(doctor, "text_of", lambda _path: cgroup)
    monkeypatch.setattr(doctor, "in_own_namespace", lambda _kind: False)
    monkeypatch.setenv("LIBNLPLUG_GUARD_CGROUP", "root")
    assert doctor._cgroup().state == state
    monkeypatch.delenv("LIBNLPLUG_GUARD_CGROUP")
    assert doctor._cgroup().state == "warning"


@pytest.mark.parametrize(
    ("files", "state", "words"),
    [
        ({"/proc/7/oom_score_adj": "-1000\n"}, "ok", "spares the guard"),
        ({"/proc/7/oom_score_adj": "0\n"}, "warning", "CAP_SYS_RESOURCE"),
        (
            {
                "/proc/7/oom_score_adj": "0\n",
                "/proc/self/cgroup": "0::/a.slice/b.service\n",
                "/sys/fs/cgroup/a.slice/memory.oom.group": "1\n",
                "/sys/fs/cgroup/a.slice/b.service/memory.oom.group": "0\n",
            },
            "warning",
            "/sys/fs/cgroup/a.slice/memory.oom.group is set",
        ),
        ({}, "warning", "not known"),
    ],
)
def test_oom_says_whether_the_guard_is_spared(
    files: dict[str, str], state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that could exempt itself is ok; else the group's setting, also of a cgroup above, is looked for."""
    monkeypatch.setattr(probe, "text_of", files.get)
    found = probe.memory(7)
    assert found.state == state
    assert words in f"{found.detail}; {found.advice}"


def test_an_old_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pidfd_open is refused, the kernel check fails and names the version that has it."""

    def refuse(_pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    found = doctor._kernel()
    assert (found.state, found.needed) == ("failed", True)
    assert "5.3" in found.advice


def children() -> set[str]:
    """The pids of this process's children, zombies included."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
