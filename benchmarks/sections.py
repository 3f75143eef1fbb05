# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured on the test kernel: each function is a section, yields rows, and leaves its figures in ``figures``.

The devices are dummies in the guest's own network, made and removed by the section; nothing else runs there.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Callable

from peers import HERE, Missing, Program, compiled, ip, nl_qdisc_module, processor_time, reference, run, tc, worker
from rounds import Measured, Row, compared, interleaved, time_text

OURS = "libnlplug"
ORIGINAL = "C original"
FLOOR = "raw C floor"
HANDLE = "504c:"
NL_PROCESS, BATCH = "an nl-qdisc-add process", "a tc -batch process, for each of 400 toggles"
NL_QDISC_ADD = ("nl-qdisc-add", "--dev=b0", "--parent=root", f"--id={HANDLE}", "--update", "plug")


class Bench:
    """How much is measured, where the programs are, and what was found."""

    def __init__(self, directory: Path, *, short: bool) -> None:
        self.directory = directory
        self.short = short
        self.rounds = 1 if short else 21
        self.figures: dict[str, object] = {}
        self.notes: list[str] = []
        self.failing: set[str] = set()  # contestants that fail to do what is measured

    def size(self, usual: int, short: int) -> int:
        return short if self.short else usual

    def without(self, why: Missing) -> None:
        self.notes.append(f"Not measured: {why}.")


@contextmanager
def dummies(count: int, *, up: bool = False) -> Iterator[list[str]]:
    """Devices that swallow packets; the first one is up, or all are, and send nothing of their own."""
    names = [f"b{number}" for number in range(count)]
    ip(*(f"link add {name} type dummy" for name in names))
    ip(*(f"link set {name} addrgenmode none up" for name in (names if up else names[:1])))
    try:
        yield names
    finally:
        ip(*(f"link del {name}" for name in names))


def by_processes(bench: Bench, times: int) -> dict[str, Callable[[], float]]:
    """The programs that toggle once and end, each as a process of its own: tc, and nl-qdisc-add where it is there."""

    def processes_of(buffer: tuple[str, ...], release: tuple[str, ...], **how: object) -> float:
        both = [run(*buffer, **how) + run(*release, **how) for _ in range(times)]  # type: ignore[arg-type]
        return sum(both) / (2 * times)

    change = ("tc", "qdisc", "change", "dev", "b0", "root", "handle", HANDLE, "plug")
    contestants: dict[str, Callable[[], float]] = {
        "a tc process": lambda: processes_of((*change, "block"), (*change, "release_indefinite"))
    }
    by_nl = ((*NL_QDISC_ADD, "--buffer"), (*NL_QDISC_ADD, "--release-indefinite"))
    try:
        shipped = subprocess.run(by_nl[0], capture_output=True, text=True)
    except FileNotFoundError:
        bench.notes.append("Not measured: nl-qdisc-add, which is not installed (Debian: libnl-utils).")
        return contestants
    status = shipped.returncode
    contestants[NL_PROCESS] = lambda: processes_of(*by_nl, ok=(status,))
    if status:
        bench.failing.add(NL_PROCESS)
        bench.notes.append(
            "nl-qdisc-add as Debian ships it cannot run: "
            f"'{shipped.stderr.strip().splitlines()[0]}'. What is measured is how long it takes to say so, so no "
            "bound is met by it."
        )
        preload = {"LD_PRELOAD": str(nl_qdisc_module())}
        if not subprocess.run(by_nl[0], env=os.environ | preload, capture_output=True).returncode:
            bench.notes[-1] += " With its module preloaded it can run; that is the other row."
            contestants["nl-qdisc-add, module preloaded"] = lambda: processes_of(*by_nl, environment=preload)
    return contestants


def by_batch(bench: Bench, device: str, actions: tuple[str, str]) -> Callable[[], float]:
    """One toggle of the many that a tc process carries out with -batch, its start and end included."""
    times = bench.size(200, 10)
    lines = bench.directory / "batch"
    change = f"qdisc change dev {device} root handle {HANDLE} "
    lines.write_text("".join(f"{change}{action}\n" for action in actions) * times)
    return lambda: run("tc", "-batch", lines) / (2 * times)


