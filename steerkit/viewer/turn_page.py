"""One record: a turn with all that is known of it, or another record as its fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steerkit.audit import (
    ApprovalRecord,
    ExecutionRecord,
    Gone,
    Record,
    Store,
    StoredRecord,
    TurnRecord,
    read_content,
    record_json,
    why_broken,
)
from steerkit.errors import AuditError
from steerkit.report import event_text, event_word, meta_text
from steerkit.viewer.beside_page import LayerPair, Leaf, Replies, calls_beside, layers_beside, layers_of, replies_beside
from steerkit.viewer.call_cards import Event, cards_of
from steerkit.viewer.pages import Pages
from steerkit.viewer.rows import row_of, time_of
from steerkit.viewer.shown_turn import ShownTurn, shown_turn
from steerkit.viewer.strip import Strip, strip_of
from steerkit.viewer.talk import talk_of

_LONGEST: Final = 200
"""Characters of a feature's name in an address."""
_MOST_BODY: Final = 20_000
"""Bytes that are shown of a record that cannot be read."""
_NEAR: Final = 20_000
"""Records after a turn that are looked through for what became of its calls."""


class Unsteered(NamedTuple):
    """The turn that the same policies let the model make without steering."""

    same: bool
    """True if it makes the same calls and says the same."""
    leaves: Sequence[Leaf]
    replies: Replies | None
    """Token by token; None where they were redacted."""
    layers: Sequence[LayerPair]
    """Without steering, and with it."""


def record_page(pages: Pages, request: Request) -> Response:
    """One record. Raises AuditError where there is none of that id or number."""
    store = pages.store
    stored = store.get(request.path_params["id"])
    broken = why_broken(store, stored)
    head: dict[str, Any] = {"stored": stored, "when": time_of(stored), "broken": broken}
    try:
        record = read_content(stored)
    except AuditError as error:
        body = stored.body[:_MOST_BODY].decode("utf-8", "replace")
        said: dict[str, Any] = {"broken": broken or str(error), "fields": {"body": body}, "kind": "", "turn": None}
        return pages.show(request, "record.html", **{**head, **said})
    if not isinstance(record, TurnRecord):
        return pages.show(request, "record.html", **head, **_plain(record))
    shown = ShownTurn(store, stored, record)
    of_turn = _of_turn(shown, request.query_params.get("show", ""))
    return pages.show(request, "turn.html", **head, **of_turn, replays=_replays(pages, stored))


def turn_file(pages: Pages, reference: str) -> str:
    """The page of a turn as a file that stands alone. Raises AuditError where there is none."""
    shown = shown_turn(pages, reference)
    head = {"stored": shown.stored, "when": time_of(shown.stored), "broken": why_broken(pages.store, shown.stored)}
    return pages.file("turn.html", **head, **_of_turn(shown, ""), replays=())


def _of_turn(shown: ShownTurn, wanted: str) -> dict[str, Any]:
    """The values of a turn's page; `wanted` names the feature that its tokens are shaded by."""
    turn = shown.turn
    name = wanted[:_LONGEST].strip() or shown.first_name()
    events, all_seen = _events(shown.store, shown.stored)
    return {
        "turn": turn,
        "shown": shown,
        "feature": name,
        "strip": _strip(shown, name),
        "row": row_of(shown.store, shown.stored),
        "cards": cards_of(turn, events),
        "all_seen": all_seen,
        "talk": talk_of(turn),
        "unsteered": _unsteered(shown),
        "metadata": "" if turn.metadata is None else meta_text(turn.metadata),
        "near": _NEAR,
    }


def record_as_json(pages: Pages, request: Request) -> Response:
    """One record as it is stored. Raises AuditError where there is none of that id or number."""
    stored = pages.store.get(request.path_params["id"])
    place = {"sequence": stored.sequence, "id": stored.id, "time": stored.time}
    chain = {"previous": stored.previous, "hash": stored.hash}
    return JSONResponse({**place, **chain, "body": stored.content})


def _plain(record: Record) -> dict[str, Any]:
    known = {"format", "kind", "committed"}
    fields = {key: value for key, value in record_json(record).items() if key not in known}
    turn = record.turn if isinstance(record, (ApprovalRecord, ExecutionRecord)) else None
    return {"fields": fields, "kind": record.kind or "record", "turn": turn}


def _replays(pages: Pages, stored: StoredRecord) -> list[tuple[str, str]]:
    """Names of a turn's replays, and how each was made."""
    return [(name, one.how) for name, one in pages.reports.replays(stored.id)]


def _events(store: Store, turn: StoredRecord) -> tuple[list[Event], bool]:
    """What became of a turn's calls, as far as the records near it say; and whether all later ones were looked at."""
    last = turn.sequence + _NEAR
    found = []
    named = ("instr(body, ?)", turn.id.encode())
    for stored in store.records(after=turn.sequence, where=[named, ("sequence <= ?", last)]):
        try:
            record = read_content(stored)
        except AuditError:
            continue  # the list shows it as what it is
        if isinstance(record, (ApprovalRecord, ExecutionRecord)) and record.turn == turn.id:
            found.append(Event(stored.id, time_of(stored), record.call_id, event_word(record), event_text(record)))
    return found, store.newest <= last


def _unsteered(shown: ShownTurn) -> Unsteered | None:
    turn, other = shown.turn, shown.turn.counterfactual
    if other is None or not turn.edits:
        return None
    leaves = calls_beside(other.calls, turn.calls)
    gone = isinstance(other.reply_ids, Gone) or isinstance(turn.reply_ids, Gone)
    replies = None if gone else replies_beside((other.reply_ids, turn.reply_ids), (shown.vocabulary, shown.vocabulary))
    same = all(leaf.kind == "same" for leaf in leaves) and other.text == turn.text
    return Unsteered(same, leaves, replies, layers_beside(other.layers, layers_of(shown)))


def _strip(shown: ShownTurn, name: str) -> Strip | None:
    if not shown.has_tokens:
        return None
    bounds = [one for key, some in shown.bounds.items() if name in (key, key.partition(".")[2]) for one in some]
    return strip_of(shown.turn, shown.trace, shown.vocabulary, name, bounds)
