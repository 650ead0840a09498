"""A feature, or a probe: what its SAE and policies say of it, its top contexts, and where it fired in the store."""

from __future__ import annotations

from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from steerkit.audit import Query, StoredRecord, TurnRecord, feature_of, page, read_content, values_of
from steerkit.errors import AuditError
from steerkit.report import FeatureReport
from steerkit.sites import Feature
from steerkit.viewer.feature_facts import facts_of
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
    """All that is known of a feature, and where it fired. Raises AuditError for a name that no feature can have."""
    name = request.path_params["name"][:200]
    before = request.query_params.get("before", "")
    start = int(before) if before.isdecimal() and len(before) < 19 else None
    found = page(pages.store, Query(kind="turn", feature=name, above=0.0), _RECORDS, before=start, seconds=_SECONDS)
    turns = [(stored, turn) for stored in found.records if (turn := _turn(pages, stored)) is not None]
    tried = (_fired(pages, stored, turn, name) for stored, turn in turns)
    fired = sorted((one for one in tried if one is not None), key=lambda one: -one.value)
    shown = [turn for _, turn in turns] or _newest(pages)
    feature = feature_of(name) or next((one for turn in shown for one in _features(turn, name)), None)
    labels = {label for turn in shown for label in _labels(turn, name)}
    return pages.show(
        request,
        "feature_in_store.html",
        name=name,
        feature=feature,
        facts=next((facts_of(turn.turn, feature) for turn in shown), None) if feature else None,
        view=next((one for one in _reports(pages) if one.feature == feature), None),
        labels=sorted(labels),
        bounds=sorted({bound for turn in shown for bound in _bounds(turn, name)}),
        fired=fired,
        high=max((one.value for one in fired), default=0.0),
        found=found,
        folder=str(pages.reports.folder),
    )


def _newest(pages: Pages) -> list[ShownTurn]:
    """The newest turn, for a feature that fired in none."""
    newest = page(pages.store, Query(kind="turn"), 1, seconds=_SECONDS).records
    return [turn for stored in newest if (turn := _turn(pages, stored)) is not None]


def _reports(pages: Pages) -> list[FeatureReport]:
    return [one.report for one in pages.reports.all() if isinstance(one.report, FeatureReport)]


def _bounds(shown: ShownTurn, name: str) -> list[str]:
    """Rules' bounds on it."""
    return [str(one) for key, some in shown.bounds.items() if name in (key, key.partition(".")[2]) for one in some]


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
    found = [wanted] if wanted is not None else _features(shown, name)
    return [shown.named[one] for one in found if one in shown.named]


def _features(shown: ShownTurn, name: str) -> list[Feature]:
    """The features that a turn's policies call so; none for a probe."""
    named = {} if shown.trace is None else shown.trace.features
    return [one for key, one in named.items() if name in (key, key.partition(".")[2])]
