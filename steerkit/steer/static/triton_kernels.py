"""The step of `StaticSteering` in Triton's language; a program is one request.

A sum waits for all loads before it at once. So each kernel first loads all that no sum decides, and a barrier keeps
compilers from moving those loads down.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-not-found, import-untyped"
# Triton's own language has no types, and Triton is there on GPUs alone.
from __future__ import annotations

import triton
import triton.language as tl

from steerkit.steer.static.triton_gates import is_set, open_gates


@triton.jit
def probe(found):
    """Count one up."""
    tl.store(found, tl.load(found) + 1)


@triton.jit
def begin(column, number, known, late, last_open, hold, masks, bias, opened, sums,
          L: tl.constexpr, R: tl.constexpr, REMEMBERS: tl.constexpr, BL: tl.constexpr, BR: tl.constexpr):  # fmt: skip
    """Advance to the next token, and open the rules that are open before any site has run."""
    b = tl.program_id(0)
    if b == 0:
        tl.store(column, tl.load(column) + 1)
    r = tl.arange(0, BR)
    rules = r < R
    known_at = tl.load(known + b * R + r, mask=rules, other=0)
    allowed = is_set(masks + b * (2 * R + L) + r, rules)
    opens = known_at < 0
    if REMEMBERS:
        n = tl.load(number + b) + 1
        tl.debug_barrier()
        tl.store(number + b, n)
        age = n - tl.load(last_open + b * R + r, mask=rules, other=0)
        held = age <= tl.load(hold + b * R + r, mask=rules, other=0)
        opens = opens | (is_set(late + b * R + r, rules) & held)
    tl.store(opened + b * R + r, (opens & allowed).to(tl.uint8), mask=rules)
    if L > 0:
        reading = tl.arange(0, BL)
        tl.store(sums + b * L + reading, tl.load(bias + b * L + reading, mask=reading < L), mask=reading < L)


@triton.jit
def _columns(W, b, s, here, piece: tl.constexpr, D: tl.constexpr, S: tl.constexpr, BS: tl.constexpr,
             PIECE: tl.constexpr, ASKED: tl.constexpr):  # fmt: skip
    """A piece `(S, PIECE)` of the columns of a request's features; zeros unless `ASKED`."""
    if ASKED and piece * PIECE < D:
        d = piece * PIECE + tl.arange(0, PIECE)
        cell = (b * S + s[:, None]) * D + d[None, :]
        found = tl.load(W + cell, mask=here[:, None] & (d < D)[None, :], other=0.0)
    else:
        found = tl.zeros([BS, PIECE], dtype=tl.float32)
    return found


@triton.jit
def _all_columns(W, b, s, here, D: tl.constexpr, S: tl.constexpr, BS: tl.constexpr, PIECE: tl.constexpr,
                 ASKED: tl.constexpr):  # fmt: skip
    """All pieces: tiles of two dimensions, as every Triton spreads their rows over its warps."""
    w0 = _columns(W, b, s, here, 0, D, S, BS, PIECE, ASKED)
    w1 = _columns(W, b, s, here, 1, D, S, BS, PIECE, ASKED)
    w2 = _columns(W, b, s, here, 2, D, S, BS, PIECE, ASKED)
    return w0, w1, w2, _columns(W, b, s, here, 3, D, S, BS, PIECE, ASKED)


@triton.jit
def _activation(y, b, piece: tl.constexpr, D: tl.constexpr, PIECE: tl.constexpr):
    """A piece of a request's activation."""
    d = piece * PIECE + tl.arange(0, PIECE)
    return tl.load(y + b * D + d, mask=d < D, other=0.0)


@triton.jit
def _keep(raw, x, at, piece: tl.constexpr, D: tl.constexpr, PIECE: tl.constexpr):
    """Put a piece of an activation on the recorder."""
    d = piece * PIECE + tl.arange(0, PIECE)
    tl.store(raw + at * D + d, x, mask=d < D)


