"""The gates of `steerkit.steer.gates` for one token of each request, in Triton's language; a program is one request."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-not-found, import-untyped"
# Triton's own language has no types, and Triton is there on GPUs alone.
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def is_set(flags, mask):
    """Flags, from bytes in memory."""
    return tl.load(flags, mask=mask, other=0) != 0


@triton.jit
def _windowed(values, counts, here, b, spans, windowed, means, tail, tail_counts,
              L: tl.constexpr, W: tl.constexpr, BL: tl.constexpr, BW: tl.constexpr):  # fmt: skip
    """Readings `(L,)`, over their windows where they have one; the windows of those `here` advance by a token."""
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
    is_mean = is_set(means + b * L + reading, readings)
    found = tl.where(number > 0, tl.where(is_mean, mean, largest), float("nan"))
    return tl.where(is_set(windowed + b * L + reading, readings), found, values)


@triton.jit
def open_gates(b, B, layer, sums, is_open,
          number, known, late, last_open, hold, masks, bounds, read_at, spans, windowed, means, wanted, wants, terms,
          latched, tail, tail_counts, opened,
          L: tl.constexpr, R: tl.constexpr, M: tl.constexpr, W: tl.constexpr, REMEMBERS: tl.constexpr,
          BL: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, NEVER: tl.constexpr):  # fmt: skip
    """Rules `(R,)` that are open after the gates that are complete at a site."""
    reading, r, m = tl.arange(0, BL), tl.arange(0, BR), tl.arange(0, BM)
    readings, rules, terms_here = reading < L, r < R, m < M
    mine, flags = b * L + reading, masks + b * (2 * R + L)
    low = tl.load(bounds + B * L + mine, mask=readings, other=0.0)
    high = tl.load(bounds + 2 * B * L + mine, mask=readings, other=0.0)
    cell = (b * L + reading[:, None]) * M + m[None, :]
    want = tl.load(wanted + cell, mask=readings[:, None] & terms_here[None, :], other=0.0)
    number_wanted = tl.load(wants + b * M + m, mask=terms_here, other=-1.0)
    cell = (b * M + m[:, None]) * R + r[None, :]
    term = tl.load(terms + cell, mask=terms_here[:, None] & rules[None, :], other=0.0)
    allowed = is_set(flags + r, rules)
    may_open = is_set(flags + R + r, rules)
    known_here = (tl.load(known + b * R + r, mask=rules, other=-1) == layer) & rules
    if REMEMBERS:
        here = (tl.load(read_at + mine, mask=readings, other=-1) == layer) & readings
        counts = is_set(flags + 2 * R + reading, readings)
        off = tl.load(bounds + 3 * B * L + mine, mask=readings, other=float("nan"))
        before = is_set(latched + mine, readings)
        n = tl.load(number + b)
        last = tl.load(last_open + b * R + r, mask=rules, other=NEVER)
        tokens = tl.load(hold + b * R + r, mask=rules, other=0)
        acts_late = is_set(late + b * R + r, rules)
    tl.debug_barrier()
    values = sums
    if REMEMBERS and W > 1:
        values = _windowed(values, counts, here, b, spans, windowed, means, tail, tail_counts, L, W, BL, BW)
    holds = (values > low) & (values < high)
    if REMEMBERS:
        stays = before & ~(((values < off) | (values >= high)) & counts)
        holds = tl.where(off != off, holds, (holds & counts) | stays)
        tl.store(latched + mine, holds.to(tl.uint8), mask=here)
    holds = holds & readings
    met = tl.sum(want * holds.to(tl.float32)[:, None], axis=0) == number_wanted
    opens = (tl.sum(term * met.to(tl.float32)[:, None], axis=0) > 0) & may_open
    if REMEMBERS:
        last = tl.where(opens & known_here, n, last)  # no token before has its number
        tl.store(last_open + b * R + r, last, mask=known_here)
        opens = (n - last) < tokens
        known_here = known_here & ~acts_late
    is_open = tl.where(known_here, opens & allowed, is_open)
    tl.store(opened + b * R + r, is_open.to(tl.uint8), mask=rules)
    return is_open
