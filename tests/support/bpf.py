# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest BPF programs, loaded and attached through bpf(2) itself: no library for that is needed."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest

PROG_LOAD, PROG_ATTACH, PROG_DETACH, PROG_QUERY = 5, 8, 9, 16  # enum bpf_cmd
SCHED_CLS = 3  # enum bpf_prog_type
TCX_INGRESS, TCX_EGRESS = 46, 47  # enum bpf_attach_type
NEXT = -1  # TCX_NEXT, TC_ACT_UNSPEC: the classification goes on
_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    attributes = attributes.ljust(128, b"\0")
    result = _libc.syscall(_NUMBER[platform.machine()], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def load(verdict: int = NEXT) -> int:
    """A program of two instructions that returns the verdict: its descriptor. Skips the test where it cannot be."""
    if platform.machine() not in _NUMBER:
        pytest.skip(f"the number of bpf(2) on {platform.machine()} is not known here")
    program = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = verdict; exit
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"GPL")
    parts = struct.pack("=IIQQ", SCHED_CLS, 2, ctypes.addressof(code), ctypes.addressof(licence))
    try:
        return _bpf(PROG_LOAD, parts)
    except OSError as error:
        pytest.skip(f"no BPF program can be loaded here: {error.strerror}")


def attach_tcx(program: int, ifindex: int, *, ingress: bool) -> None:
    """Attach it by tcx in the calling thread's namespace. Skips the test where the kernel knows no tcx."""
    try:
        _bpf(PROG_ATTACH, struct.pack("=III", ifindex, program, TCX_INGRESS if ingress else TCX_EGRESS))
    except OSError as error:
        pytest.skip(f"no program can be attached by tcx here, which came with Linux 6.6: {error.strerror}")


def detach_tcx(program: int, ifindex: int, *, ingress: bool) -> None:
    """Take it away again."""
    _bpf(PROG_DETACH, struct.pack("=III", ifindex, program, TCX_INGRESS if ingress else TCX_EGRESS))


def query_tcx(ifindex: int, *, told: int, kept: int) -> bytes:
    """Ask for the device's programs with a structure of ``told`` bytes; what is in ``kept`` bytes of memory then."""
    memory = ctypes.create_string_buffer(struct.pack("=II", ifindex, TCX_EGRESS), kept)
    if _libc.syscall(_NUMBER[platform.machine()], PROG_QUERY, memory, told) < 0:
        pytest.skip(f"the kernel knows no tcx, which came with Linux 6.6: {os.strerror(ctypes.get_errno())}")
    return memory.raw
