# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools that run the tests cannot be fooled: whatever does not come to its proper end is a failure."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.netlab import eventually, unable

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
PASSES = "def test_it():\n    pass\n"
ENDS_THE_PROCESS = "import os\ndef test_it():\n    pass\ndef test_that():\n    os._exit(0)\n"
ENDS_THE_RUN = """
import pytest

def end(here):
    if here == "WHERE":
        pytest.exit("enough", returncode=0)

@pytest.fixture
def made():
    end("set-up")
    yield
    end("tear-down")

def test_it():
    pass

def test_that(made):
    end("test")

def test_last():
    assert 0
"""
SKIPS = "import pytest\ndef test_it():\n    pytest.skip('not today')\n"
REPORT = '<testsuite><testcase classname="{}" name="test_it" time="1.0">{}</testcase></testsuite>'


def run(*words: object, cwd: Path) -> tuple[int, str]:
    """The status of a tool, and all that it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a pytest that hypothesis is loaded into starts much later
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120, "env": environment}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, **options)
    return done.returncode, done.stdout + done.stderr


def run_tested(tmp_path: Path, *command: str) -> tuple[int, str]:
    """What tools/tested says of a command."""
    return run(TOOLS / "tested", "build/report.xml", *command, cwd=tmp_path)


def pytest_of(tmp_path: Path, text: str) -> list[str]:
    """The command that runs pytest on these tests, in a directory of their own."""
    (tmp_path / "test_here.py").write_text(text)
    (tmp_path / "pytest.ini").touch()
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=build/report.xml", "test_here.py"]


def guest(*words: str) -> list[str]:
    """The command that runs words in the test kernel."""
    if not shutil.which("linux.uml"):
        unable("no User-Mode Linux here")
    return [str(TOOLS / "testkernel/run"), *words]


def test_tests_that_pass(tmp_path: Path) -> None:
    """What ends well is believed, and so is pytest's own status of a failure."""
    assert run_tested(tmp_path, *pytest_of(tmp_path, PASSES))[0] == 0
    assert run_tested(tmp_path, *pytest_of(tmp_path, PASSES + "def test_that():\n    assert 0\n"))[0] == 1


def test_a_test_that_ends_the_process(tmp_path: Path) -> None:
    """os._exit(0) in a test is no success, though the process's status says so."""
    command = pytest_of(tmp_path, ENDS_THE_PROCESS)
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    status, words = run_tested(tmp_path, *command)
    assert status == 1
    assert "build/report.xml was not written: pytest did not come to its end" in words


