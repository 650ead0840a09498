"""The step of `FixedSteering` as one Triton kernel per layer: what is a dozen small kernels elsewhere is one here.

The arithmetic is that of `fixed.py`, in the same order. A program is one request: its features, its gates, its edits.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-not-found, import-untyped"
# Triton's own language has no types, and Triton is there on GPUs alone.
from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from steerkit.steer.memory import NEVER

if TYPE_CHECKING:
    from steerkit.steer.fixed import FixedSite, FixedSteering

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run on the CPU, for tests."""
_CHUNK, _WARPS = 256, 8


@triton.jit
def _probe(found):
    tl.store(found, tl.load(found) + 1)


@triton.jit
def _begin(column, number, known, late, last_open, hold, masks, bias, opened, sums,
           L: tl.constexpr, R: tl.constexpr, REMEMBERS: tl.constexpr, BL: tl.constexpr, BR: tl.constexpr):  # fmt: skip
    b = tl.program_id(0)
    if b == 0:
        tl.store(column, tl.load(column) + 1)
    r = tl.arange(0, BR)
    rules = r < R
    known_at = tl.load(known + b * R + r, mask=rules, other=0)
    allowed = tl.load(masks + b * (2 * R + L) + r, mask=rules, other=0) != 0
    opens = known_at < 0
    if REMEMBERS:
        n = tl.load(number + b) + 1
        tl.debug_barrier()
        tl.store(number + b, n)
        age = n - tl.load(last_open + b * R + r, mask=rules, other=0)
        held = age <= tl.load(hold + b * R + r, mask=rules, other=0)
        opens = opens | ((tl.load(late + b * R + r, mask=rules, other=0) != 0) & held)
    tl.store(opened + b * R + r, (opens & allowed).to(tl.uint8), mask=rules)
    if L > 0:
        reading = tl.arange(0, BL)
        tl.store(sums + b * L + reading, tl.load(bias + b * L + reading, mask=reading < L), mask=reading < L)


@triton.jit
def _windowed(values, counts, here, b, spans, windowed, means, tail, tail_counts,
              L: tl.constexpr, W: tl.constexpr, BL: tl.constexpr, BW: tl.constexpr):  # fmt: skip
    """Readings `(L,)`, over their windows where they have one; the windows of those `here` go on by a token."""
    reading, w = tl.arange(0, BL), tl.arange(0, BW)
    readings = reading < L
    cell = (b * L + reading[:, None]) * W + w[None, :]
    old = readings[:, None] & (w < W - 1)[None, :]
    newest = (w == W - 1)[None, :]
    past = tl.where(newest, values[:, None], tl.load(tail + cell + 1, mask=old, other=0.0))
    counted = tl.where(newest, counts[:, None], tl.load(tail_counts + cell + 1, mask=old, other=0) != 0)
    inside = readings[:, None] & (w < W)[None, :]
    tl.debug_barrier()  # all is read before the tail moves
    tl.store(tail + cell, past, mask=inside & here[:, None])
    tl.store(tail_counts + cell, counted.to(tl.uint8), mask=inside & here[:, None])
    counted = counted & (tl.load(spans + cell, mask=inside, other=0) != 0)
    number = tl.sum(counted.to(tl.float32), axis=1)
    mean = tl.sum(tl.where(counted, past, 0.0), axis=1) / tl.maximum(number, 1.0)
    largest = tl.max(tl.where(counted, past, float("-inf")), axis=1)
    is_mean = tl.load(means + b * L + reading, mask=readings, other=0) != 0
    found = tl.where(number > 0, tl.where(is_mean, mean, largest), float("nan"))
    return tl.where(tl.load(windowed + b * L + reading, mask=readings, other=0) != 0, found, values)


