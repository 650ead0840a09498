"""What a process holds in memory, as Linux and the C library say it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

ROLLUP = Path("/proc/self/smaps_rollup")


class Held(NamedTuple):
    """Bytes in memory, but for `blocks`."""

    own: int
    """Of pages that belong to this process alone."""
    files: int
    """Of pages of mapped files, libraries among them."""
    handed_out: int
    """By `malloc`; 0 where the C library cannot say."""
    blocks: int
    """Python's."""


class _Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns: ten numbers, of which two are read."""

    _fields_ = (
        *((f"_{number}", ctypes.c_size_t) for number in range(4)),
        ("hblkhd", ctypes.c_size_t),
        *((f"_{number}", ctypes.c_size_t) for number in range(5, 7)),
        ("uordblks", ctypes.c_size_t),
        *((f"_{number}", ctypes.c_size_t) for number in range(8, 10)),
    )


def now() -> Held:
    """What is held."""
    lines = [line.split() for line in ROLLUP.read_text().splitlines()[1:]]
    sizes = {words[0]: int(words[1]) * 1024 for words in lines}
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    info = _Mallinfo()
    if ask is not None:
        ask.restype = _Mallinfo
        info = ask()
    own = sizes["Anonymous:"]
    return Held(own, sizes["Rss:"] - own, info.uordblks + info.hblkhd, sys.getallocatedblocks())
