# SPDX-License-Identifier: GPL-2.0-or-later
"""Splicing: the kernel moves the bytes from one socket to the other, the proxy only decides.

The engine is haproxy with ``option splice-auto``, ``splice-response`` and ``splice-request``, on the first director, in
front of busybox's httpd on three backends. haproxy.cfg, beside this file, is what runs.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clients import Cut, Population, word_for
from net import PORT, VIP, enter, network, route_to
from objects import KB, MB, Files, Wrong, fetch, make_files, servers, upload
from programs import Haproxy, haproxies
from repeat import Case, Seen, program, some

from libnlplug import Match, PlugLane

PLACE = "d1"
CONFIG = Path(__file__).with_name("haproxy.cfg")
SENT, SPLICED = "TotalBytesOut", "TotalSplicd?edBytesOut"  # of 'show info'; older versions spell it with a d
GB = 1e9
COPIED, AUTO, RESPONSE, REQUEST = "no splicing", "splice-auto", "splice-response", "splice-request"


class Sizes(NamedTuple):
    """How much one measurement fetches: objects of so many bytes, and how many of them."""

    objects: tuple[tuple[int, int], ...] = ((KB, 60), (100 * KB, 60), (MB, 20), (10 * MB, 4), (100 * MB, 1))
    uploads: tuple[int, int] = (10 * MB, 2)
    transfers: int = 6
    reloads: int = 2
    reloaded: int = 100 * MB  # far more than all the sockets' buffers hold: haproxy has most of it still to send


ROWS = {KB: "S1", 100 * KB: "S2", MB: "S3", 10 * MB: "S4", 100 * MB: "S5"}
FULL, SHORT = Sizes(), Sizes(((10 * MB, 1),), (MB, 1), 2, 1, 50 * MB)


def config(mode: str) -> str:
    """haproxy.cfg, but for the kind of splicing."""
    text = CONFIG.read_text()
    if mode == AUTO:
        return text.replace(f"option {RESPONSE}\n", f"option {AUTO}\n")
    return text.replace("backend dynamic\n", f"backend dynamic\n    option {REQUEST}\n") if mode == REQUEST else text


@contextmanager
def proxy(mode: str, version: str):
    with TemporaryDirectory() as directory:
        os.environ["RUN"] = directory
        options = "-dS" if mode == COPIED else ""
        haproxy = Haproxy(Path(directory), config(mode), PLACE, options, haproxies()[version])
        haproxy.start()
        try:
            yield haproxy
        finally:
            haproxy.end()


class Cost(NamedTuple):
    """What objects took of the proxy: the share of the bytes that were spliced, seconds of CPU for each GB."""

    counter: str  # haproxy's name for the spliced bytes
    spliced: float
    per_gb: float


def cost(haproxy: Haproxy, transfer, size: int, count: int, files: Files) -> Cost:
    def counts() -> tuple[int, int, float]:
        info = haproxy.say("show info")
        sent, spliced = (int(re.search(rf"^{name}: (\d+)$", info, re.M)[1]) for name in (SENT, SPLICED))
        return sent, spliced, time.clock_gettime(~haproxy.pid() << 3 | 2)  # the CPU clock of another process

    before = counts()
    for _ in range(count):
        transfer(size, files)
    sent, spliced, cpu = (new - old for new, old in zip(counts(), before))
    counter = re.search(rf"^({SPLICED}): ", haproxy.say("show info"), re.M)[1]
    return Cost(counter, spliced / sent, cpu * GB / (size * count))


def in_size(size: int) -> str:
    return f"{size // MB} MB" if size >= MB else f"{size // KB} KB"


def costs(transfer, size: int, count: int, files: Files, mode: str, version: str) -> Seen:
    """The same objects by a proxy that copies, then by one that splices."""
    found = {}
    for one in (COPIED, mode):
        with proxy(one, version) as haproxy:
            transfer(size, files)  # the first one pays for what later ones find
            found[one] = cost(haproxy, transfer, size, count, files)
    copied, spliced = found.values()
    figures = {
        f"`{spliced.counter}`, % of the bytes": 100 * spliced.spliced,
        "CPU s/GB copied": copied.per_gb,
        "CPU s/GB with the option": spliced.per_gb,
    }
    if copied.per_gb:
        figures["CPU with/without"] = spliced.per_gb / copied.per_gb
    return Seen(2 * count, {}, figures)


def reloads(sizes: Sizes, files: Files, hold: bool, version: str) -> Seen:
    """haproxy is reloaded while large objects are on their way and new connections come."""
    match = Match(ip_proto="tcp", dst_ip=VIP, dst_port=PORT, tcp_syn=True)
    ended: list[str] = []
    over, begun = threading.Event(), threading.Semaphore(0)
    lane = PlugLane("eth0", match, ingress=True, netns=PLACE)
    with lane, proxy(RESPONSE, version) as haproxy, Population() as population:
        arguments = sizes.reloaded, files, over, begun, ended
        threads = [threading.Thread(target=transfer, args=arguments) for _ in range(sizes.transfers)]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                if not begun.acquire(timeout=20):
                    raise RuntimeError(f"a transfer does not begin: {ended}")
            for _ in range(sizes.reloads):
                with lane.hold(timeout=30) if hold else nullcontext():
                    haproxy.reload()
                time.sleep(0.2)
            on = sizes.transfers - len(ended)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    if len(ended) < sizes.transfers:
        raise RuntimeError("a transfer ended with an error that has no word")
    cut = Counter(word for word in ended if word != "ok")
    figures = {
        "transfers": sizes.transfers,
        "still on their way after the last reload": on,
        "transfers lost": sum(cut.values()),
        "longest wait, ms": round(1000 * population.worst("short")),
    }
    return Seen(population.count("short") + sizes.transfers, cut + population.lost("short"), figures)


def transfer(size: int, files: Files, over: threading.Event, begun: threading.Semaphore, ended: list[str]) -> None:
    """Get one object, slowly until the reloads are over."""
    enter("client")
    told = False

    def pace() -> None:
        nonlocal told
        if not told:
            begun.release()
            told = True
        over.wait(0.05)

    try:
        fetch(size, files, pace)
        ended.append("ok")
    except (HTTPException, Wrong):
        ended.append("cut short")
    except (OSError, Cut) as error:
        ended.append(word_for(error))


def cases(sizes: Sizes, files: Files) -> list[Case]:
    found = []
    for size, count in sizes.objects:
        modes = (RESPONSE, AUTO) if size >= 10 * MB else (RESPONSE,)
        ways = {
            f"{version}, `{mode}`": partial(costs, fetch, size, count, files, mode, version)
            for mode in modes
            for version in haproxies()
        }
        found.append(Case(ROWS[size], f"objects of {in_size(size)}, copied and spliced", "objects", ways))
    size, count = sizes.uploads
    ways = {f"{one}, `{REQUEST}`": partial(costs, upload, size, count, files, REQUEST, one) for one in haproxies()}
    found.append(Case("S6", f"objects of {in_size(size)}, sent to the server", "objects", ways))
    ways = {
        f"{version}, {way}": partial(reloads, sizes, files, way == "held", version)
        for version in haproxies()
        for way in ("alone", "held")
    }
    objects = f"{sizes.transfers} objects of {in_size(sizes.reloaded)}"
    what = f"haproxy is reloaded {sizes.reloads} times while {objects} are on their way"
    return [*found, Case("S7", what, "transfers and new connections", ways)]


@contextmanager
def splicing(short: bool) -> Iterator[list[Case]]:
    sizes = SHORT if short else FULL
    with TemporaryDirectory() as directory, network(backends=3) as backends:
        needed = {size for size, _ in (*sizes.objects, sizes.uploads)} | {sizes.reloaded}
        files = make_files(Path(directory), sorted(needed))
        route_to(PLACE)
        enter("client")
        with servers(files, backends):
            every = cases(sizes, files)
            host = next(iter(haproxies()))
            ways = {"S4": [f"{host}, `{RESPONSE}`"], "S7": [f"{host}, held"]}
            yield some(every, ways) if short else every


if __name__ == "__main__":
    program(splicing)