@pytest.mark.parametrize("where", ["set-up", "test", "tear-down"])
def test_a_test_that_ends_the_run(tmp_path: Path, where: str) -> None:
    """pytest.exit() with status 0 is no success either: the tests after it did not run."""
    ends = ENDS_THE_RUN.replace("WHERE", where)
    here = ["-p", "tests.conftest", "--confcutdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    status, words = run_tested(tmp_path, *pytest_of(tmp_path, ends), *here)
    assert status == 1
    assert "the run was ended with status 0 before its last test: enough" in words


def test_an_old_report(tmp_path: Path) -> None:
    """A report of an earlier run does not speak for one that wrote none."""
    assert run_tested(tmp_path, *pytest_of(tmp_path, PASSES))[0] == 0
    assert (tmp_path / "build/report.xml").exists()
    assert run_tested(tmp_path, "true")[0] == 1
    assert not (tmp_path / "build/report.xml").exists()


@pytest.mark.parametrize("text", ["", SKIPS], ids=["no test", "all skipped"])
def test_a_run_without_a_test_that_passed(tmp_path: Path, text: str) -> None:
    """Where no test passed, nothing was shown."""
    status, words = run_tested(tmp_path, *pytest_of(tmp_path, text))
    assert status != 0
    assert "no test passed" in words or status == 5


def test_a_failure_that_the_status_hides(tmp_path: Path) -> None:
    """A report with a failure is a failure, whatever the status of the command around pytest."""
    command = pytest_of(tmp_path, "def test_it():\n    pass\ndef test_that():\n    assert 0\n")
    status, words = run_tested(tmp_path, "sh", "-c", '"$@" || true', "sh", *command)
    assert status == 1
    assert "a test failed, and the status was 0" in words


@pytest.mark.parametrize(
    ("command", "limit", "status"),
    [
        ("sleep 1; echo c >/proc/sysrq-trigger", "60", 125),  # what a kernel prints as it goes may be lost
        ("sleep 1; echo o >/proc/sysrq-trigger; sleep 60", "60", 125),
        ("sleep 60", "10", 124),
    ],
    ids=["panics", "goes away", "hangs"],
)
def test_a_guest_that_ends_badly(tmp_path: Path, command: str, limit: str, status: int) -> None:
    """A test kernel that panics, goes away without a word, or hangs, is a failure with a status of its own."""
    got, words = run_tested(tmp_path, *guest("--timeout", limit, "--", "sh", "-c", f"echo begun; {command}"))
    assert (got, words.count("begun\n")) == (status, 1)


@pytest.mark.parametrize("group", [(), ("timeout", "60")], ids=["same group", "own group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_it_ends_the_command(tmp_path: Path, number: int, group: tuple[str, ...]) -> None:
    """SIGTERM is handed on, and a terminal's Ctrl-C to a command that it does not reach; the command has its time to
    clean up."""
    script = "trap 'sleep 1; echo >>cleaned; exit 3' TERM INT; touch there; for _ in $(seq 300); do sleep 0.1; done"
    argv = [sys.executable, str(TOOLS / "tested"), "build/report.xml", *group, "sh", "-c", script]
    process = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    eventually((tmp_path / "there").exists, "the command runs", within=20)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(20) == 3
    assert (tmp_path / "cleaned").read_text() == "\n"


# -- tools/testkernel/run


def kept_on(starter: int) -> set[int]:
    """The processors of the host on which the guest of this process runs."""
    children = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
    return os.sched_getaffinity(int(children[0]))


def test_a_guest_is_kept_on_one_processor() -> None:
    """So that its programs do not wake each other from another processor; --pin names one."""
    words = ("--timeout", "60", "--", "sh", "-c", "echo started; sleep 60")
    last = max(os.sched_getaffinity(0))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for pin in ((), (), ("--pin", str(last))):
            started.append(subprocess.Popen(guest(*pin, *words), stdout=subprocess.PIPE))
        assert [process.stdout and process.stdout.readline() for process in started] == [b"started\n"] * 3
        first, second, pinned = (kept_on(process.pid) for process in started)
    finally:
        for process in started:
            process.terminate()
            process.communicate()
    assert len(first) == len(second) == 1
    assert pinned == {last}


def test_guests_share_processors_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next guest is kept where fewest are; the place of one that has ended is free again."""
    monkeypatch.syspath_prepend(TOOLS / "testkernel")
    module = importlib.import_module("guest")
    monkeypatch.setattr(module, "PREFIX", f"libnlplug-test-{os.getpid()}-")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5})
    with module.kept_processor() as first, module.kept_processor() as second, module.kept_processor() as third:
        assert (first, second, third) == (3, 5, 3)
    with module.kept_processor() as again:
        assert again == 3
    with ExitStack() as all_places:
        kept = [all_places.enter_context(module.kept_processor()) for _ in range(17)]
    assert (kept.count(3), kept.count(5), kept[-1]) == (8, 8, None)


def test_what_a_guest_writes_last_is_read(monkeypatch: pytest.MonkeyPatch, capfdbinary) -> None:
    """What comes between the last look at its output and its end is not lost."""
    monkeypatch.syspath_prepend(TOOLS / "testkernel")
    module = importlib.import_module("guest")
    output, guest_output = os.pipe()

    class Ends:
        """A process that writes, and is gone when it is asked for."""

        left = [b"last\n"]

        def poll(self) -> int:
            os.write(guest_output, self.left.pop() if self.left else b"")
            return 0

    module.copy_output(output, Ends(), time.monotonic() + 10)
    os.close(output)
    os.close(guest_output)
    assert capfdbinary.readouterr().out == b"last\n"


# -- tools/parts


def parts(tmp_path: Path, makefile: str, *words: str) -> tuple[int, str]:
    """What tools/parts says of the targets of a makefile."""
    (tmp_path / "Makefile").write_text(makefile)
    return run(TOOLS / "parts", *words, cwd=tmp_path)


def test_parts_that_end_well(tmp_path: Path) -> None:
    """Each line has the name of its target before it."""
    status, words = parts(tmp_path, "one two three:\n\t@echo this is $@\n", "one", "two", "three")
    assert status == 0
    for name in ("one", "two", "three"):
        assert f"{name}: this is {name}\n" in words


def test_the_first_broken_part_ends_all(tmp_path: Path) -> None:
    """The others are ended, no further one is begun, and what the broken one printed comes last."""
    makefile = "slow one:\n\t@echo begun; sleep 60\nbad:\n\t@echo the reason; false\nnext:\n\t@echo never\n"
    begun = time.monotonic()
    status, words = parts(tmp_path, makefile, "--at-a-time", "3", "slow", "one", "bad", "next")
    assert status == 1
    assert time.monotonic() - begun < 30
    assert "never" not in words
    *_, last = words.split("---- bad\n")
    assert last.startswith("the reason\n")
    assert last.endswith("---- bad failed with status 2\n")


def test_what_a_part_has_started_may_clean_up(tmp_path: Path) -> None:
    """When the parts are ended, a process that make has not started itself gets the time to end what it has started."""
    cleans = "trap 'sleep 1; touch cleaned; exit' TERM; touch there; while :; do sleep 0.1; done"
    (tmp_path / "cleans").write_text(f"#!/bin/sh\n{cleans}\n")
    makefile = "slow:\n\t@sh -c 'sh cleans & wait'\nbad:\n\t@until test -e there; do sleep 0.1; done; false\n"
    assert parts(tmp_path, makefile, "--at-a-time", "2", "slow", "bad")[0] == 1
    assert (tmp_path / "cleaned").exists()


def test_two_interrupts_end_all_parts(tmp_path: Path) -> None:
    """The second one does not leave behind what the first one asked to end."""
    cleans = "trap 'sleep 1; touch $1; exit' TERM; touch $1.there; for _ in $(seq 300); do sleep 0.1; done"
    (tmp_path / "cleans").write_text(f"{cleans}\n")
    (tmp_path / "Makefile").write_text("one two:\n\t@sh cleans $@\n")
    argv = [sys.executable, str(TOOLS / "parts"), "--at-a-time", "2", "one", "two"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    process = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    for name in ("one.there", "two.there"):
        eventually((tmp_path / name).exists, "the parts run", within=20)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
    assert process.wait(30) == 128 + signal.SIGINT
    assert [(tmp_path / name).exists() for name in ("one", "two")] == [True, True]


def test_one_part_at_a_time(tmp_path: Path) -> None:
    """On a single processor, a part begins when the one before has ended."""
    makefile = "one two:\n\t@! test -e on; touch on; sleep 0.3; rm on\n"
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        assert parts(tmp_path, makefile, "one", "two")[0] == 0
    finally:
        os.sched_setaffinity(0, usable)
    assert parts(tmp_path, makefile, "--at-a-time", "2", "one", "two")[0] == 1


def test_a_part_that_hangs(tmp_path: Path) -> None:
    """A target that never ends is a failure."""
    status, words = parts(tmp_path, "slow:\n\t@echo begun; sleep 60\n", "--longest", "2", "slow")
    assert status == 1
    assert "slow did not end within 2 s" in words


# -- the runs that share the kernel tests

FILES = [f"test_{letter}.py" for letter in "abcdefgh"]
HOOKS = "pytest_addoption, pytest_collection_modifyitems, pytest_runtest_protocol"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose files of tests are shared as those of tests/kernel."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "conftest.py").write_text(f"from tests.kernel.conftest import {HOOKS}\n")
    for name in FILES:
        (tmp_path / name).write_text("import time\n" + PASSES.replace("pass", "time.sleep(0.1)"))
    return tmp_path


def passed_in(part: str, project: Path) -> list[str]:
    """The files of which one run has passed the test, in their order."""
    status, words = run("-m", "pytest", "-v", f"--part={part}", cwd=project)
    assert status == 0, words
    return [line.partition("::")[0] for line in words.splitlines() if " PASSED " in line]


def test_runs_share_the_files(shared: Path) -> None:
    """Two runs at the same time run each file once, and each one has begun with a file of its own."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(passed_in, ("1of2", "2of2"), (shared, shared))
    assert (first[0], second[0]) == (FILES[0], FILES[1])
    assert sorted(first + second) == FILES


def test_one_run_after_the_other(shared: Path) -> None:
    """The second one still has a file; what an earlier run has taken is a failure, and no run of nothing."""
    assert passed_in("1of2", shared) == [FILES[0], *FILES[2:]]
    assert passed_in("2of2", shared) == [FILES[1]]
    status, words = run("-m", "pytest", "--part=2of2", cwd=shared)
    assert status == 4
    assert "build/taken/test_b.py is of another run; 'make test' begins without build/taken" in words


# -- tools/summary


def summary(tmp_path: Path, **reports: str) -> tuple[int, str]:
    """What tools/summary says, in a project with two files of kernel tests, of these reports."""
    (tmp_path / "tests/kernel").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / f"tests/kernel/test_{name}.py").touch()
    for name, text in reports.items():
        (tmp_path / f"{name}.xml").write_text(text)
    return run(TOOLS / "summary", "first.xml", "second.xml", cwd=tmp_path)


ONE, TWO = REPORT.format("tests.kernel.test_one", ""), REPORT.format("tests.kernel.test_two", "")
SKIPPED = REPORT.format("tests.kernel.test_one", '<skipped message="no such thing"/>')


def test_all_reports_are_there(tmp_path: Path) -> None:
    """Each report is one line."""
    assert summary(tmp_path, first=ONE, second=TWO) == (0, f"{'first':16} 1 passed, 1 s\n{'second':16} 1 passed, 1 s\n")


def test_a_missing_part(tmp_path: Path) -> None:
    """A part without a report is a failure."""
    status, words = summary(tmp_path, first=ONE)
    assert status == 1
    assert "second.xml was not written" in words


def test_the_same_part_twice(tmp_path: Path) -> None:
    """A file of tests that is in no report is a failure."""
    status, words = summary(tmp_path, first=ONE, second=ONE)
    assert status == 1
    assert words.endswith("no report has a test of tests/kernel/test_two.py\n")


def test_what_ran_nowhere(tmp_path: Path) -> None:
    """A test that was skipped in every report is named, with the reason; one that ran in another is not."""
    assert (
        "ran nowhere: tests.kernel.test_one::test_it: no such thing\n"
        in summary(tmp_path, first=SKIPPED, second=TWO)[1]
    )
    (tmp_path / "second.xml").write_text(ONE)
    assert "ran nowhere" not in run(TOOLS / "summary", "first.xml", "second.xml", cwd=tmp_path)[1]


def test_what_must_run_somewhere(tmp_path: Path) -> None:
    """With --all a kernel test that ran nowhere is a failure, and so is a test of a file that the second kernel is for;
    a unit test is not."""
    skipped = '<testcase classname="tests.{}.test_one" name="test_that"><skipped message="why"/></testcase></testsuite>'
    for kind, failed in (("kernel", 1), ("unit", 0)):
        place = tmp_path / kind
        place.mkdir()
        first = ONE.replace("</testsuite>", skipped.format(kind))
        assert summary(place, first=first, second=TWO)[0] == 0
        assert run(TOOLS / "summary", "--all", "first.xml", "second.xml", cwd=place)[0] == failed
        (place / "smp-second.xml").write_text(first)
        assert run(TOOLS / "summary", "--all", "second.xml", "smp-second.xml", cwd=place)[0] == 1


# -- tools/mutants

BREAKAGES = """
from typing import NamedTuple

class Breakage(NamedTuple):
    name: str
    file: str
    text: str
    broken: str
    tests: tuple
    survives: str = ""

TESTS = ("tests/unit/test_sum.py",)
BREAKAGES = [Breakage("sum", "sums.py", "a + b", "a - b", TESTS), Breakage("none", "sums.py", {}, TESTS, {})]
"""
HARMLESS, HARMFUL, ABSENT = '"# one", "# two"', '"a, b", "b"', '"c + d", "d"'
SUMS = "# one\ndef total(a, b):\n    return a + b\n"
TEST_SUM = "import sums\ndef test_sum():\n    assert sums.total(1, 2) == 3\n"


def mutants(tmp_path: Path, second: str, reason: str = "", test: str = TEST_SUM) -> tuple[int, str]:
    """What tools/mutants says of a project with two breakages, of which its test notices the first."""
    (tmp_path / "tests/unit").mkdir(parents=True)
    (tmp_path / "tests/unit/test_sum.py").write_text(test)
    (tmp_path / "sums.py").write_text(SUMS)
    (tmp_path / "list.py").write_text(BREAKAGES.format(second, repr(reason)))
    return run(TOOLS / "mutants", "--list", "list.py", cwd=tmp_path)


def test_a_breakage_that_nothing_notices(tmp_path: Path) -> None:
    """It is named, and is a failure; the project itself is not changed."""
    status, words = mutants(tmp_path, HARMLESS)
    assert status == 1, words
    assert "2 breakages: 1 caught, 1 survived\n" in words
    assert words.endswith("survived: none (sums.py), with tests/unit/test_sum.py\n")
    assert (tmp_path / "sums.py").read_text() == SUMS


def test_breakages_that_are_noticed_or_have_a_reason(tmp_path: Path) -> None:
    """Both are well; a reason for one that is noticed after all is not."""
    assert mutants(tmp_path / "noticed", HARMFUL)[0] == 0
    status, words = mutants(tmp_path / "reason", HARMLESS, "it is a comment")
    assert status == 0, words
    assert "survives: none: it is a comment\n" in words
    assert mutants(tmp_path / "no longer", HARMFUL, "it is a comment")[0] == 1


def test_a_list_that_is_wrong(tmp_path: Path) -> None:
    """A text that is not there, and tests that fail anyway, are errors: nothing would be shown."""
    status, words = mutants(tmp_path / "text", ABSENT)
    assert status == 2
    assert "the text is in sums.py 0 times" in words
    status, words = mutants(tmp_path / "test", HARMFUL, test=TEST_SUM.replace("3", "4"))
    assert status == 2
    assert "these tests fail without a breakage" in words


def test_every_breakage_can_be_made() -> None:
    """Each text of the project's own list is in its file exactly once, and its tests are there."""
    assert run(TOOLS / "mutants", "--check", cwd=ROOT) == (0, "")