def toggles(bench: Bench) -> Iterator[Row]:
    """A toggle, which is one buffer() or one release_indefinite(), by everybody who can."""
    times, few, processes = bench.size(400, 50), bench.size(20, 3), bench.size(3, 1)
    with dummies(1), ExitStack() as stack:

        def started(program: Program) -> Program:
            stack.callback(program.close)
            return program

        ours = started(worker("worker.py"))
        ours.hear()
        ours.timed("attach b0")
        floor = started(Program(compiled(HERE / "floor.c", bench.directory), "b0", HANDLE))
        original = started(Program(reference(bench.directory)))
        original.timed(f"attach b0 root {HANDLE} 1000000")
        pair = 2 * times
        quick = {
            OURS: lambda: ours.timed(f"toggle {times}") / pair,
            "drop-in port": lambda: ours.timed(f"port {times}") / pair,
            FLOOR: lambda: floor.timed(f"toggle {times}") / pair,
            ORIGINAL: lambda: original.timed(f"toggle {times}") / pair,
        }
        found = interleaved(quick, bench.size(50, 1))
        contestants = {OURS: quick[OURS]}
        try:
            pyroute2 = started(worker("worker_pyroute2.py", "b0"))
            pyroute2.hear()
            contestants["pyroute2"] = lambda: pyroute2.timed(f"toggle {few}") / (2 * few)
        except RuntimeError:
            bench.notes.append("Not measured: pyroute2, which is not installed (pip install '.[bench]').")

        contestants |= by_processes(bench, processes)
        contestants[BATCH] = by_batch(bench, "b0", ("plug block", "plug release_indefinite"))
        slow = interleaved(contestants, bench.rounds)
    bench.figures["toggle"] = {name: measured.of(name) for measured in (slow, found) for name in measured.values}
    yield compared(found, 1, "a toggle", OURS, ORIGINAL, 0.80)
    yield compared(found, 1, "a toggle", OURS, FLOOR, 1.15)
    yield compared(found, 1, "a toggle by the drop-in port", "drop-in port", ORIGINAL, 1.00)
    yield compared(found, 1, "the C original's own distance to the floor", ORIGINAL, FLOOR)
    for name, bound in (
        ("pyroute2", 15),
        ("a tc process", 500),
        (BATCH, None),
        (NL_PROCESS, 500),
        ("nl-qdisc-add, module preloaded", 500),
    ):
        if name in slow:
            yield compared(
                slow, 4, "times faster, a toggle", OURS, name, bound, faster=True, fails=name in bench.failing
            )


@contextmanager
def namespace(links: int) -> Iterator[str]:
    """A network namespace with so many links besides lo."""
    name = f"bench-{links}"
    ip(f"netns add {name}")
    lines = "".join(f"link add b{number} type dummy\n" for number in range(links))
    try:
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=lines, text=True, check=True)
        yield name
    finally:
        ip(f"netns del {name}")


def attaching(bench: Bench) -> Iterator[Row]:
    """attach() and stats(), with few links and with many: each in a namespace of its own, all side by side."""
    counts = (2, 10, 50) if bench.short else (2, 200, 2000)
    times = bench.size(50, 5)
    program = reference(bench.directory)
    with ExitStack() as stack:
        contestants = {}
        for count in counts:
            name = stack.enter_context(namespace(count))
            ours = worker("worker.py", into=name)
            original = Program("ip", "netns", "exec", name, program)
            stack.callback(ours.close)
            stack.callback(original.close)
            ours.hear()

            def attach(ours: Program = ours) -> float:
                seconds = ours.timed("attach b0")
                ours.timed("detach")
                return seconds

            def attach_by_the_original(original: Program = original, name: str = name) -> float:
                seconds = original.timed("init") + original.timed(f"attach b0 root {HANDLE} 1000000")
                subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", "b0", "root"], check=True)
                return seconds

            def stats(ours: Program = ours) -> float:
                ours.timed("attach b0")
                seconds = ours.timed(f"stats {times}") / times
                ours.timed("detach")
                return seconds

            contestants[f"attach, {count}"] = attach
            contestants[f"{ORIGINAL}, {count}"] = attach_by_the_original
            contestants[f"stats, {count}"] = stats
            contestants[f"tc, {count}"] = lambda name=name: run("tc", "-n", name, "-s", "qdisc", "show", "dev", "b0")
        found = interleaved(contestants, bench.rounds)
    few, *_, most = counts
    bench.figures["links"] = {
        str(count): {who: found.of(f"{who}, {count}") for who in ("attach", ORIGINAL, "stats", "tc")}
        for count in counts
    }

    def row(what: str, ours: str, peer: str, shown: str, bound: float | None, **how: bool) -> Row:
        made = compared(found, 2, what, ours, peer, bound, **how)
        made["peer"] = shown
        return made

    for count in counts[1:]:
        yield row(f"attach(), {count} links", f"attach, {count}", f"attach, {few}", f"with {few} links", 1.5)
    yield row(f"attach(), {most} links", f"attach, {most}", f"{ORIGINAL}, {most}", ORIGINAL, 0.10)
    yield row(f"attach(), {few} links", f"attach, {few}", f"{ORIGINAL}, {few}", ORIGINAL, None)
    for count in counts[1:]:
        yield row(f"stats(), {count} links", f"stats, {count}", f"stats, {few}", f"with {few} links", 1.5)
    what = f"times faster, stats() with {most} links"
    yield row(what, f"stats, {most}", f"tc, {most}", "a tc process", None, faster=True)


