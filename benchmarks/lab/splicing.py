# SPDX-License-Identifier: GPL-2.0-or-later
"""Splicing: the kernel moves the bytes from one socket to the other, the proxy only decides.

The engine is haproxy with ``option splice-auto``, ``splice-response`` and ``splice-request``, on the first director, in
front of busybox's httpd on three backends. haproxy.cfg, beside this file, is what runs.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, nullcontext
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from clients import PATIENCE, Cut, Population, in_words, word_for
from net import ADDRESSES, PORT, VIP, enter, network, route_to
from programs import Haproxy
from table import Found, Row, Table, milliseconds, scenario

from libnlplug import Match, PlugLane

PLACE = "d1"
CONFIG = Path(__file__).with_name("haproxy.cfg")
COUNTERS = ("TotalBytesOut", "TotalSplicd?edBytesOut")  # of 'show info'; haproxy spelt it with a d until 2.6
GB = 1e9
KB, MB = 1000, 1000000
COPIED, AUTO, RESPONSE, REQUEST = "no splicing", "splice-auto", "splice-response", "splice-request"


class Sizes(NamedTuple):
    """How much is fetched: objects of so many bytes, how often in each round."""

    objects: tuple[tuple[int, int], ...] = ((KB, 100), (100 * KB, 60), (MB, 30), (10 * MB, 5), (100 * MB, 1))
    modes: tuple[str, ...] = (AUTO, RESPONSE)
    rounds: int = 5
    uploads: tuple[int, int] = (10 * MB, 4)
    transfers: int = 6
    reloads: int = 5
    reloaded: int = 100 * MB  # far more than all the sockets' buffers hold: haproxy has most of it still to send


SHORT = Sizes(((KB, 5), (10 * MB, 1)), (RESPONSE,), 1, (MB, 1), 2, 1)
DIGEST = """\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
exec sha256sum
"""


class Files(NamedTuple):
    """The objects, in a directory; ``digests`` by their size."""

    directory: Path
    digests: dict[int, str]


def make_files(directory: Path, sizes: list[int]) -> Files:
    chance, digests = random.Random(1), {}
    (directory / "index.html").write_text("static\n")
    (directory / "cgi-bin").mkdir()
    (directory / "cgi-bin/digest").write_text(DIGEST)
    (directory / "cgi-bin/digest").chmod(0o755)
    for size in sizes:
        block = chance.randbytes(min(size, MB))
        data = block * (size // len(block) - 1) + block[::-1]
        (directory / str(size)).write_bytes(data)
        digests[size] = hashlib.sha256(data).hexdigest()
    return Files(directory, digests)


@contextmanager
def servers(files: Files, names: list[str]):
    """busybox's httpd on each of these backends."""
    started = []
    try:
        for name in names:
            words = ["busybox", "httpd", "-f", "-p", f"{ADDRESSES[name]}:{PORT}", "-h", str(files.directory)]
            started.append(subprocess.Popen(["ip", "netns", "exec", name, *words]))
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait()


def config(mode: str) -> str:
    """haproxy.cfg, but for the kind of splicing."""
    text = CONFIG.read_text()
    if mode == AUTO:
        return text.replace(f"option {RESPONSE}\n", f"option {AUTO}\n")
    return text.replace("backend dynamic\n", f"backend dynamic\n    option {REQUEST}\n") if mode == REQUEST else text


@contextmanager
def proxy(mode: str):
    with TemporaryDirectory() as directory:
        os.environ["RUN"] = directory
        haproxy = Haproxy(Path(directory), config(mode), PLACE, "-dS" if mode == COPIED else "")
        haproxy.start()
        try:
            yield haproxy
        finally:
            haproxy.end()


class Wrong(Exception):
    """Content that is not what the server has."""


def fetch(size: int, files: Files, pace=None) -> None:
    """Get one object and compare it; ``pace`` is called after each part."""
    connection = HTTPConnection(VIP, PORT, timeout=PATIENCE)
    try:
        connection.request("GET", f"/{size}")
        response = connection.getresponse()
        digest, buffer, length = hashlib.sha256(), bytearray(1 << 18), 0
        while count := response.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            length += count
            if pace:
                pace()
        if response.status != 200 or length < size:
            raise Cut
        if digest.hexdigest() != files.digests[size]:
            raise Wrong(f"an object of {size} bytes")
    finally:
        connection.close()


def upload(size: int, files: Files) -> None:
    """Send one object; the server answers with the digest of what it has got."""
    connection = HTTPConnection(VIP, PORT, timeout=60)
    try:
        connection.request("POST", "/cgi-bin/digest", (files.directory / str(size)).read_bytes())
        if connection.getresponse().read().decode().split()[0] != files.digests[size]:
            raise Wrong(f"an upload of {size} bytes")
    finally:
        connection.close()


class Cost(NamedTuple):
    """What objects took of the proxy: it sent so many bytes, some of them spliced, in so many seconds of CPU."""

    content: int
    sent: int
    spliced: int
    cpu: float

    @property
    def per_gb(self) -> float:
        return self.cpu * GB / self.content


