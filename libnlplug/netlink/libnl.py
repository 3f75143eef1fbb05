# SPDX-License-Identifier: GPL-2.0-or-later
"""Import the compiled module ``_libnl``, or raise an ImportError that says what to install.

All other modules import ``ffi`` and ``lib`` from here, and check() what libnl's functions return.
"""

from __future__ import annotations

import os
import sys

from ..errors import NetlinkError

__all__ = ["check", "ffi", "lib"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._libnl import CData as CData


def _explained(error: ImportError) -> ImportError | None:
    """Return an error that says what to install if libnl is missing or too old, or None for any other cause."""
    reason = str(error).replace(error.path or "", "")  # a folder may have any name
    from_loader = (error.path or "").endswith(".so")  # glibc's words or musl's
    if not from_loader or ("libnl-" not in reason and "symbol" not in reason):
        return None
    words = reason.replace(":", " ").split()
    function = next((name for name in words if name.startswith(("nl_", "nla_", "nlmsg_", "rtnl_"))), "")
    old = f"this system's version is too old, without {function}(): " if function else ""
    return ImportError(
        f"libnlplug needs the system's libnl-3 and libnl-route-3, version 3.4 or newer ({old}{error}): upgrade or"
        " install libnl-3-200 and libnl-route-3-200 (Debian, Ubuntu), libnl3 (Fedora, RHEL, Alpine) or libnl (Arch)"
    )


_flags = sys.getdlopenflags()
try:
    # Look up the 500 functions that libnl calls only when it calls them. _libnl is linked to look up its own now.
    sys.setdlopenflags(_flags & ~os.RTLD_NOW | os.RTLD_LAZY)
    from .._libnl import ffi, lib
except ImportError as error:
    explained = _explained(error)
    if explained is None:
        raise
    raise explained from None
finally:
    sys.setdlopenflags(_flags)


def check(result: int, operation: str) -> int:
    """Return the ``result`` of a libnl function if it is 0 or positive; otherwise raise NetlinkError."""
    if result < 0:
        why = ffi.string(lib.nl_geterror(result)).decode("utf-8", "replace")
        raise NetlinkError(None, f"cannot {operation}: libnl: {why}", operation, code=result)
    return result
