#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Feed everything that parses with what nobody would send: python -m tests.fuzz.run [--cases N] [--seed N] [TARGET...]

Each target of targets.py is tried by hypothesis and by atheris, which looks for bytes that reach new lines; where there
is no atheris for this Python, by chance. The C files are also tried under gcc's sanitizers. A case that raises, kills
the process, or comes to no end is a finding, kept in build/fuzz/: 'python -m tests.fuzz.run --again FILE TARGET'
repeats it. The exit status is 1 where something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import mmap
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "fuzz"
LONGEST = 600  # bytes of a case
PATIENCE = 30  # seconds without a new case
MEMORY = 4 << 30
C_FILES = {
    "guard_in_c": ("guard_cases.c", "guard_words"),
    "exchange_in_c": ("exchange_cases.c", "datagrams"),
    "hook_in_c": ("hook_cases.c", "chains"),
}
SANITIZED = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-return-type"


class Progress:
    """What a child is at, in a file that outlives it: how many cases it has begun, and the bytes of the last one."""

    HEAD = struct.Struct("=QI")

    def __init__(self, path: Path, *, new: bool = False) -> None:
        if new:
            path.write_bytes(bytes(mmap.PAGESIZE))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def begin(self, case: bytes) -> None:
        count = self.HEAD.unpack_from(self._map)[0]
        self._map[: self.HEAD.size + len(case)] = self.HEAD.pack(count + 1, len(case)) + case

    @property
    def count(self) -> int:
        return int(self.HEAD.unpack_from(self._map)[0])

    @property
    def case(self) -> bytes:
        length = self.HEAD.unpack_from(self._map)[1]
        return self._map[self.HEAD.size : self.HEAD.size + length]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000, help="of each target, and a tenth more by hypothesis")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--again", type=Path, metavar="FILE", help="only this case")
    parser.add_argument("--child", metavar="ENGINE", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.targets[0], options.cases, options.seed)
    if options.again:
        return again(options.again, options.targets[0])
    return parent(options)


# -- one engine at one target, in a process of its own


def child(engine: str, name: str, cases: int, seed: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["libnlplug"]):
            from tests.fuzz import targets
    else:
        from tests.fuzz import targets
    from tests.fuzz.source import Source

    progress = Progress(OUT / f"{name}.{engine}")
    found: set[str] = set()
    targets.alone()

    def attempt(data: bytes) -> None:
        progress.begin(data)
        try:
            targets.TARGETS[name](Source(data))
        except SystemExit as end:
            raise AssertionError(f"it would have ended the process with {end.code}") from end

    def noted(data: bytes) -> None:
        try:
            attempt(data)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            if f"{where.filename}:{where.lineno}" not in found:
                found.add(f"{where.filename}:{where.lineno}")
                note(name, engine, data, traceback.format_exc())

    if engine == "hypothesis":
        by_hypothesis(name, attempt, cases, seed)
    elif engine == "chance":
        for data in by_chance(cases, seed):
            noted(data)
    else:
        corpus = OUT / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        limits = [
            f"-runs={cases}",
            f"-max_len={LONGEST}",
            f"-seed={seed}",
            f"-timeout={PATIENCE}",
            "-rss_limit_mb=2048",
        ]
        # Without a corpus it would begin with the shortest cases, and stay there for long.
        for number, data in enumerate(by_chance(100, 1)):
            (corpus / f"chance-{number}").write_bytes(data)
        atheris.Setup(
            [sys.argv[0], *limits, "-len_control=0", "-verbosity=0", f"-artifact_prefix={OUT}/", str(corpus)], noted
        )
        atheris.Fuzz()
    return 0


def by_hypothesis(name: str, attempt: object, cases: int, seed: int) -> None:
    import hypothesis
    from hypothesis import strategies as st

    last = b""

    def one(data: bytes) -> None:
        nonlocal last
        last = data
        attempt(data)  # type: ignore[operator]

    tried = hypothesis.given(st.binary(max_size=LONGEST))(one)
    quiet = list(hypothesis.HealthCheck)
    tried = hypothesis.settings(max_examples=cases, database=None, deadline=None, suppress_health_check=quiet)(tried)
    try:
        hypothesis.seed(seed)(tried)()
    except Exception:
        note(name, "hypothesis", last, traceback.format_exc())


def by_chance(cases: int, seed: int):
    chosen = random.Random(seed)
    for _ in range(cases):
        yield chosen.randbytes(chosen.randrange(1, chosen.choice((8, 64, LONGEST))))


def note(name: str, engine: str, data: bytes, words: str) -> None:
    """Keep a finding: the case, and beside it what came of it."""
    file = OUT / "found" / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.with_name(f"{file.name}.txt").write_text(f"{name}, {engine}\n{words}")


