"""A feature, or a probe: what policies call it, and where it fired in the store."""

from __future__ import annotations

from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from steerkit.audit import Query, StoredRecord, TurnRecord, feature_of, page, read_content, values_of
from steerkit.errors import AuditError
from steerkit.viewer.pages import Pages
from steerkit.viewer.rows import Row, row_of
from steerkit.viewer.shown_turn import ShownTurn

_RECORDS: Final = 40
_SECONDS: Final = 0.6
_AROUND: Final = 10
"""Tokens to either side of the one at which it is highest."""


class Fired(NamedTuple):
    """A turn in which it fired."""

    row: Row
    value: float
    """Its highest."""
    position: int
    """Where that is."""
    tokens: list[str]
    """Those around it; empty where the tokenizer is not here."""
    values: list[float]
    strongest: int
    """Place of the highest among them."""


def feature_page(pages: Pages, request: Request) -> Response:
    """Where a feature fired in the newest turns. Raises AuditError for a name that no feature can have."""
    name = request.path_params["name"][:200]
    before = request.query_params.get("before", "")
    start = int(before) if before.isdecimal() and len(before) < 19 else None
    found = page(pages.store, Query(kind="turn", feature=name, above=0.0), _RECORDS, before=start, seconds=_SECONDS)
    turns = [(stored, _turn(pages, stored)) for stored in found.records]
    tried = (_fired(pages, stored, turn, name) for stored, turn in turns if turn is not None)
    fired = sorted((one for one in tried if one is not None), key=lambda one: -one.value)
    labels = {label for _, turn in turns if turn is not None for label in _labels(turn, name)}
    bounds = {
        str(bound)
        for _, turn in turns
        if turn is not None
        for key, some in turn.bounds.items()
        if name in (key, key.partition(".")[2])
        for bound in some
    }
    return pages.show(
        request,
        "feature_in_store.html",
        name=name,
        labels=sorted(labels),
        bounds=sorted(bounds),
        fired=fired,
        high=max((one.value for one in fired), default=0.0),
        found=found,
    )


def _turn(pages: Pages, stored: StoredRecord) -> ShownTurn | None:
    try:
        turn = read_content(stored)
    except AuditError:
        return None
    return ShownTurn(pages.store, stored, turn) if isinstance(turn, TurnRecord) else None


def _fired(pages: Pages, stored: StoredRecord, shown: ShownTurn, name: str) -> Fired | None:
    values = values_of(shown.trace, name) if shown.trace is not None else {}
    if not values:
        return None
    position = max(values, key=values.__getitem__)
    ids = (*shown.turn.prompt_ids, *shown.turn.reply_ids) if shown.has_tokens else ()
    start, end = max(0, position - _AROUND), min(len(ids), position + _AROUND + 1)
    texts = shown.vocabulary.texts(ids[start:end]) if shown.vocabulary is not None else []
    near = [values.get(at, 0.0) for at in range(start, start + len(texts))]
    return Fired(row_of(pages.store, stored), values[position], position, texts, near, position - start)


def _labels(shown: ShownTurn, name: str) -> list[str]:
    """Names and labels that a turn's policies give it."""
    wanted = feature_of(name)
    if wanted is not None:
        return [shown.labels[wanted]] if wanted in shown.labels else []
    trace = shown.trace
    named = (
        [] if trace is None else [one for key, one in trace.features.items() if name in (key, key.partition(".")[2])]
    )
    return [f"{one}, {shown.labels.get(one, name)}" for one in named]
