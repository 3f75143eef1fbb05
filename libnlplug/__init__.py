# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug: hold the packets of a Linux network device and let them go again, with the plug queueing discipline.

    import libnlplug

    with libnlplug.attach("eth0", limit=32 << 20) as plug:
        plug.buffer()
        ...
        plug.release_indefinite()

A hold stops traffic. Every public name is in the table below, and is loaded when it is first used; without the system's
libnl that raises an ImportError which says what to install. libnlplug.plug_qdisc is the drop-in port of haproxy's
plug_qdisc.c.
"""

_MODULES = {
    "_version": ("__version__",),
    "attaching": ("attach",),
    "errors": (
        "ClassNotFound",
        "ClosedError",
        "DeviceNotFound",
        "ForkedError",
        "GuardUnavailable",
        "HandleInUse",
        "HoldExpired",
        "InvalidHandle",
        "NetlinkError",
        "NetnsNotFound",
        "NotDrained",
        "NotPermitted",
        "ParentNotClassful",
        "ParentNotFound",
        "PlugBusy",
        "PlugUnavailable",
        "QdiscExists",
        "QdiscNotFound",
    ),
    "group": ("GroupError", "PlugGroup"),
    "guard.holders": ("Holder",),
    "hold": ("HoldReport", "PacketsDropped", "PacketsUncounted"),
    "lane.hold": ("BacklogTooSmall", "LaneReport"),
    "lane.lane": ("LaneShadowed", "PlugLane"),
    "lane.match": ("Match",),
    "plug": ("PlugQdisc", "PlugStats"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_ROOMS = {module.partition(".")[0] for module in _MODULES}  # type checkers see these as attributes, too

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        room: object = __import__(f"{__name__}.{name}", fromlist=("__name__",))
        return room
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{_MODULE_OF[name]}", fromlist=(name,))
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_ROOMS})