def again(file: Path, name: str) -> int:
    from tests.fuzz import targets
    from tests.fuzz.source import Source

    targets.alone()
    targets.TARGETS[name](Source(file.read_bytes()))
    print("nothing is found")
    return 0


# -- all of them


def parent(options: argparse.Namespace) -> int:
    from tests.fuzz import targets

    wanted = options.targets or [*targets.TARGETS, *C_FILES]
    unknown = set(wanted) - {*targets.TARGETS, *C_FILES}
    if unknown:
        raise SystemExit(f"fuzz: no such target: {', '.join(unknown)}; there are {', '.join(targets.TARGETS)}")
    shutil.rmtree(OUT / "found", ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    guided = "atheris" if importlib.util.find_spec("atheris") else "chance"
    print(f"seed {options.seed}; Python {sys.version.split()[0]}, hypothesis and {guided}\n", flush=True)
    print(f"| target           | hypothesis | {guided:>10} | seconds | findings |\n|---|---|---|---|---|", flush=True)
    total = 0
    for name in wanted:
        begun = time.monotonic()
        if name in C_FILES:
            counts = ["-", in_c(name, options.cases, options.seed)]
        else:
            engines = (("hypothesis", options.cases // 10), (guided, options.cases))
            counts = [in_child(engine, name, cases, options.seed) for engine, cases in engines]
        found = len(list((OUT / "found").glob(f"{name}-*.txt")))
        total += found
        first, second = (f"{count:,}" if isinstance(count, int) else count for count in counts)
        seconds = time.monotonic() - begun
        print(f"| {name:<16} | {first:>10} | {second:>10} | {seconds:7.0f} | {found:8} |", flush=True)
    for file in sorted((OUT / "found").glob("*.txt")):
        print(f"\n{file.with_suffix('')}\n{file.read_text()}")
    return 1 if total else 0


def in_child(engine: str, name: str, cases: int, seed: int) -> int:
    """How many cases it tried. That it died, or was at one case for too long, is a finding too."""
    progress = Progress(OUT / f"{name}.{engine}", new=True)
    options = ["--child", engine, "--cases", str(cases), "--seed", str(seed)]
    command = [sys.executable, "-m", "tests.fuzz.run", *options, name]
    with open(OUT / f"{name}.{engine}.log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        count, since = -1, time.monotonic()
        why = ""
        while not why:
            try:
                status = process.wait(1)
                early = status or progress.count < cases
                why = f"it ended with {status} at case {progress.count}" if early else "-"
            except subprocess.TimeoutExpired:
                if progress.count != count:
                    count, since = progress.count, time.monotonic()
                elif time.monotonic() - since > 2 * PATIENCE:
                    process.kill()
                    process.wait()
                    why = "it came to no end"
        if why != "-":
            log.seek(0)
            note(name, engine, progress.case, f"{why}\n{log.read()[-4000:]}")
    return progress.count


def in_c(name: str, cases: int, seed: int) -> int | str:
    """The same with a C file under the sanitizers."""
    from tests.fuzz import targets
    from tests.fuzz.source import Source

    file, maker = C_FILES[name]
    program = OUT / file.removesuffix(".c")
    command = [
        "gcc",
        *SANITIZED.split(),
        "-I",
        str(ROOT / "vendor_headers"),
        "-I",
        str(ROOT / "libnlplug"),
        "-o",
        str(program),
        str(HERE / file),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "no gcc"
    if done.returncode:
        if "lasan" in done.stderr or "lubsan" in done.stderr:
            return "no libasan"
        raise SystemExit(done.stderr)
    made = [getattr(targets, maker)(Source(data)) for data in by_chance(cases, seed)]
    frames = (struct.pack("=I", len(parts)) + b"".join(struct.pack("=I", len(p)) + p for p in parts) for parts in made)
    (OUT / f"{name}.cases").write_bytes(b"".join(frames))
    with open(OUT / f"{name}.cases", "rb") as cases_file, open(OUT / f"{name}.progress", "w+b") as progress:
        progress.write(bytes(8))
        progress.flush()

        def prepare() -> None:
            targets.alone()
            os.dup2(progress.fileno(), 3)

        try:
            limit = PATIENCE + cases / 1000
            run = {"stdin": cases_file, "capture_output": True, "preexec_fn": prepare, "close_fds": False}
            done = subprocess.run([program], timeout=limit, text=True, errors="replace", **run)  # type: ignore[call-overload]
            why = done.stderr[-4000:] or f"it ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            why = f"it came to no end within {limit:.0f} s"
        progress.seek(0)
        count = int.from_bytes(progress.read(8), sys.byteorder)
    why = why or ("it ended early" if count + 1 < cases else "")
    if why:
        note(name, "sanitizers", repr(made[count]).encode(), why)
    return count + 1


if __name__ == "__main__":
    sys.exit(main())
