# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug doctor on a kernel that can hold: all is well, and each thing that is taken away is found and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from libnlplug import PlugQdisc, doctor
from libnlplug.doctor import probe
from libnlplug.guard import client as guard
from libnlplug.hold import Hold
from libnlplug.netlink.libnl import lib
from tests.support.netlab import eventually, need_guest

EXAMINE = "from libnlplug import doctor; print(doctor.as_json(doctor.examine()))"
# The interpreter may be where another user cannot go, so the change of user comes when all is loaded.
EXAMINE_AS_NOBODY = f"""
import ctypes, os, libnlplug.doctor.probe, libnlplug.guard.client, libnlplug.hold
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own /proc files are its own
{EXAMINE}
"""
LANE = ("ifb", "sch_ingress", "cls_flower", "act_mirred")
MODPROBE = Path("/proc/sys/kernel/modprobe")
USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")


def reachable_by_everyone(path: str) -> bool:
    """Whether another user can come to the file: a checkout in somebody's home may be closed to others."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(path).parents)


def examined(*before: str, text: str = EXAMINE) -> dict[str, doctor.Check]:
    """The checks by name, from a process of its own, which ``before`` starts."""
    command = [*before, sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    checks = [doctor.Check(*values.values()) for values in json.loads(done.stdout)]
    assert tuple(one.name for one in checks) == doctor.NAMES
    return {one.name: one for one in checks}


@pytest.fixture
def own_kernel() -> None:
    """A kernel whose modules and settings may be changed."""
    need_guest("this changes the kernel's modules and settings: for the test kernel alone")


@contextmanager
def setting(file: Path, value: str):
    """A setting of the kernel, as it was again afterwards."""
    before = file.read_text()
    file.write_text(value)
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def unloaded(*modules: str):
    """A kernel without these modules; they are loaded again afterwards."""

    def gone() -> bool:
        removed = subprocess.run(["modprobe", "-r", *modules], capture_output=True)
        return removed.returncode == 0 and not any(map(is_loaded, modules))

    eventually(gone, f"{modules} can be removed: what uses them goes a little after its namespace")
    try:
        yield
    finally:
        subprocess.run(["modprobe", "-a", *modules], check=True)


def is_loaded(module: str) -> bool:
    return Path("/sys/module", module).is_dir()


def test_all_is_well() -> None:
    """Where a plug can be made, everything that holding and a lane need is ok, and the main job can be done."""
    checks = examined()
    for one in checks.values():
        if one.needed or one.name in LANE:
            assert one.state == "ok", one
    assert checks["netns"].state == "ok"
    assert doctor.can_hold(checks.values())


def test_guard_is_tried_with_real_packets() -> None:
    """The guard check is a real hold: a packet was held and released, also when its holder was killed."""
    detail = examined()["guard"].detail
    assert "held a packet and released it when told to" in detail
    assert "when its holder was killed" in detail


def examined_here() -> doctor.Check:
    """The check of the guard, by this process, whose parts a test may have replaced."""
    return next(one for one in doctor.examine() if one.name == "guard")


def test_a_guard_that_does_not_release_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what a killed holder held does not come back, the guard check fails: a guard that drops stands for it."""
    assert examined_here().state == "ok"
    monkeypatch.setattr(PlugQdisc, "hold", lambda self, timeout=None: Hold(self, timeout, "drop"))
    monkeypatch.setattr(probe, "AT_ONCE", 0.5)
    found = examined_here()
    assert found.state == "failed", found
    assert "did not arrive" in found.detail


