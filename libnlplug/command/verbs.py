# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs: the functions of the verbs that need only a few lines."""

from __future__ import annotations

from .advice import elsewhere
from .output import say
from .table import DONE, FAILED

__all__ = ["attach", "buffer", "detach", "doctor", "limit", "opened", "release"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..guard.holders import Holder
    from ..plug import PlugQdisc
    from .parser import Args


def attach(args: Args) -> int:
    """libnlplug attach DEV"""
    from ..attaching import attach as attach_plug

    attach_plug(device_named(args), parent=args.parent, handle=args.handle, limit=args.limit, netns=args.netns).close()
    return DONE


def device_named(args: Args) -> str:
    """Return the device's name without the '@if2' that ip writes after it. (A name may have an @ itself.)"""
    device: str = args.dev
    if "@" in device:
        from ..errors import DeviceNotFound
        from ..netlink.route_socket import RouteSocket

        try:
            RouteSocket(args.netns).ifindex_of(device)
        except DeviceNotFound:
            vars(args)["dev"] = device = device.partition("@")[0]
    return device


def opened(args: Args) -> PlugQdisc:
    """Open the device's plug."""
    from ..plug import PlugQdisc

    return PlugQdisc.open(device_named(args), parent=args.parent, netns=args.netns)


def buffer(args: Args) -> int:
    """libnlplug buffer DEV"""
    plug = opened(args)
    if args.timeout:
        plug.hold_detached(args.timeout)
        return DONE
    plug.refuse_while_held("buffer on")
    plug.buffer()
    return DONE


def release(args: Args) -> int:
    """libnlplug release DEV"""
    plug = opened(args)
    if args.one:
        plug.release_one()
        return DONE
    holder = plug.holder()
    plug.release_indefinite()
    if holder is not None:
        _tell(args, plug, holder)
    return DONE


def _tell(args: Args, plug: PlugQdisc, holder: Holder) -> None:
    """End the guard of a 'buffer --timeout', or say who holds the plug and does not know that it was released."""
    if not holder.detached:
        from ..guard.holders import called

        what = "has the plug's mark and may hold it" if holder.foreign else "still holds it and was not told"
        say(f"released {args.dev}, but {called(holder)} {what}")
        return
    if plug.end_detached():
        plug.release_indefinite()
    else:
        who = f"process {holder.pid}" if holder.pid else "in another pid namespace"
        sentence = f"released {args.dev}; its guard, {who}, cannot be ended from here and keeps others from holding"
        say(elsewhere(sentence, args))


def limit(args: Args) -> int:
    """libnlplug limit DEV SIZE"""
    opened(args).set_limit(args.size)
    return DONE


def detach(args: Args) -> int:
    """libnlplug detach DEV"""
    opened(args).detach()
    return DONE


def doctor(args: Args) -> int:
    """libnlplug doctor"""
    from .. import doctor

    checks = doctor.examine()
    print(doctor.as_json(checks) if args.json else doctor.report(checks))
    return DONE if doctor.can_hold(checks) else FAILED
