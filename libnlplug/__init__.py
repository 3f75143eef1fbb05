# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug: hold the packets of a Linux network device and let them go again, with the plug queueing discipline.

    import libnlplug

    with libnlplug.attach("eth0", limit=32 << 20) as plug:
        plug.buffer()
        ...
        plug.release_indefinite()

A hold stops traffic. Everything public is named here; libnlplug.plug_qdisc is the drop-in port of haproxy's
plug_qdisc.c.
"""

try:
    import os as _os
    import sys as _sys

    # What _libnl calls is looked up now, as its own flag says; what libnl calls, 500 functions, when it is called.
    _flags = _sys.getdlopenflags()
    _sys.setdlopenflags(_flags & ~_os.RTLD_NOW | _os.RTLD_LAZY)
    from . import _libnl as _libnl
except ImportError as error:
    loading = (error.path or "").endswith(".so")  # glibc's words or musl's: a library is missing, or a function in it
    reason = str(error).replace(error.path or "", "")  # a folder may have any name
    if not loading or ("libnl-" not in reason and "symbol" not in reason):
        raise
    words = reason.replace(":", " ").split()
    function = next((name for name in words if name.startswith(("nl_", "nla_", "nlmsg_", "rtnl_"))), "")
    old = f"what is here is too old, without {function}(): " if function else ""
    raise ImportError(
        f"libnlplug needs the system's libnl-3 and libnl-route-3, version 3.2.29 or newer ({old}{error}): upgrade or"
        " install libnl-3-200 and libnl-route-3-200 (Debian, Ubuntu), libnl3 (Fedora, RHEL, Alpine) or libnl (Arch)"
    ) from None
finally:
    _sys.setdlopenflags(_flags)

from .errors import (
    ClassNotFound,
    DeviceNotFound,
    GroupError,
    GuardUnavailable,
    HandleInUse,
    HoldExpired,
    InvalidHandle,
    NetlinkError,
    NetnsNotFound,
    NotDrained,
    NotPermitted,
    ParentNotClassful,
    ParentNotFound,
    PlugBusy,
    PlugUnavailable,
    QdiscExists,
    QdiscNotFound,
)
from .qdisc import PlugQdisc, PlugStats, attach
from .route import ClosedError, ForkedError

# What an import of the package can do without is loaded when it is first named.
_LATER = {
    "HoldReport": "hold",
    "Holder": "guard",
    "LaneShadowed": "lane",
    "Match": "match",
    "PacketsDropped": "hold",
    "PlugGroup": "group",
    "PlugLane": "lane",
    "__version__": "_version",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._version import __version__
    from .group import PlugGroup
    from .guard import Holder
    from .hold import HoldReport, PacketsDropped
    from .lane import LaneShadowed, PlugLane
    from .match import Match

__all__ = [
    "ClassNotFound",
    "ClosedError",
    "DeviceNotFound",
    "ForkedError",
    "GroupError",
    "GuardUnavailable",
    "HandleInUse",
    "HoldExpired",
    "HoldReport",
    "Holder",
    "InvalidHandle",
    "LaneShadowed",
    "Match",
    "NetlinkError",
    "NetnsNotFound",
    "NotDrained",
    "NotPermitted",
    "PacketsDropped",
    "ParentNotClassful",
    "ParentNotFound",
    "PlugBusy",
    "PlugGroup",
    "PlugLane",
    "PlugQdisc",
    "PlugStats",
    "PlugUnavailable",
    "QdiscExists",
    "QdiscNotFound",
    "__version__",
    "attach",
]