@triton.jit
def _open(b, B, layer, sums, is_open, allowed,
          number, known, late, last_open, hold, masks, bounds, read_at, spans, windowed, means, wanted, wants, terms,
          latched, tail, tail_counts,
          L: tl.constexpr, R: tl.constexpr, M: tl.constexpr, W: tl.constexpr, REMEMBERS: tl.constexpr,
          BL: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, NEVER: tl.constexpr):  # fmt: skip
    """Which rules `(R,)` are open once the gates that are known at a layer are read."""
    reading, r, m = tl.arange(0, BL), tl.arange(0, BR), tl.arange(0, BM)
    readings, rules, terms_here = reading < L, r < R, m < M
    mine = b * L + reading
    values = sums
    low = tl.load(bounds + B * L + mine, mask=readings, other=0.0)
    high = tl.load(bounds + 2 * B * L + mine, mask=readings, other=0.0)
    here = (tl.load(read_at + mine, mask=readings, other=-1) == layer) & readings
    counts = tl.load(masks + b * (2 * R + L) + 2 * R + reading, mask=readings, other=0) != 0
    if REMEMBERS and W > 1:
        values = _windowed(values, counts, here, b, spans, windowed, means, tail, tail_counts, L, W, BL, BW)
    holds = (values > low) & (values < high)
    if REMEMBERS:
        off = tl.load(bounds + 3 * B * L + mine, mask=readings, other=float("nan"))
        before = tl.load(latched + mine, mask=readings, other=0) != 0
        stays = before & ~(((values < off) | (values >= high)) & counts)
        holds = tl.where(off != off, holds, (holds & counts) | stays)
        tl.store(latched + mine, holds.to(tl.uint8), mask=here)
    holds = holds & readings
    cell = (b * L + reading[:, None]) * M + m[None, :]
    want = tl.load(wanted + cell, mask=readings[:, None] & terms_here[None, :], other=0.0)
    met = tl.sum(want * holds.to(tl.float32)[:, None], axis=0) == tl.load(
        wants + b * M + m, mask=terms_here, other=-1.0
    )
    cell = (b * M + m[:, None]) * R + r[None, :]
    term = tl.load(terms + cell, mask=terms_here[:, None] & rules[None, :], other=0.0)
    opens = tl.sum(term * met.to(tl.float32)[:, None], axis=0) > 0
    opens = opens & (tl.load(masks + b * (2 * R + L) + R + r, mask=rules, other=0) != 0)
    known_here = (tl.load(known + b * R + r, mask=rules, other=-1) == layer) & rules
    if REMEMBERS:
        n = tl.load(number + b)
        last = tl.load(last_open + b * R + r, mask=rules, other=NEVER)
        last = tl.where(opens & known_here, n, last)  # no token before has its number
        tl.store(last_open + b * R + r, last, mask=known_here)
        opens = (n - last) < tl.load(hold + b * R + r, mask=rules, other=0)
        known_here = known_here & (tl.load(late + b * R + r, mask=rules, other=0) == 0)
    return tl.where(known_here, opens & allowed, is_open)


