"""One token of a turn: what was read at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from steerkit.audit import Strong, TurnRecord, strongest_at
from steerkit.errors import AuditError
from steerkit.report import AlternativeRow, Bound
from steerkit.sites import Feature
from steerkit.types import Edit, Trace
from steerkit.viewer.pages import Pages
from steerkit.viewer.shown_turn import ShownTurn, shown_turn


class Watched(NamedTuple):
    """A watched feature or probe at a token."""

    name: str
    value: float
    high: float
    """Its highest value in the turn."""
    bounds: tuple[str, ...]
    """What rules do above and below which value."""


class Layer(NamedTuple):
    """The strongest features of one site at a token."""

    site: str
    features: list[tuple[str, str, float]]
    """Handle as `LAYER:INDEX`, label, and value; strongest first."""


def token_page(pages: Pages, request: Request) -> Response:
    """A token of a turn. Raises AuditError where there is none."""
    shown = shown_turn(pages, request.path_params["id"])
    position = request.path_params["position"]
    turn = shown.turn
    ids = (*turn.prompt_ids, *turn.reply_ids)
    if position >= len(ids):
        raise AuditError(f"record {shown.stored.id}: it has {len(ids)} tokens; got token {position}")
    trace = shown.trace or Trace()
    texts = None if shown.vocabulary is None else shown.vocabulary.texts(ids)
    layers = [_layer(str(site), strong, shown.labels) for site, strong in strongest_at(trace, position).items()]
    return pages.show(
        request,
        "token.html",
        shown=shown,
        position=position,
        id=ids[position],
        text="" if texts is None else texts[position],
        is_reply=position >= len(turn.prompt_ids),
        watched=_watched(trace, position, shown.bounds),
        layers=layers,
        high=max((value for layer in layers for _, _, value in layer.features), default=0.0),
        edits=_edits(turn, position),
        folder=str(pages.reports.folder),
        instead=_instead(pages, shown, position),
        masked=turn.constrained is not None and position in turn.constrained.masked,
    )


def _instead(pages: Pages, shown: ShownTurn, position: int) -> Sequence[AlternativeRow]:
    """The likeliest tokens at a token of the reply, where a replay read them."""
    step = position - len(shown.turn.prompt_ids)
    found = (one.alternatives for _, one in pages.reports.replays(shown.stored.id))
    return next((steps[step] for steps in found if 0 <= step < len(steps)), ())


def _watched(trace: Trace, position: int, bounds: Mapping[str, list[Bound]]) -> list[Watched]:
    at = position - trace.start
    return [
        Watched(name, values[at], max(map(abs, values)), tuple(map(str, bounds.get(name, ()))))
        for name, values in trace.watched.items()
        if 0 <= at < len(values)
    ]


def _layer(site: str, strong: list[Strong], labels: Mapping[Feature, str]) -> Layer:
    listed = [(one.feature.address, labels.get(one.feature, ""), one.value) for one in strong]
    return Layer(site, listed)


def _edits(turn: TurnRecord, position: int) -> list[Edit]:
    return [edit for edit in turn.edits if position in edit.positions]
