"""Values of one feature or probe in a trace, found without reading the others."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from typing import NamedTuple

from steerkit.sites import Feature, Site
from steerkit.types import TopK, Trace


class Strong(NamedTuple):
    """One of the strongest features of a token."""

    feature: Feature
    value: float
    """Raw activation, before any edit."""


def values_of(trace: Trace, name: str) -> dict[int, float]:
    """Raw values by position: of a watched NAME or POLICY.NAME, or of LAYER:INDEX or SITE:INDEX.

    A token at which a feature is not among the strongest of its site, and not watched, has no entry. Where several
    policies watch the same name, the highest value counts.
    """
    found: dict[int, float] = {}
    wanted = feature_of(name)
    for key, values in trace.watched.items():
        if name in (key, key.partition(".")[2]) or (wanted is not None and trace.features.get(key) == wanted):
            for position, value in enumerate(values, start=trace.start):
                found[position] = max(value, found.get(position, value))
    for top in trace.top if wanted is not None else ():
        if wanted is not None and top.site == wanted.site:
            found |= {position: value for position, value in _in_top(top, wanted.index) if position not in found}
    return found


def feature_of(name: str) -> Feature | None:
    """The feature that LAYER:INDEX or SITE:INDEX names; None of any other name."""
    site, colon, index = name.rpartition(":")
    if not colon or not index.isdecimal() or len(index) > 9:
        return None
    try:
        return Feature(Site.of(int(site) if site.isdecimal() and len(site) < 10 else site), int(index))
    except ValueError:
        return None


def layer_activity(trace: Trace | None, start: int) -> dict[Site, float]:
    """By site, the sum of a token's strongest features, its mean over the traced tokens from position `start` on."""
    found = {}
    for top in trace.top if trace else ():
        rows = max(0, min(top.count, start - top.start))
        data = top.value[2 * rows * top.k :]
        tokens = top.count - rows
        if tokens:
            found[top.site] = math.fsum(struct.unpack(f"<{len(data) // 2}e", data)) / tokens
    return found


def strongest_at(trace: Trace, position: int) -> dict[Site, list[Strong]]:
    """The strongest features of each site at a token, strongest first."""
    found = {}
    for top in trace.top:
        row = position - top.start
        if 0 <= row < top.count:
            here = slice(2 * row * top.k, 2 * (row + 1) * top.k)
            pairs = zip(_numbers(top.index[here]), _halves(top.value[here]), strict=True)
            found[top.site] = [Strong(Feature(top.site, index), value) for index, value in pairs if value > 0]
    return found


def _in_top(top: TopK, index: int) -> list[tuple[int, float]]:
    """Positions and values of a feature among the strongest of its site."""
    numbers, found, at = _numbers(top.index), [], -1
    while index < 1 << 16:
        try:
            at = numbers.index(index, at + 1)
        except ValueError:
            break
        value = _halves(top.value[2 * at : 2 * at + 2])[0]
        if value > 0:
            found.append((top.start + at // top.k, value))
    return found


def _numbers(data: bytes) -> array[int]:
    numbers = array("H", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _halves(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 2}e", data)