def groups(bench: Bench) -> Iterator[Row]:
    """A group against the C original's loop, and how far apart its first and last device are."""
    sizes = (1, 20) if bench.short else (1, 10, 100, 1000)
    curve: dict[str, dict[str, float]] = {}
    with dummies(sizes[-1], up=True) as devices:
        loop = compiled(HERE / "loop.c", bench.directory, libraries="libnl-cli-3.0 libnl-route-3.0")
        for size in sizes:
            ours, original = worker("worker.py"), Program(loop, *devices[:size])
            ours.hear()
            original.hear()
            ours.timed("group " + " ".join(devices[:size]))
            contestants = {
                f"{who} {action}": (lambda program=program, action=action: program.timed(action))
                for who, program in ((OURS, ours), (ORIGINAL, original))
                for action in ("buffer", "release")
            }
            found = _in_pairs(contestants, bench.rounds)
            curve[str(size)] = {name: found.of(name) for name in found.values}
            ours.close()
            original.close()
            tc_batch("qdisc del dev {} root", devices[:size])
    bench.figures["group"] = curve
    most = sizes[-1]
    for action, bound in (("buffer", 0.06), ("release", 0.15)):
        names = f"{OURS} {action}", f"{ORIGINAL} {action}"
        row = compared(found, 3, f"{action} of {most} devices", *names, bound)
        row["peer"] = f"{ORIGINAL}, a loop"
        yield row
    yield from _skew(bench, most)


def _in_pairs(contestants: dict, rounds: int) -> Measured:
    """Interleaved, but with each contestant's release right after its buffer, as in use."""
    measured = Measured()
    for number in range(-1, rounds):
        for who in (OURS, ORIGINAL) if number % 2 else (ORIGINAL, OURS):
            for action in ("buffer", "release"):
                value = contestants[f"{who} {action}"]()
                if number >= 0:
                    measured.values.setdefault(f"{who} {action}", []).append(value)
    return measured


def tc_batch(line: str, devices: list[str]) -> None:
    text = "".join(line.format(device) + "\n" for device in devices)
    subprocess.run(["tc", "-batch", "-"], input=text, text=True, check=True)


