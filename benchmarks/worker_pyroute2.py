# SPDX-License-Identifier: GPL-2.0-or-later
"""pyroute2 as a contestant: toggle N on the plug of a device, or one release as a whole script ('release DEV').
With 'fifo DEV' a pfifo is there in the plug's place: toggles change its limit to 100 and 101."""

from __future__ import annotations

import sys

from pyroute2 import IPRoute

HANDLE = 0x504C_0000


def main() -> None:
    release_only, fifo, device = sys.argv[1] == "release", sys.argv[1] == "fifo", sys.argv[-1]
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=device)

        def send(action: str) -> None:  # the kernel's names: anything else, as 'release', is taken for TCQ_PLUG_BUFFER
            route.tc("change", "plug", index, handle=HANDLE, root=True, action=action)

        def change(limit: int) -> None:
            route.tc("change", "pfifo", index, handle=HANDLE, root=True, limit=limit)

        if release_only:
            send("TCQ_PLUG_RELEASE_INDEFINITE")
            return
        print(0, flush=True)
        for line in sys.stdin:
            for _ in range(int(line.split()[1])):
                if fifo:
                    change(100)
                    change(101)
                else:
                    send("TCQ_PLUG_BUFFER")
                    send("TCQ_PLUG_RELEASE_INDEFINITE")
            print(0, flush=True)


if __name__ == "__main__":
    main()