@triton.jit
def _read(y, raw, W_enc, units, b, B, at, s, here, KEEPS: tl.constexpr, READS: tl.constexpr, D: tl.constexpr,
          S: tl.constexpr, BS: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """Features `(S,)` of a request's activation, which goes on the tape as it is."""
    d = tl.arange(0, CHUNK)
    pre = tl.zeros([BS], dtype=tl.float32)
    for start in tl.static_range(0, D, CHUNK):
        inside = start + d < D
        part = tl.load(y + b * D + start + d, mask=inside, other=0.0)
        if KEEPS:
            tl.store(raw + at * D + start + d, part, mask=inside)
        if READS:
            cell = (b * S + s[:, None]) * D + start + d[None, :]
            encoder = tl.load(W_enc + cell, mask=here[:, None] & inside[None, :], other=0.0)
            pre += tl.sum(encoder * part.to(tl.float32)[None, :], axis=1)
    unit = units + b * S + s
    pre += tl.load(unit, mask=here, other=0.0)
    gain = tl.load(unit + B * S, mask=here, other=0.0)
    lift = tl.load(unit + 2 * B * S, mask=here, other=0.0)
    above = pre > tl.load(unit + 3 * B * S, mask=here, other=0.0)
    return tl.where(above, tl.maximum(gain * pre + lift, 0.0), 0.0)


@triton.jit
def _change(f, acts, owner, numbers, b, B, s, here, r, S: tl.constexpr, K: tl.constexpr, BS: tl.constexpr):
    """What the rules that act `(R,)` make of the features `(S,)`; of two on one feature the first acts."""
    change = tl.zeros([BS], dtype=tl.float32)
    for back in tl.static_range(0, K):
        row = (K - 1 - back) * B + b
        by = tl.load(owner + row * S + s, mask=here, other=0)
        on = tl.sum(((by[:, None] == r[None, :]) & acts[None, :]).to(tl.int32), axis=1) > 0
        cell = numbers + row * S + s
        wanted = tl.load(cell, mask=here, other=1.0) * f + tl.load(cell + K * B * S, mask=here, other=0.0)
        wanted = tl.maximum(wanted, tl.load(cell + 2 * K * B * S, mask=here, other=float("-inf")))
        wanted = tl.minimum(wanted, tl.load(cell + 3 * K * B * S, mask=here, other=float("inf")))
        change = tl.where(on, wanted - f, change)
    return change


@triton.jit
def _write(y, out, W_dec, change, b, s, here, D: tl.constexpr, S: tl.constexpr, CHUNK: tl.constexpr):
    """Write the activation with its change; where there is none, its bits."""
    d = tl.arange(0, CHUNK)
    touched = tl.max((change != 0).to(tl.int32), axis=0)
    used = here & (s * 0 + touched > 0)
    for start in tl.static_range(0, D, CHUNK):
        inside = start + d < D
        part = tl.load(y + b * D + start + d, mask=inside, other=0.0)
        cell = (b * S + s[:, None]) * D + start + d[None, :]
        decoder = tl.load(W_dec + cell, mask=used[:, None] & inside[None, :], other=0.0)
        moved = (part.to(tl.float32) + tl.sum(decoder * change[:, None], axis=0)).to(part.dtype)
        tl.store(out + b * D + start + d, tl.where(touched > 0, moved, part), mask=inside)


@triton.jit
def _step(y, out, raw, tape, fired, column, count, W_enc, W_dec, units, weights, owner, numbers, editors, layer, B, C,
          number, known, late, last_open, hold, masks, bounds, read_at, spans, windowed, means, wanted, wants, terms,
          latched, tail, tail_counts, writes, opened, sums,
          D: tl.constexpr, S: tl.constexpr, R: tl.constexpr, L: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
          W: tl.constexpr, KEEPS: tl.constexpr, READS: tl.constexpr, EDITS: tl.constexpr, GATES: tl.constexpr,
          REMEMBERS: tl.constexpr, BS: tl.constexpr, BR: tl.constexpr, BL: tl.constexpr, BM: tl.constexpr,
          BW: tl.constexpr, CHUNK: tl.constexpr, NEVER: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    if b == 0:
        tl.store(fired, tl.load(fired) + 1)
    at = b * C + tl.load(column)
    s, r, reading = tl.arange(0, BS), tl.arange(0, BR), tl.arange(0, BL)
    here, rules = s < tl.load(count + b), r < R
    f = _read(y, raw, W_enc, units, b, B, at, s, here, KEEPS, READS, D, S, BS, CHUNK)
    if READS:
        is_open = tl.load(opened + b * R + r, mask=rules, other=0) != 0
        if L > 0:
            cell = (b * S + s[:, None]) * L + reading[None, :]
            weight = tl.load(weights + cell, mask=here[:, None] & (reading < L)[None, :], other=0.0)
            total = tl.load(sums + b * L + reading, mask=reading < L, other=0.0) + tl.sum(weight * f[:, None], axis=0)
            tl.store(sums + b * L + reading, total, mask=reading < L)
            if GATES:
                allowed = tl.load(masks + b * (2 * R + L) + r, mask=rules, other=0) != 0
                is_open = _open(b, B, layer, total, is_open, allowed, number, known, late, last_open, hold, masks,
                                bounds, read_at, spans, windowed, means, wanted, wants, terms, latched, tail,
                                tail_counts, L, R, M, W, REMEMBERS, BL, BR, BM, BW, NEVER)  # fmt: skip
                tl.store(opened + b * R + r, is_open.to(tl.uint8), mask=rules)
        if EDITS:
            acts = is_open & (tl.load(editors + b * R + r, mask=rules, other=0) != 0)
            tl.store(tape + at * R + r, acts.to(tl.uint8), mask=rules)
            acts = acts & (tl.load(writes + b * R + r, mask=rules, other=0) != 0)
            change = _change(f, acts, owner, numbers, b, B, s, here, r, S, K, BS)
            _write(y, out, W_dec, change, b, s, here, D, S, CHUNK)


@cache
def works(device: torch.device) -> bool:
    """Whether kernels can be built and run on a device: that needs a C compiler as well."""
    found = torch.zeros(1, dtype=torch.long, device=device)
    try:
        _probe[(1,)](found)
    except Exception:  # whatever is missing, the same step runs without them
        return False
    return bool(found == 1)


def begin(steering: FixedSteering) -> None:
    """`FixedSteering.begin`."""
    s, room = steering, steering.room
    _begin[(s.rows,)](
        s.column, s.number, s.known, _bytes(s.late), s.last_open, s.hold, _bytes(s.masks), s.bounds, _bytes(s.opened),
        s.sums, L=room.readings, R=room.rules, REMEMBERS=room.remembers, BL=_block(room.readings),
        BR=_block(room.rules), num_warps=1,
    )  # fmt: skip


def step(steering: FixedSteering, site: FixedSite, y: Tensor) -> Tensor | None:
    """`FixedSteering.step`."""
    s, room, y = steering, steering.room, y.contiguous()
    out = torch.empty_like(y) if site.edits else y
    sizes = (room.rules, room.readings, room.terms, room.window)
    blocks = dict(zip(("BR", "BL", "BM", "BW"), map(_block, sizes), strict=True))
    _step[(s.rows,)](
        y, out, site.raw, _bytes(site.opened), site.fired, s.column, site.count, site.W_enc, site.W_dec, site.units,
        site.weights, site.owner, site.numbers, _bytes(site.editors), site.layer, s.rows, s.columns,
        s.number, s.known, _bytes(s.late), s.last_open, s.hold, _bytes(s.masks), s.bounds, s.read_at, _bytes(s.spans),
        _bytes(s.windowed), _bytes(s.means), s.wanted, s.wants, s.terms, _bytes(s.latched), s.tail,
        _bytes(s.tail_counts), _bytes(s.writes), _bytes(s.opened), s.sums,
        D=y.shape[-1], S=room.features, R=room.rules, L=room.readings, M=room.terms, K=room.depth, W=room.window,
        KEEPS=site.raw.numel() > 0, READS=site.reads, EDITS=site.edits, GATES=site.gates, REMEMBERS=room.remembers,
        BS=_block(room.features), **blocks, CHUNK=_CHUNK, NEVER=NEVER, num_warps=_WARPS,
    )  # fmt: skip
    return out if site.edits else None


def _bytes(flags: Tensor) -> Tensor:
    return flags.view(torch.uint8) if flags.dtype == torch.bool else flags


def _block(size: int) -> int:
    return max(1 << (size - 1).bit_length(), 2) if size > 1 else 2