def test_a_plug_that_does_not_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a packet passes during a hold, the guard check fails: a release in place of buffer stands for it."""
    messages = PlugQdisc.messages

    def never_buffer(plug: PlugQdisc) -> dict[int, bytes]:
        made = messages(plug)
        return {**made, lib.GUARD_SEND_BUFFER: made[lib.GUARD_SEND_RELEASE]}

    monkeypatch.setattr(PlugQdisc, "messages", never_buffer)
    found = examined_here()
    assert found.state == "failed", found
    assert "should have been held" in found.detail


def test_command_ends_with_0() -> None:
    """The command prints the same lines, and ends with 0 where the main job can be done."""
    command = [sys.executable, "-m", "libnlplug", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(doctor.NAMES)
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0
    assert [one["name"] for one in json.loads(shown.stdout)] == list(doctor.NAMES)


@pytest.mark.parametrize("module", ["sch_plug", *LANE])
@pytest.mark.usefixtures("own_kernel")
def test_a_missing_module_is_named(module: str) -> None:
    """Without one module exactly its check fails, and says what to load; only without sch_plug nothing can be held."""
    with unloaded(module), setting(MODPROBE, "\n"):
        checks = examined()
    assert checks[module].state == "failed"
    assert f"modprobe {module}" in checks[module].advice
    assert "CONFIG_" in checks[module].advice
    failed = {name for name, one in checks.items() if one.state == "failed"}
    assert failed == {module}
    assert doctor.can_hold(checks.values()) == (module != "sch_plug")


@pytest.mark.usefixtures("own_kernel")
def test_command_ends_with_1_without_plug() -> None:
    """Without sch_plug the command ends with 1, and one of its lines says which module to load."""
    with unloaded("sch_plug"), setting(MODPROBE, "\n"):
        command = [sys.executable, "-m", "libnlplug", "doctor"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert "modprobe sch_plug" in line


@pytest.mark.usefixtures("own_kernel")
def test_modules_that_can_be_loaded_are_found() -> None:
    """A module that is not loaded, but can be, is ok: the attempt has the kernel load it."""
    with unloaded("sch_plug", *LANE):
        checks = examined()
        assert {checks[name].state for name in ("sch_plug", *LANE)} == {"ok"}


@pytest.mark.usefixtures("own_kernel")
def test_ifb_is_loaded_without_its_links(tmp_path: Path) -> None:
    """Finding out about ifb never has the kernel load it, which would make ifb0 and ifb1: it is loaded with none."""
    asked, own = tmp_path / "asked", tmp_path / "modprobe"
    own.write_text(f'#!/bin/sh\necho "$*" >>{asked}\nexec {MODPROBE.read_text().strip()} "$@"\n')
    own.chmod(0o755)
    with unloaded("ifb"), setting(MODPROBE, f"{own}\n"):
        assert examined()["ifb"].state == "ok"
    lines = asked.read_text().splitlines()
    assert "-q ifb numifbs=0" in lines
    assert not any("rtnl-link-ifb" in line for line in lines)


@pytest.mark.usefixtures("own_kernel")
def test_unprivileged_user_does_not_have_ifb_loaded() -> None:
    """Who cannot load ifb without its links does not load it at all, and is told so."""
    with unloaded("ifb"):
        found = examined(text=EXAMINE_AS_NOBODY)["ifb"]
        assert not is_loaded("ifb")
    assert found.state == "warning"
    assert "numifbs=0" in found.advice


def test_unprivileged_user_is_told_the_right() -> None:
    """A user without rights is told that CAP_NET_ADMIN is missing, and still what the kernel and the guard can do."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    checks = examined(text=EXAMINE_AS_NOBODY)
    assert checks["CAP_NET_ADMIN"].state == "failed"
    assert "--cap-add NET_ADMIN" in checks["CAP_NET_ADMIN"].advice
    assert checks["netns"].state == "warning"
    assert not doctor.can_hold(checks.values())
    if int(USER_NAMESPACES.read_text()):
        assert checks["sch_plug"].state == "ok", checks["sch_plug"]
        if reachable_by_everyone(guard.PATH):
            assert checks["guard"].state == "ok", checks["guard"]
        assert {checks[name].state for name in LANE} == {"ok"}


@pytest.mark.usefixtures("own_kernel")
def test_unprivileged_user_without_user_namespaces_gets_answers() -> None:
    """Where not even a user namespace can be made, what cannot be known says so."""
    with setting(USER_NAMESPACES, "0\n"):
        checks = examined(text=EXAMINE_AS_NOBODY)
    assert checks["sch_plug"].state == "warning"
    assert "not known" in checks["sch_plug"].detail
    assert checks["CAP_NET_ADMIN"].state == "failed"
    if reachable_by_everyone(guard.PATH):
        assert "whether it releases was not tried" in checks["guard"].detail
    assert not doctor.can_hold(checks.values())


@pytest.mark.parametrize("module", ["", "sch_plug"])
@pytest.mark.usefixtures("own_kernel")
def test_with_net_admin_alone_the_kernel_is_asked_without_a_namespace(module: str) -> None:
    """With CAP_NET_ADMIN and no right to make a namespace, as in a container, sch_plug is found or missed all the same,
    and no qdisc of the own namespace changes."""

    def qdiscs() -> str:
        return subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, check=True).stdout

    before = qdiscs()
    limited = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    missing = unloaded(module) if module else nullcontext()
    with missing, setting(USER_NAMESPACES, "0\n"), setting(MODPROBE, "\n"):
        checks = examined(*limited)
    assert qdiscs() == before
    assert checks["CAP_NET_ADMIN"].state == "ok"
    assert checks["sch_plug"].state == ("failed" if module else "ok")
    assert checks["guard"].state == "ok", checks["guard"]
    assert "not tried" in checks["guard"].detail
    assert {checks[name].state for name in LANE} == {"warning"}
    assert doctor.can_hold(checks.values()) == (not module)


@pytest.mark.usefixtures("own_kernel")
def test_nothing_is_left_behind() -> None:
    """No process, no network namespace, no link and no qdisc is left, nor a zombie."""

    def surroundings() -> tuple[set[str], set[str], bytes, bytes]:
        processes, namespaces = set(), set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                namespaces.add(os.readlink(entry / "ns" / "net"))
                if (entry / "cmdline").read_bytes() or "\nState:\tZ" in (entry / "status").read_text():
                    processes.add(entry.name)
            except OSError:
                pass
        links, qdiscs = (subprocess.run(tool, capture_output=True).stdout for tool in (["ip", "link"], ["tc", "qdisc"]))
        return processes, namespaces, links, qdiscs

    def nothing_is_new() -> bool:  # what was ending before may have ended
        now_processes, now_namespaces, *now_shown = surroundings()
        return now_processes <= processes and now_namespaces <= namespaces and now_shown == shown

    processes, namespaces, *shown = surroundings()
    examined()
    examined(text=EXAMINE_AS_NOBODY)
    eventually(nothing_is_new, "no process or namespace is new, and links and qdiscs are what they were")
