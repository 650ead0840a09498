"""Packs a turn's traces into bytes beside its record, and back.

Format: `SKT1`, then zlib over one canonical JSON line (watched values, places, and site, start, count and k of each
block) and the blocks' bytes in the same order: indices as little-endian uint16, activations as little-endian float16.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

from steerkit.audit.log.canonical import canonical, parse_canonical
from steerkit.errors import AuditError
from steerkit.sites import Feature, Site
from steerkit.types import Span, TopK, Trace

_MAGIC: Final = b"SKT1"
_MAX_BYTES: Final = 1 << 30
"""Bounds what an unpacked trace may take: a bomb is refused, not unpacked."""


def pack(trace: Trace) -> bytes:
    """The watched values and strongest features of a trace; its edits stand in the record."""
    head: dict[str, Any] = {
        "start": trace.start,
        "watched": {name: list(values) for name, values in trace.watched.items()},
        "features": {name: [feature.site.compact, feature.index] for name, feature in trace.features.items()},
        "top": [[top.site.compact, top.start, top.count, top.k] for top in trace.top],
        "places": {place: [list(span) for span in spans] for place, spans in trace.places.items()},
    }
    if trace.forced:
        head["forced"] = [list(span) for span in trace.forced]
    blocks = b"".join(top.index + top.value for top in trace.top)
    return _MAGIC + zlib.compress(canonical(head) + b"\n" + blocks, 6)


def unpack(data: bytes) -> Trace:
    """The trace of packed bytes, without edits.

    Raises:
        AuditError: the bytes are no packed trace.
    """
    if not data.startswith(_MAGIC):
        raise AuditError("a trace does not begin as one; expected SKT1")
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data[len(_MAGIC) :], _MAX_BYTES)
    except zlib.error as error:
        raise AuditError(f"a trace cannot be unpacked: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise AuditError("a trace is cut off, too large, or has something after its end")
    line, _, blocks = content.partition(b"\n")
    head = parse_canonical(line)
    try:
        return _trace(head, blocks)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise AuditError(f"a trace's head is not what it must be: {error}") from None


def _counted(*numbers: Any) -> None:
    if any(type(one) is not int or not 0 <= one < 2**63 for one in numbers):
        raise ValueError(f"got {numbers}, expected counts")


def _site(value: Any) -> Site:
    if not isinstance(value, str):
        _counted(value)
    return Site.of(value)


def _feature(site: Any, index: Any) -> Feature:
    _counted(index)
    return Feature(_site(site), index)


def _trace(head: dict[str, Any], blocks: bytes) -> Trace:
    top, at = [], 0
    for site, start, count, k in head["top"]:
        _counted(start, count, k)
        size = 2 * count * k
        top.append(TopK(_site(site), start, count, k, blocks[at : at + size], blocks[at + size : at + 2 * size]))
        at += 2 * size
    if at != len(blocks):
        raise ValueError(f"got {len(blocks)} bytes of features, expected {at}")
    watched = {name: tuple(map(float, values)) for name, values in dict(head["watched"]).items()}
    features = {name: _feature(*place) for name, place in dict(head["features"]).items()}
    places = {place: tuple(Span(*span) for span in spans) for place, spans in dict(head.get("places", {})).items()}
    forced = tuple(Span(*span) for span in head.get("forced", ()))
    return Trace(int(head["start"]), watched, features, tuple(top), places=places, forced=forced)
