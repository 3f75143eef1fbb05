# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose by a BPF program which listener of a SO_REUSEPORT group gets new connections, and count them.

This is what servers did before ``tcp_migrate_req``: the program gives no more SYNs to the old listener, which accepts
what it still has to get, and closes. The program is loaded by bpf(2) itself; no library is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct

MAP_CREATE, LOOKUP, UPDATE, PROG_LOAD = 0, 1, 2, 5  # enum bpf_cmd
ARRAY, SOCKET_FILTER = 2, 1  # enum bpf_map_type, enum bpf_prog_type
SO_ATTACH_REUSEPORT_EBPF = 52
SLOTS = 256
CHOICE, FIRST = 0, 1  # of the map: which listener gets new connections, with the place of its count << 8; the counts
FLAGS = -0x100000 + 20 + 13  # SKF_NET_OFF: the TCP flags after an IPv4 header without options
_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    attributes = attributes.ljust(128, b"\0")
    result = _libc.syscall(_NUMBER[platform.machine()], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf: {os.strerror(ctypes.get_errno())}")
    return result


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, to | source << 4, offset, value)


def _look_up(map_: int, otherwise: int) -> bytes:
    """r0 = the address of the value whose key is on the stack. Without one, skip ``otherwise`` instructions."""
    return b"".join(
        [
            _instruction(0x18, 1, 1, 0, map_),  # r1 = the map (BPF_PSEUDO_MAP_FD), in two halves
            _instruction(0x00),
            _instruction(0xBF, 2, 10),  # r2 = r10
            _instruction(0x07, 2, value=-4),  # r2 += -4
            _instruction(0x85, value=1),  # call bpf_map_lookup_elem
            _instruction(0x15, 0, offset=otherwise, value=0),  # if r0 == 0 goto
        ]
    )


def _program(map_: int) -> bytes:
    """Return the low byte of map[CHOICE]; if the packet is a SYN, add one to map[the other bytes]."""
    count = (
        _instruction(0x63, 10, 8, offset=-4)  # the key: *(u32 *)(r10 - 4) = r8
        + _look_up(map_, 2)
        + _instruction(0xB7, 1, value=1)  # r1 = 1
        + _instruction(0xC3, 0, 1)  # lock *(u32 *)r0 += r1
    )
    choice = (
        _instruction(0x61, 7, 0)  # r7 = *(u32 *)r0
        + _instruction(0xBF, 8, 7)  # r8 = r7
        + _instruction(0x77, 8, value=8)  # r8 >>= 8
        + _instruction(0x57, 7, value=0xFF)  # r7 &= 0xff
        + _instruction(0x30, value=FLAGS)  # r0 = the TCP flags
        + _instruction(0x57, 0, value=0x12)  # r0 &= SYN | ACK
        + _instruction(0x55, 0, offset=len(count) // 8, value=0x02)  # if r0 != SYN goto the end
        + count
    )
    return (
        _instruction(0xBF, 6, 1)  # r6 = the packet
        + _instruction(0xB7, 7)  # r7 = 0
        + _instruction(0x62, 10, offset=-4, value=CHOICE)  # the key
        + _look_up(map_, len(choice) // 8)
        + choice
        + _instruction(0xBF, 0, 7)  # r0 = r7
        + _instruction(0x95)  # exit
    )


class Steering:
    """The map and the program. A forked process may read the counts too."""

    def __init__(self) -> None:
        self._map = _bpf(MAP_CREATE, struct.pack("=IIIII", ARRAY, 4, 4, SLOTS, 0))
        program = _program(self._map)
        code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
        where = ctypes.addressof(code), ctypes.addressof(licence)
        self._program = _bpf(PROG_LOAD, struct.pack("=IIQQ", SOCKET_FILTER, len(program) // 8, *where))

    def attach(self, listener: socket.socket) -> None:
        """Let the program choose among the listeners of this one's group."""
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, self._program)

    def choose(self, index: int, counter: int) -> None:
        """Give new connections to the listener of this index, and count them by this counter."""
        key, value = ctypes.c_uint32(CHOICE), ctypes.c_uint32(index | (FIRST + counter) << 8)
        _bpf(UPDATE, struct.pack("=IxxxxQQQ", self._map, ctypes.addressof(key), ctypes.addressof(value), 0))

    def count(self, counter: int) -> int:
        """How many SYNs this counter has counted."""
        key, value = ctypes.c_uint32(FIRST + counter), ctypes.c_uint32()
        _bpf(LOOKUP, struct.pack("=IxxxxQQ", self._map, ctypes.addressof(key), ctypes.addressof(value)))
        return value.value