@triton.jit
def _read(y, raw, W_enc, x0, x1, x2, x3, w0, w1, w2, w3, b, at, s, here, KEEPS: tl.constexpr, READS: tl.constexpr,
          D: tl.constexpr, S: tl.constexpr, BS: tl.constexpr, PIECE: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """`y @ W_enc` `(S,)` of a request's activation, which is copied to the recorder as it is."""
    if WHOLE:
        if KEEPS:
            _keep(raw, x0, at, 0, D, PIECE)
            _keep(raw, x1, at, 1, D, PIECE)
            _keep(raw, x2, at, 2, D, PIECE)
            _keep(raw, x3, at, 3, D, PIECE)
        by_place = w0 * x0.to(tl.float32)[None, :] + w1 * x1.to(tl.float32)[None, :]
        by_place += w2 * x2.to(tl.float32)[None, :] + w3 * x3.to(tl.float32)[None, :]
        pre = tl.sum(by_place, axis=1)
    else:
        pre = tl.zeros([BS], dtype=tl.float32)
        for piece in tl.static_range(0, (D + PIECE - 1) // PIECE):
            x = _activation(y, b, piece, D, PIECE)
            if KEEPS:
                _keep(raw, x, at, piece, D, PIECE)
            w = _columns(W_enc, b, s, here, piece, D, S, BS, PIECE, READS)
            pre += tl.sum(w * x.to(tl.float32)[None, :], axis=1)
    return pre


@triton.jit
def _weights(sums, weights, b, s, here, reading, readings, S: tl.constexpr, L: tl.constexpr):
    """Sums `(L,)` of the readings so far, and the features' weights `(S, L)` in them."""
    cell = (b * S + s[:, None]) * L + reading[None, :]
    weight = tl.load(weights + cell, mask=here[:, None] & readings[None, :], other=0.0)
    return tl.load(sums + b * L + reading, mask=readings, other=0.0), weight


@triton.jit
def _unit(unit, part, here):
    """Bias, gain, lift and threshold `(S,)` of features."""
    bias, gain = tl.load(unit, mask=here, other=0.0), tl.load(unit + part, mask=here, other=0.0)
    lift = tl.load(unit + 2 * part, mask=here, other=0.0)
    return bias, gain, lift, tl.load(unit + 3 * part, mask=here, other=0.0)


@triton.jit
def _level(owner, numbers, level, b, B, s, here, S: tl.constexpr, K: tl.constexpr):
    """The edits `(S,)` of one level: their rules, scales, shifts, floors and ceilings."""
    cell, part = (level * B + b) * S + s, K * B * S
    by, scale = tl.load(owner + cell, mask=here, other=0), tl.load(numbers + cell, mask=here, other=1.0)
    shift = tl.load(numbers + cell + part, mask=here, other=0.0)
    floor = tl.load(numbers + cell + 2 * part, mask=here, other=float("-inf"))
    return by, scale, shift, floor, tl.load(numbers + cell + 3 * part, mask=here, other=float("inf"))


@triton.jit
def _changed(change, f, acts, r, by, scale, shift, floor, ceiling):
    """Changes `(S,)` of the features under the acting rules `(R,)`; `change` where none edits them at this level."""
    on = tl.sum(((by[:, None] == r[None, :]) & acts[None, :]).to(tl.int32), axis=1) > 0
    wanted = tl.minimum(tl.maximum(scale * f + shift, floor), ceiling)
    return tl.where(on, wanted - f, change)


@triton.jit
def _change(f, acts, r, by, scale, shift, floor, ceiling, owner, numbers, b, B, s, here, S: tl.constexpr,
            K: tl.constexpr, BS: tl.constexpr):  # fmt: skip
    """Changes `(S,)` of the features under the acting rules; of two on one feature the first, which is given, acts."""
    change = tl.zeros([BS], dtype=tl.float32)
    for back in tl.static_range(0, K - 1):
        by_, scale_, shift_, floor_, ceiling_ = _level(owner, numbers, K - 1 - back, b, B, s, here, S, K)
        change = _changed(change, f, acts, r, by_, scale_, shift_, floor_, ceiling_)
    return _changed(change, f, acts, r, by, scale, shift, floor, ceiling)


@triton.jit
def _put(out, x, w, change, touched, b, piece: tl.constexpr, D: tl.constexpr, PIECE: tl.constexpr):
    """Write a piece of the activation with its change; without one, its own bits."""
    if piece * PIECE < D:
        d = piece * PIECE + tl.arange(0, PIECE)
        moved = (x.to(tl.float32) + tl.sum(w * change[:, None], axis=0)).to(x.dtype)
        tl.store(out + b * D + d, tl.where(touched > 0, moved, x), mask=d < D)


@triton.jit
def _write(y, out, W_dec, change, x0, x1, x2, x3, w0, w1, w2, w3, b, s, here, D: tl.constexpr, S: tl.constexpr,
           BS: tl.constexpr, PIECE: tl.constexpr, WHOLE: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    """Write the activation with its change."""
    touched = tl.max((change != 0).to(tl.int32), axis=0)
    if WHOLE:
        if not EARLY:
            w0, w1, w2, w3 = _all_columns(W_dec, b, s, here, D, S, BS, PIECE, True)
        _put(out, x0, w0, change, touched, b, 0, D, PIECE)
        _put(out, x1, w1, change, touched, b, 1, D, PIECE)
        _put(out, x2, w2, change, touched, b, 2, D, PIECE)
        _put(out, x3, w3, change, touched, b, 3, D, PIECE)
    else:
        used = here & (s * 0 + touched > 0)
        for piece in tl.static_range(0, (D + PIECE - 1) // PIECE):
            w = _columns(W_dec, b, s, used, piece, D, S, BS, PIECE, True)
            _put(out, _activation(y, b, piece, D, PIECE), w, change, touched, b, piece, D, PIECE)


@triton.jit
def step(y, out, raw, acted, fired, column, count, W_enc, W_dec, units, weights, owner, numbers, editors, layer, B, C,
          number, known, late, last_open, hold, masks, bounds, read_at, spans, windowed, means, wanted, wants, terms,
          latched, tail, tail_counts, writes, opened, sums,
          D: tl.constexpr, S: tl.constexpr, R: tl.constexpr, L: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
          W: tl.constexpr, KEEPS: tl.constexpr, READS: tl.constexpr, EDITS: tl.constexpr, GATES: tl.constexpr,
          REMEMBERS: tl.constexpr, BS: tl.constexpr, BR: tl.constexpr, BL: tl.constexpr, BM: tl.constexpr,
          BW: tl.constexpr, PIECE: tl.constexpr, WHOLE: tl.constexpr, EARLY: tl.constexpr,
          NEVER: tl.constexpr):  # fmt: skip
    """One token at a site: record it, read its features, open gates, write edits."""
    b = tl.program_id(0).to(tl.int64)
    s, r, reading = tl.arange(0, BS), tl.arange(0, BR), tl.arange(0, BL)
    rules, readings, at, fires = r < R, reading < L, b * C + tl.load(column), tl.load(fired)
    here = s < (S if WHOLE else tl.load(count + b))
    e0, e1, e2, e3 = _all_columns(W_enc, b, s, here, D, S, BS, PIECE, WHOLE)
    w0, w1, w2, w3 = _all_columns(W_dec, b, s, here, D, S, BS, PIECE, EARLY)
    if READS:
        bias, gain, lift, threshold = _unit(units + b * S + s, B * S, here)
        is_open = is_set(opened + b * R + r, rules)
        if L > 0:
            total, weight = _weights(sums, weights, b, s, here, reading, readings, S, L)
    if EDITS:
        edits_here, writes_here = is_set(editors + b * R + r, rules), is_set(writes + b * R + r, rules)
        by, scale, shift, floor, ceiling = _level(owner, numbers, 0, b, B, s, here, S, K)
    x0, x1 = _activation(y, b, 0, D, PIECE), _activation(y, b, 1, D, PIECE)
    x2, x3 = _activation(y, b, 2, D, PIECE), _activation(y, b, 3, D, PIECE)
    tl.debug_barrier()
    pre = _read(y, raw, W_enc, x0, x1, x2, x3, e0, e1, e2, e3, b, at, s, here, KEEPS, READS, D, S, BS, PIECE, WHOLE)
    if READS:
        pre += bias
        f = tl.where(pre > threshold, tl.maximum(gain * pre + lift, 0.0), 0.0)
        if L > 0:
            total += tl.sum(weight * f[:, None], axis=0)
            tl.store(sums + b * L + reading, total, mask=readings)
            if GATES:
                is_open = open_gates(b, B, layer, total, is_open, number, known, late, last_open, hold, masks, bounds,
                                read_at, spans, windowed, means, wanted, wants, terms, latched, tail, tail_counts,
                                opened, L, R, M, W, REMEMBERS, BL, BR, BM, BW, NEVER)  # fmt: skip
        if EDITS:
            acts = is_open & edits_here
            tl.store(acted + at * R + r, acts.to(tl.uint8), mask=rules)
            change = _change(f, acts & writes_here, r, by, scale, shift, floor, ceiling, owner, numbers, b, B, s, here,
                             S, K, BS)  # fmt: skip
            _write(y, out, W_dec, change, x0, x1, x2, x3, w0, w1, w2, w3, b, s, here, D, S, BS, PIECE, WHOLE, EARLY)
    if b == 0:
        tl.store(fired, fires + 1)