class Wire:
    """A veth pair whose other end is in a namespace of its own and notes when packets arrive, by the kernel's clock."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self._space = name, f"bench-{name}"
        self._there = f"192.0.{number}.2"
        ip(
            f"netns add {self._space}",
            f"link add {name} numtxqueues 1 numrxqueues 1 type veth peer name far netns {self._space}",
            f"addr add 192.0.{number}.1/24 dev {name}",
            f"link set {name} up",
        )
        subprocess.run(
            ["ip", "-n", self._space, "-batch", "-"],
            input=f"addr add {self._there}/24 dev far\nlink set far address 02:00:00:00:00:02\nlink set far up\n",
            text=True,
            check=True,
        )
        ip(f"neigh replace {self._there} lladdr 02:00:00:00:00:02 dev {name} nud permanent")
        self._source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        with open(f"/run/netns/{self._space}") as space:
            _setns(space.fileno())
            try:
                self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            finally:
                _setns(here)
                os.close(here)
        self._sink.settimeout(10)
        self._sink.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        self._sink.bind((self._there, 7009))

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self._source.sendto(b"x" * 58, (self._there, 7009))

    def arrived(self) -> float:
        """When the next packet arrived, on the clock of time.time()."""
        _data, ancillary, _flags, _address = self._sink.recvmsg(2048, 64)
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
        return seconds + nanoseconds / 1e9

    def close(self) -> None:
        self._source.close()
        self._sink.close()
        ip(f"link del {self.name}", f"netns del {self._space}")


def _setns(fd: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) < 0:
        raise OSError(ctypes.get_errno(), "setns")


def _skew(bench: Bench, size: int) -> Iterator[Row]:
    """The first and the last device of a group are wires: when do their packets arrive after one release?"""
    import resource

    import libnlplug

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    first, last = Wire("w0", 2), Wire("w1", 3)
    with dummies(size - 2, up=True) as between:
        plugs = [libnlplug.attach(device) for device in (first.name, *between, last.name)]
        group = libnlplug.PlugGroup(plugs)

        def loop() -> float:
            return apart(lambda: [plug.release_indefinite() for plug in plugs])

        def apart(release) -> float:
            group.buffer()
            first.send()
            last.send()
            release()
            begun = first.arrived()
            return last.arrived() - begun

        found = interleaved(
            {OURS: lambda: apart(group.release_indefinite), "a loop of libnlplug's": loop}, bench.rounds
        )
        for plug in plugs:
            plug.close()
    first.close()
    last.close()
    bench.figures["skew"] = {name: found.of(name) for name in found.values}
    what = f"release: the first of {size} devices' packets to the last one's"
    yield compared(found, 3, what, OURS, "a loop of libnlplug's")


def commands(bench: Bench) -> Iterator[Row]:
    """`libnlplug release DEV` as a whole process, started by pip's launcher in a virtual environment without more."""
    python, launcher = clean_environment(bench.directory)
    with dummies(1):
        tc(f"qdisc add dev b0 root handle {HANDLE} plug limit 100000")
        change = ("tc", "qdisc", "change", "dev", "b0", "root", "handle", HANDLE, "plug", "release_indefinite")
        contestants = {
            "libnlplug release DEV": lambda: run(launcher, "release", "b0"),
            "python3 -c 'import re'": lambda: run(python, "-c", "import re"),
            "python3 -c pass": lambda: run(python, "-c", "pass"),
            "tc qdisc change ... release_indefinite": lambda: run(*change),
        }
        try:
            import pyroute2  # noqa: F401

            script = (sys.executable, HERE / "worker_pyroute2.py", "release", "b0")
            contestants["a script of pyroute2"] = lambda: run(*script)
        except ImportError:
            pass
        found = interleaved(contestants, bench.rounds)
    bench.figures["command"] = {name: found.of(name) for name in found.values}
    yield compared(found, 5, "libnlplug release DEV", "libnlplug release DEV", "python3 -c 'import re'", 1.5)
    for name in list(contestants)[2:]:
        yield compared(found, 5, "libnlplug release DEV", "libnlplug release DEV", name)
    yield from processor_times(bench, python, launcher)


def processor_times(bench: Bench, python: Path, launcher: Path) -> Iterator[Row]:
    """What whole processes of the command take of the processor, beside the release."""
    bare = "python3 -c 'import re'"
    with dummies(1):
        tc(f"qdisc add dev b0 root handle {HANDLE} plug limit 100000")
        found = interleaved(
            {
                "libnlplug release DEV": lambda: processor_time(launcher, "release", "b0"),
                "libnlplug show": lambda: processor_time(launcher, "show"),
                "libnlplug --version": lambda: processor_time(launcher, "--version"),
                "libnlplug hold DEV -- true": lambda: processor_time(launcher, "hold", "b0", "--", "true"),
                bare: lambda: processor_time(python, "-c", "import re"),
            },
            bench.rounds,
        )
    bench.figures["command's processor time"] = {name: found.of(name) for name in found.values}
    for name, most in (
        ("libnlplug release DEV", None),
        ("libnlplug show", 1.5),
        ("libnlplug --version", 1.5),
        ("libnlplug hold DEV -- true", None),
    ):
        yield compared(found, 5, f"{name}, processor time", name, bare, most)


def clean_environment(directory: Path) -> tuple[Path, Path]:
    """A virtual environment with libnlplug and what it needs, no more, and the command as pip installs it."""
    import _cffi_backend

    import libnlplug

    home = directory / "environment"
    if not home.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
        packages = next(home.glob("lib/python*/site-packages"))
        shutil.copytree(Path(libnlplug.__file__).parent, packages / "libnlplug")
        shutil.copy(_cffi_backend.__file__, packages)
        compiled = [sys.executable, "-m", "compileall", "-q", str(packages)]  # as pip does
        subprocess.run(compiled, check=True)
        launcher = home / "bin" / "libnlplug"
        _shebang, *lines = Path(sys.executable).with_name("libnlplug").read_text().splitlines()
        launcher.write_text("\n".join([f"#!{home}/bin/python3", *lines, ""]))
        launcher.chmod(0o755)
    return home / "bin" / "python3", home / "bin" / "libnlplug"


