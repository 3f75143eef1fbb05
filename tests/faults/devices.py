# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to the device, to its namespace or to its qdisc."""

from __future__ import annotations

import os
import random
import subprocess

from libnlplug import PlugQdisc
from tests.faults.flow import Flow, now, process_gone
from tests.faults.trial import TOLD, held, killed, need, stay
from tests.support.netlab import Wire, random_name, up


def _told(flow: Flow, spoil, *, kill: bool = False) -> float:
    """The holder is told when it leaves the block, or its guard ends when it is killed."""
    own = Flow()
    try:
        with held(own) as holder:
            spoil(own)
            if kill:
                event = holder.kill()
            else:
                event = now()
                holder.page["note"] = 1
            gone = own.until(lambda: holder.dead() and process_gone(holder.page["guard"]), files=[holder.pidfd])
            need(gone, "the holder or its guard hangs")
            need(kill or holder.status == TOLD, f"the holder was not told: status {holder.status}")
            return own.delay(event, now() if kill else holder.page["phase"])
    finally:
        own.close()


def _remove(flow: Flow) -> None:
    flow.near.ip(f"link del {flow.device}")


def _move(flow: Flow) -> None:
    flow.near.ip(f"link set {flow.device} netns {flow.far.path}")


def removed(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _remove)


def removed_and_killed(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _remove, kill=True)


def moved(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _move)


def moved_and_killed(flow: Flow, chance: random.Random) -> float:
    return _told(flow, _move, kill=True)


def renamed(flow: Flow, chance: random.Random) -> float:
    name = random_name()
    with held(flow) as holder:
        flow.near.ip(f"link set {flow.device} down", f"link set {flow.device} name {name}", *up(name, Wire.NEAR))
        flow.near.ip(f"neigh replace {Wire.FAR} lladdr {Wire.FAR_MAC} dev {name} nud permanent")
        flow.device = name
        flow.begin()  # setting it down has emptied the queue
        need(flow.stands_still(0.01), "the hold did not go on")
        return killed(flow, holder)


def namespace_deleted(flow: Flow, chance: random.Random) -> float:
    name = random_name()
    sleeper = flow.near.run(subprocess.Popen, ["sleep", "60"])
    try:
        need(
            flow.until(lambda: os.stat(f"/proc/{sleeper.pid}/ns/net").st_ino == os.fstat(flow.near.fileno()).st_ino), ""
        )
        subprocess.run(["ip", "netns", "attach", name, str(sleeper.pid)], check=True)
        try:
            with held(flow, lambda page: stay(PlugQdisc.open(flow.device, netns=name), page)) as holder:
                subprocess.run(["ip", "netns", "del", name], check=True)
                sleeper.kill()
                return killed(flow, holder)
        finally:
            if os.path.exists(f"/run/netns/{name}"):
                subprocess.run(["ip", "netns", "del", name], check=True)
    finally:
        sleeper.kill()
        sleeper.wait()


def replaced(flow: Flow, chance: random.Random) -> float:
    """Somebody else's qdisc takes the plug's place, and drops what that held: the holder is told."""
    own = Flow()
    try:
        with held(own) as holder:
            own.near.tc(f"qdisc replace dev {own.device} root handle 77: pfifo")
            own.begin()
            event = now()
            holder.page["note"] = 1
            need(own.until(holder.dead), "the holder hangs")
            need(holder.status == TOLD, f"the holder was not told: status {holder.status}")
            need(own.flows(), "traffic does not flow")
            return own.worst_wait(event)
    finally:
        own.close()
