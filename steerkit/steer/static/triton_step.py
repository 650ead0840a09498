"""The step of `StaticSteering` as one Triton kernel per layer: what is a dozen small kernels elsewhere is one here.

The arithmetic is that of `buffers.py`; the kernels are in `triton_kernels.py`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from steerkit.steer.gates import NEVER
from steerkit.steer.static import triton_kernels as kernels

if TYPE_CHECKING:
    from steerkit.steer.static.buffers import StaticSite, StaticSteering

_WARPS: Final = 8
_PIECE: Final = 256
"""Coordinates of an activation that are read as one row."""
_PIECES: Final = 4
"""Pieces that a program holds; the kernel counts them by name."""
_MOST_AT_ONCE: Final = 32768
"""Numbers of columns that a program asks for at once, half of what its registers hold; a power of two."""
_LEAST_PIECE: Final = 16


@cache
def works(device: torch.device) -> bool:
    """True if kernels can be built and run on a device: that needs a C compiler as well."""
    found = torch.zeros(1, dtype=torch.long, device=device)
    try:
        kernels.probe[(1,)](found)
    except Exception:  # whatever is missing, the same step runs without them
        return False
    return bool(found == 1)


def begin(steering: StaticSteering) -> None:
    """`StaticSteering.begin`."""
    s, c = steering, steering.capacity
    kernels.begin[(s.rows,)](
        s.column, s.number, s.known, _bytes(s.late), s.last_open, s.hold, _bytes(s.masks), s.bounds, _bytes(s.opened),
        s.sums, L=c.readings, R=c.rules, REMEMBERS=c.remembers, BL=_block(c.readings),
        BR=_block(c.rules), num_warps=1,
    )  # fmt: skip


def step(steering: StaticSteering, site: StaticSite, y: Tensor) -> Tensor | None:
    """`StaticSteering.step`."""
    s, c, y = steering, steering.capacity, y.contiguous()
    out = torch.empty_like(y) if site.edits else y
    sizes = (c.rules, c.readings, c.terms, c.window)
    blocks = dict(zip(("BR", "BL", "BM", "BW"), map(_block, sizes), strict=True))
    kernels.step[(s.rows,)](
        y, out, site.raw, _bytes(site.opened), site.fired, s.column, site.count, site.W_enc, site.W_dec, site.units,
        site.weights, site.owner, site.numbers, _bytes(site.editors), site.number, s.rows, s.columns,
        s.number, s.known, _bytes(s.late), s.last_open, s.hold, _bytes(s.masks), s.bounds, s.read_at, _bytes(s.spans),
        _bytes(s.windowed), _bytes(s.means), s.wanted, s.wants, s.terms, _bytes(s.latched), s.tail,
        _bytes(s.tail_counts), _bytes(s.writes), _bytes(s.opened), s.sums,
        D=y.shape[-1], S=c.features, R=c.rules, L=c.readings, M=c.terms, K=c.depth, W=c.window,
        KEEPS=site.raw.numel() > 0, READS=site.reads, EDITS=site.edits, GATES=site.gates, REMEMBERS=c.remembers,
        BS=_block(c.features), **blocks, **_tiles(y.shape[-1], c.features, site.reads, site.edits), NEVER=NEVER,
        num_warps=_WARPS,
    )  # fmt: skip
    return out if site.edits else None


def _tiles(width: int, features: int, reads: bool, edits: bool) -> dict[str, Any]:
    """The tiling of the features' columns: encoder and decoder together, one after the other, or both in pieces."""
    tile = -(-width // _PIECE) * _PIECE * _block(features)
    whole = reads and width <= _PIECES * _PIECE and tile <= _MOST_AT_ONCE
    piece = _PIECE if whole else min(_PIECE, max(_MOST_AT_ONCE // (8 * _block(features)), _LEAST_PIECE))
    return {"PIECE": piece, "WHOLE": whole, "EARLY": whole and edits and 2 * tile <= _MOST_AT_ONCE}


def _bytes(flags: Tensor) -> Tensor:
    return flags.view(torch.uint8) if flags.dtype == torch.bool else flags


def _block(size: int) -> int:
    return max(1 << (size - 1).bit_length(), 2) if size > 1 else 2
