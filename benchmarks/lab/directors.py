# SPDX-License-Identifier: GPL-2.0-or-later
"""The directors' rules: the kernel's IPVS, told by ipvsadm."""

from __future__ import annotations

import subprocess
from functools import partial

from net import ADDRESSES, DIRECTORS, PORT, VIP, CommandFailed, inside, renew, run, settings, sh

SERVICE = f"-t {VIP}:{PORT}"
SCHEDULERS = {
    "mh": "mh -b mh-port",
    "mh-fallback": "mh -b mh-port,mh-fallback",
    "sh": "sh -b sh-port",
    "rr": "rr",
    "wrr": "wrr",
}
MODULES = ("ip_vs", "ip_vs_mh", "ip_vs_sh", "ip_vs_rr", "ip_vs_wrr", "ipip", "ip_gre")
IPIP, GRE = "-i --tun-type ipip", "-i --tun-type gre"


def load_modules() -> None:
    run(["modprobe", "-a", *MODULES])


def server(name: str, port: int = PORT) -> str:
    """A backend, in ipvsadm's words."""
    return f"-r {ADDRESSES[name]}:{port}"


def rules(
    director: str, scheduler: str, weights: dict[str, int], service: str = SERVICE, tunnel: str = IPIP, port: int = PORT
) -> None:
    """Give a director its rules, in the place of those it has: what 'systemctl restart ipvsadm' does on Debian."""
    sh(director, "ipvsadm -C")
    lines = [f"-A {service} -s {SCHEDULERS[scheduler]}"]
    lines += [f"-a {service} {server(name, port)} {tunnel} -w {weight}" for name, weight in weights.items()]
    tell(director, lines)


def tell(director: str, lines: list[str]) -> None:
    """Give lines of ipvsadm to a director, all in one process."""
    options = {"input": "\n".join(lines) + "\n", "capture_output": True, "text": True, "timeout": 60}
    done = inside(director, partial(subprocess.run, ["ipvsadm", "-R"], **options))
    if done.returncode or done.stderr:
        raise CommandFailed(f"ipvsadm -R: {done.stderr}")


def fresh(scheduler: str, weights: dict[str, int], sloppy: int = 1) -> None:
    """Make both directors anew, with the same rules."""
    renew()
    for name in DIRECTORS:
        rules(name, scheduler, weights)
        settings(name, vs__sloppy_tcp=sloppy)


def even(backends: list[str]) -> dict[str, int]:
    """The weight 1 for each of these backends."""
    return dict.fromkeys(backends, 1)


def connections_of(director: str, port: int = PORT) -> set[int]:
    """The client's ports of the connections that a director knows."""
    found = set()
    for line in sh(director, "ipvsadm -Lnc").splitlines():
        words = line.split()
        if words[:1] == ["TCP"] and words[4] == f"{VIP}:{port}":
            found.add(int(words[3].rpartition(":")[2]))
    return found
