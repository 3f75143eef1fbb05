# SPDX-License-Identifier: GPL-2.0-or-later
"""What the proxy of splicing.py is asked for: objects of given sizes, on busybox's httpd; each one is compared."""

from __future__ import annotations

import hashlib
import random
import subprocess
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from clients import PATIENCE, Cut
from net import ADDRESSES, PORT, VIP

KB, MB = 1000, 1000000
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
