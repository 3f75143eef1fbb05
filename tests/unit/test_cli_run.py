# SPDX-License-Identifier: GPL-2.0-or-later
"""Command runs a program as a shell or timeout(1) would: its status comes back, signals reach it, once.

Each test starts a process that runs one Command: it changes signals for the whole process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import CTRL_C, Terminal

PROGRAM = """
import sys
from libnlplug.command.child import Command
command = Command(sys.argv[1:], lambda trouble: print(trouble, file=sys.stderr))
sys.exit(command.run())
"""
ECHO = """
trap 'echo HUP' HUP; trap 'echo INT' INT; trap 'echo QUIT' QUIT; trap 'echo USR1' USR1; trap 'echo USR2' USR2
trap 'echo TERM; exit 9' TERM
echo ready
while :; do sleep 0.01; done
"""
COUNT = """
import signal, sys
awaited = [signal.SIGINT, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
print("ready", flush=True)
while signal.sigwait(awaited) == signal.SIGINT:
    print("got one", flush=True)
sys.exit(4)
"""


def start(*words: str, program: str = PROGRAM, **options) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", program, *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*words: str, **options) -> tuple[int, str, str]:
    process = start(*words, **options)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_the_status_is_the_programs_own() -> None:
    """An exit status comes back as it is."""
    assert run("sh", "-c", "exit 0")[0] == 0
    assert run("sh", "-c", "exit 200")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_death_by_a_signal_is_128_and_its_number(number: signal.Signals) -> None:
    """As a shell has it: 143 for SIGTERM, 137 for SIGKILL."""
    assert run("sh", "-c", f"kill -{int(number)} $$")[0] == 128 + number


def test_what_is_not_there_is_127(tmp_path: Path) -> None:
    """No such program, no such file, an empty word, a path through a file: 127 and one line."""
    (tmp_path / "file").touch()
    for word in ("nosuchprogram", str(tmp_path / "nosuch"), "", str(tmp_path / "file" / "x")):
        status, out, err = run(word)
        assert (status, out, err) == (127, "", f"cannot run {word or repr('')}: no such command\n")


def test_what_cannot_be_run_is_126(tmp_path: Path) -> None:
    """A directory, or a file without the x bit: 126 and one line with the system's words."""
    (tmp_path / "file").write_text("#!/bin/sh\n")
    for word in (str(tmp_path), str(tmp_path / "file")):
        assert run(word) == (126, "", f"cannot run {word}: Permission denied\n")


def test_a_script_without_its_first_line_runs_as_in_a_shell(tmp_path: Path) -> None:
    """A text without #! is run by /bin/sh, with its arguments, by path or found in PATH."""
    script = tmp_path / "plain-script"
    script.write_text('echo "$1"; exit 5\n')
    script.chmod(0o755)
    assert run(str(script), "word") == (5, "word\n", "")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert run("plain-script", "word", env={**os.environ, "PATH": path}) == (5, "word\n", "")


def test_input_output_and_environment_are_the_programs() -> None:
    """The program has the caller's standard input, output and environment."""
    process = start("sh", "-c", "cat; echo $COLOUR", stdin=subprocess.PIPE, env={**os.environ, "COLOUR": "green"})
    assert process.communicate("from here\n", timeout=30) == ("from here\ngreen\n", "")


def test_signals_that_python_ignores_are_not_ignored_by_the_program() -> None:
    """SIGPIPE and SIGXFSZ do to the program what they do to any other: it is not started with them ignored."""
    text = run("sh", "-c", "grep SigIgn /proc/self/status")[1]
    ignored = int(text.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_no_signal_is_blocked_in_the_program() -> None:
    """What waits for run() in the caller is open in the program."""
    assert int(run("sh", "-c", "grep SigBlk /proc/self/status")[1].split()[1], 16) == 0


def test_a_caller_that_ignores_sigchld_still_learns_the_status() -> None:
    """With SIGCHLD ignored by whoever started us, the kernel would keep no status: it is had all the same."""

    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    assert run("sh", "-c", "exit 7", preexec_fn=ignore)[0] == 7


def test_a_signal_that_the_caller_ignores_is_ignored_by_the_program_too() -> None:
    """nohup's promise holds: an ignored SIGHUP stays ignored, here and in the program."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    status, _, _ = run("sh", "-c", "kill -HUP $PPID; kill -HUP $$; exit 3", preexec_fn=ignore)
    assert status == 3


def test_children_that_were_there_before_do_not_disturb(tmp_path: Path) -> None:
    """A shell that ran a job in the background and became this process leaves a child that is not the program."""
    argv = ["sh", "-c", 'sleep 0.05 & exec "$0" -c "$1" sh -c "sleep 0.3; exit 6"', sys.executable, PROGRAM]
    assert subprocess.run(argv, timeout=30).returncode == 6


def test_signals_sent_to_us_reach_the_program() -> None:
    """HUP, INT, QUIT, USR1, USR2 and TERM are passed on, each once, and none of them ends us first."""
    names = ("HUP", "INT", "QUIT", "USR1", "USR2", "TERM")

    def heed() -> None:
        """What is ignored here, as in the background of a shell or under nohup, no shell could trap."""
        for name in names:
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)

    process = start("sh", "-c", ECHO, preexec_fn=heed)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for name in names:
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == f"{name}\n"
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_start_means_no_start(number: signal.Signals) -> None:
    """A signal that arrives while the hold is being prepared ends it: the program is not run, as if it had died."""
    signalled = f"import os; os.posix_spawnp = lambda *_, **__: print('started'); os.kill(os.getpid(), {int(number)})"
    program = PROGRAM.replace("sys.exit(", f"{signalled}\nsys.exit(")
    assert run("true", program=program) == (128 + number, "", "")


def test_ctrl_c_reaches_the_program_once() -> None:
    """The terminal sends SIGINT to both; it is not passed on a second time. (While we are stopped the program gets the
    terminal's alone; one that we passed on would come after it.)"""
    terminal = Terminal(sys.executable, "-c", PROGRAM, sys.executable, "-c", COUNT)
    terminal.expect("ready")
    for times in range(1, 6):
        terminal.process.send_signal(signal.SIGSTOP)
        terminal.type(CTRL_C)
        terminal.expect("got one", times)
        terminal.process.send_signal(signal.SIGCONT)
    terminal.process.terminate()
    assert terminal.status() == 4
    assert terminal.text.count("got one") == 5


def test_ctrl_c_ends_a_program_that_does_not_mind() -> None:
    """A program that dies of Ctrl-C gives 130."""
    terminal = Terminal(sys.executable, "-c", PROGRAM, "sh", "-c", "echo ready; exec sleep 60")
    terminal.expect("ready")
    terminal.type(CTRL_C)
    assert terminal.status() == 130


def test_a_terminal_that_hangs_up_ends_the_program(tmp_path: Path) -> None:
    """The kernel tells the session's leader alone that the terminal has gone, as when ssh -t loses its connection: the
    SIGHUP is passed on, so that nothing stays held by a program that waits for nobody."""
    said = tmp_path / "said"
    script = f"trap 'echo gone >{said}; exit 3' HUP; echo ready; while :; do sleep 0.01; done"
    here = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # whatever the tests' own caller made of it
    terminal = Terminal(sys.executable, "-c", here + PROGRAM, "sh", "-c", script)
    terminal.expect("ready")
    terminal.hang_up()
    assert terminal.process.wait(20) == 3
    assert said.read_text() == "gone\n"
