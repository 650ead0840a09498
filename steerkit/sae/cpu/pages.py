"""Gives pages of mapped files back to the system: reading all of an SAE once need not keep all of it in memory."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

_PAGES: Final = Path("/proc/self/pagemap")
_ENTRY: Final = 8
"""Bytes of a page's entry there (Linux, Documentation/admin-guide/mm/pagemap.rst)."""
_FILE: Final = 1 << 61
"""The page is a file's, or shared."""
_THERE: Final = -(1 << 62)
"""Bits 62 and 63: there is a page, swapped out or in memory."""


def release(tensor: Tensor) -> None:
    """Take the pages of a tensor that lies in a mapped file out of this process; read again, they come back.

    A page that is not the file's own, as in a tensor that lies in memory or was changed in place, keeps it all where it
    is, and so does a system that cannot say so.
    """
    if tensor.device.type != "cpu":
        return
    page, start = mmap.PAGESIZE, tensor.data_ptr()
    first, last = -(-start // page), (start + tensor.nbytes) // page
    advise = _advise()
    if last <= first or advise is None or not _files_own(first, last):
        return
    advise(ctypes.c_void_p(first * page), ctypes.c_size_t((last - first) * page), mmap.MADV_DONTNEED)


def _files_own(first: int, last: int) -> bool:
    """True if all of these pages that there are belong to a file."""
    try:
        with _PAGES.open("rb", buffering=0) as file:
            file.seek(first * _ENTRY)
            entries = file.read((last - first) * _ENTRY)
    except OSError:
        return False
    if len(entries) != (last - first) * _ENTRY:
        return False
    flags = torch.frombuffer(bytearray(entries), dtype=torch.int64)
    here = (flags & _THERE) != 0
    return bool(((flags & _FILE) != 0)[here].all())


@cache
def _advise() -> Any:
    """The system's `madvise`; None where there is none, or nothing says whose pages they are."""
    return getattr(ctypes.CDLL(None), "madvise", None) if _PAGES.exists() else None