def holds(bench: Bench) -> Iterator[Row]:
    """What a hold costs over a bare buffer and release; and the first one of a small and of a large process."""
    times = bench.size(100, 10)
    small, large = 10, 64 if bench.short else 2048
    with dummies(1):
        ours = worker("worker.py")
        ours.hear()
        ours.timed("attach b0")
        ours.timed("hold 1")
        found = interleaved(
            {
                "hold()": lambda: ours.timed(f"hold {times}") / times,
                "buffer() and release": lambda: ours.timed(f"toggle {times}") / times,
            },
            bench.size(50, 1),
        )
        over = [
            (hold - bare) / (bare / 2)
            for hold, bare in zip(found.values["hold()"], found.values["buffer() and release"])
        ]
        sizes = {size: worker("worker.py", size) for size in (small, large)}
        for program in sizes.values():
            program.hear()
        first = interleaved(
            {f"{size} MB": (lambda program=program: program.timed("first b0")) for size, program in sizes.items()},
            bench.rounds,
        )
        for program in (ours, *sizes.values()):
            program.close()
    bench.figures["hold"] = {name: measured.of(name) for measured in (found, first) for name in measured.values}
    texts = time_text(found.of("hold()")), "buffer() and release", time_text(found.of("buffer() and release"))
    yield Row(6, "a later hold(), in toggles over the bare ones", *texts, median(over), 12)
    what = f"the first hold() of an object, with its open and close, in a process of {large} MB"
    yield compared(first, 6, what, f"{large} MB", f"{small} MB", 3)


def endurance(bench: Bench) -> Iterator[Row]:
    """A million toggles, and holds among them: memory, descriptors, zombies."""
    toggles, holds, portions = bench.size(1_000_000, 2_000), bench.size(2_000, 20), 10
    with dummies(1):
        ours = worker("worker.py")
        ours.hear()
        ours.timed("attach b0")
        for warm in ("toggle 1000", "port 1000", "stats 100", "hold 20"):
            ours.timed(warm)
        before = [int(number) for number in ours.ask("memory").split()]
        for _ in range(portions):
            ours.timed(f"toggle {toggles // 2 // portions}")
            ours.timed(f"hold {holds // portions}")
            ours.timed("first b0")
        after = [int(number) for number in ours.ask("memory").split()]
        ours.close()
    resident, descriptors, zombies = (now - then for now, then in zip(after, before))
    what = f"{toggles:,} toggles, {holds:,} holds: resident memory, KiB more"
    yield Row(7, what, f"{after[0]} KiB", "before", f"{before[0]} KiB", resident, 512)
    yield Row(7, "the same: descriptors more", str(after[1]), "before", str(before[1]), descriptors, 0)
    yield Row(7, "the same: zombies", str(after[2]), "before", str(before[2]), zombies, 0)


def on_the_wire(bench: Bench) -> Iterator[Row]:
    """From the call that releases to the arrival of the first packet that was held."""
    import libnlplug

    wire = Wire("w0", 2)
    plug = libnlplug.attach(wire.name, limit=1_000_000)
    release = ("tc", "qdisc", "change", "dev", wire.name, "root", "handle", HANDLE, "plug", "release_indefinite")

    def by(how) -> float:
        plug.buffer()
        wire.send(5)
        begun = time.time()
        how()
        arrival = wire.arrived() - begun
        for _ in range(4):
            wire.arrived()
        return arrival

    def hold() -> float:
        with plug.hold(timeout=5):
            wire.send()
            begun = time.time()
        return wire.arrived() - begun

    hold()
    contestants = {
        "release_indefinite()": lambda: by(plug.release_indefinite),
        "leaving a hold()": hold,
        "a tc process": lambda: by(lambda: run(*release)),
    }
    found = interleaved(contestants, bench.rounds)
    plug.close()
    wire.close()
    bench.figures["wire"] = {name: found.of(name) for name in found.values}
    what = "from the call to the first held packet's arrival"
    yield compared(found, 8, what, "release_indefinite()", "a tc process")
    yield compared(found, 8, f"{what}, at the end of a hold", "leaving a hold()", "a tc process")


SECTIONS = (toggles, attaching, groups, commands, holds, endurance, on_the_wire)