def cost(haproxy: Haproxy, transfer, size: int, count: int, files: Files) -> Cost:
    def counts() -> tuple[int, int, float]:
        info = haproxy.say("show info")
        sent, spliced = (int(re.search(rf"^{name}: (\d+)$", info, re.M)[1]) for name in COUNTERS)
        used = Path(f"/proc/{haproxy.pid()}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sent, spliced, sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    before = counts()
    for _ in range(count):
        transfer(size, files)
    return Cost(size * count, *(new - old for new, old in zip(counts(), before)))


def in_size(size: int) -> str:
    return f"{size // MB} MB" if size >= MB else f"{size // KB} KB"


def costs(sizes: Sizes, files: Files) -> tuple[list[Row], Table]:
    """Each kind of splicing in turn, in each round; medians of the rounds."""
    found: dict[tuple[str, int], list[Cost]] = defaultdict(list)
    sent: dict[str, list[Cost]] = {COPIED: [], REQUEST: []}
    for _ in range(sizes.rounds):
        for mode in (COPIED, *sizes.modes):
            with proxy(mode) as haproxy:
                for size, count in sizes.objects:
                    found[mode, size].append(cost(haproxy, fetch, size, count, files))
        for mode in sent:
            with proxy(mode) as haproxy:
                sent[mode].append(cost(haproxy, upload, *sizes.uploads, files))
    pairs = [
        (in_size(size), count, mode, found[COPIED, size], found[mode, size])
        for size, count in sizes.objects
        for mode in sizes.modes
    ]
    size, count = sizes.uploads
    pairs.append((f"{in_size(size)}, sent to the server", count, REQUEST, *sent.values()))
    rows, lines, largest = [], [], max(size for size, _ in sizes.objects)
    for what, count, mode, *both in pairs:
        copied, spliced = (median(one.per_gb for one in costs_) for costs_ in both)
        share = f"{100 * sum(one.spliced for one in both[1]) / sum(one.sent for one in both[1]):.1f} %"
        ratio = f"{spliced / copied:.2f}" if copied else "-"
        lines.append([what, sizes.rounds * count, f"`{mode}`", share, f"{copied:.2f}", f"{spliced:.2f}", ratio])
        figure = f"{share} of the bytes spliced, {ratio} of the CPU time of copying"
        if mode != AUTO or what == in_size(largest):
            rows.append(Row(f"objects of {what}, `{mode}`", f"{sizes.rounds * count} objects", "0", "-", figure))
    head = ["objects", "how many", "option", "bytes spliced", "CPU s/GB without", "CPU s/GB with", "with/without"]
    tick = 1000 // os.sysconf("SC_CLK_TCK")
    title = f"haproxy's own CPU time, medians of {sizes.rounds} rounds, counted in ticks of {tick} ms"
    return rows, Table(title, head, lines)


def reloads(sizes: Sizes, files: Files) -> tuple[list[Row], Table]:
    """haproxy is reloaded while large objects are on their way and new connections come."""
    size = sizes.reloaded
    match = Match(ip_proto="tcp", dst_ip=VIP, dst_port=PORT, tcp_syn=True)
    lines, lost, new, on = [], {}, [], []
    for way in ("alone", "held"):
        ended: list[str] = []
        over, begun = threading.Event(), threading.Semaphore(0)
        lane = PlugLane("eth0", match, ingress=True, netns=PLACE)
        with lane, proxy(RESPONSE) as haproxy, Population() as population:
            threads = [
                threading.Thread(target=transfer, args=(size, files, over, begun, ended))
                for _ in range(sizes.transfers)
            ]
            for thread in threads:
                thread.start()
            for _ in threads:
                if not begun.acquire(timeout=20):
                    raise RuntimeError(f"a transfer does not begin: {ended}")
            for _ in range(sizes.reloads):
                with lane.hold(timeout=30) if way == "held" else nullcontext():
                    haproxy.reload()
                time.sleep(0.2)
            on.append(sizes.transfers - len(ended))
            over.set()
            for thread in threads:
                thread.join()
        if len(ended) < sizes.transfers:
            raise RuntimeError("a transfer ended with an error that has no word")
        new.append(population.count("short"))
        cut, refused = Counter(word for word in ended if word != "ok"), population.lost("short")
        lost[way] = in_words(cut + refused)
        worst = milliseconds(population.worst("short"))
        lines.append([way, sizes.transfers, on[-1], in_words(cut), new[-1], in_words(refused), worst])
    head = ["", "transfers", "on their way after the last reload", "cut", "new connections", "lost", "worst wait"]
    title = f"`haproxy -sf`, {sizes.reloads} times while objects of {in_size(size)} are on their way"
    what = f"haproxy is reloaded {sizes.reloads} times in mid-transfer"
    counted = f"{2 * sizes.transfers} transfers of {in_size(size)}; {new[0]} + {new[1]} new connections"
    figure = f"{sum(on)} of {2 * sizes.transfers} were still on their way after the last reload"
    return [Row(what, counted, lost["alone"], lost["held"], figure)], Table(title, head, lines)


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


def splicing(short: bool) -> Found:
    sizes = SHORT if short else Sizes()
    with TemporaryDirectory() as directory, network(backends=3) as backends:
        files = make_files(Path(directory), [size for size, _ in (*sizes.objects, sizes.uploads, (sizes.reloaded, 1))])
        route_to(PLACE)
        enter("client")
        with servers(files, backends):
            cost_rows, cost_table = costs(sizes, files)
            reload_rows, reload_table = reloads(sizes, files)
    note = "Every object was compared with the server's by its SHA-256: all were the same, spliced or not."
    return Found([*cost_rows, *reload_rows], [cost_table, reload_table], [note])


if __name__ == "__main__":
    scenario(splicing)
