# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to libnl: the compiled module, or one ImportError that says what to install.

Everything in this package that needs libnl takes ``ffi`` and ``lib`` from here.
"""

from __future__ import annotations

import os
import sys

__all__ = ["ffi", "lib"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._libnl import CData as CData


def _explained(error: ImportError) -> ImportError | None:
    """What to install where libnl is missing or too old; None where something else is wrong with the module."""
    reason = str(error).replace(error.path or "", "")  # a folder may have any name
    from_loader = (error.path or "").endswith(".so")  # glibc's words or musl's
    if not from_loader or ("libnl-" not in reason and "symbol" not in reason):
        return None
    words = reason.replace(":", " ").split()
    function = next((name for name in words if name.startswith(("nl_", "nla_", "nlmsg_", "rtnl_"))), "")
    old = f"this system's version is too old, without {function}(): " if function else ""
    return ImportError(
        f"libnlplug needs the system's libnl-3 and libnl-route-3, version 3.2.29 or newer ({old}{error}): upgrade or"
        " install libnl-3-200 and libnl-route-3-200 (Debian, Ubuntu), libnl3 (Fedora, RHEL, Alpine) or libnl (Arch)"
    )


_flags = sys.getdlopenflags()
try:
    # What _libnl calls is looked up now, as its own flag says; what libnl calls, 500 functions, when it is called.
    sys.setdlopenflags(_flags & ~os.RTLD_NOW | os.RTLD_LAZY)
    from .._libnl import ffi, lib
except ImportError as error:
    explained = _explained(error)
    if explained is None:
        raise
    raise explained from None
finally:
    sys.setdlopenflags(_flags)
