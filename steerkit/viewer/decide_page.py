"""The queue of held calls, and decisions about them: what was decided is on record before a page says so."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from steerkit.audit import Approvals, HeldEntry, Store, TurnRecord, read_content
from steerkit.errors import ApprovalError
from steerkit.viewer.call_cards import Card, cards_of
from steerkit.viewer.pages import Pages
from steerkit.viewer.rows import last_request

_MOST_BODY: Final = 16 << 10
"""Bytes of a form."""
_MOST_NOTE: Final = 2000
_MOST_NAME: Final = 120


class Person(NamedTuple):
    """Somebody who looks at the pages."""

    decides: bool = False
    """May decide about held calls."""
    name: str = ""
    """Name that the form begins with."""
    is_known: bool = False
    """Decides under that name and no other, as a key says who it is."""


@dataclass(frozen=True)
class Deciding:
    """The terms on which decisions are taken."""

    seconds: float = 3600.0
    """How long a held call waits for one."""
    person: Callable[[Scope], Person] = lambda scope: Person()
    """Whoever a request is from; by default somebody who only reads."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """Stands in the viewer's own forms alone: nobody else's page can send it."""


NOT_HERE: Final = Deciding()
"""Nothing is decided here."""


class Waiting(NamedTuple):
    """A held call in the queue."""

    entry: HeldEntry
    card: Card
    asked: str
    """The request that led to it."""
    left: int
    """Seconds until it expires."""


def decide_page(deciding: Deciding, pages: Pages, request: Request) -> Response:
    """The calls that wait, the one that expires first at the top; turns that cannot be read; what was just decided."""
    approvals = Approvals(pages.store, deciding.seconds)
    entries = sorted(approvals.pending(), key=lambda entry: entry.expires)
    done = None
    if id := request.query_params.get("done"):
        done = approvals.get(id)
    return pages.show(
        request,
        "decide.html",
        person=deciding.person(request.scope),
        token=deciding.token,
        waiting=[_waiting(pages.store, entry) for entry in entries],
        damaged=approvals.damaged(),
        done=done,
    )


def _waiting(store: Store, entry: HeldEntry) -> Waiting:
    turn = read_content(store.get(entry.record))
    assert isinstance(turn, TurnRecord)  # held calls are of turns
    card = cards_of(turn, ())[turn.call_ids.index(entry.call_id)]
    left = max(0, round((entry.expires - datetime.now(UTC)).total_seconds()))
    return Waiting(entry, card, last_request(turn), left)


async def decide(deciding: Deciding, pages: Pages, request: Request) -> Response:
    """Take a decision from the form, write it down, and go on to the page that shows it."""
    person = deciding.person(request.scope)
    if not person.decides:
        return _refused(pages, request, 403, "You may not decide here; `steerkit view --decide` allows it.")
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 9 or int(length) > _MOST_BODY:
        return _refused(
            pages, request, 413, f"The form is longer than {_MOST_BODY} bytes, or does not say how long it is."
        )
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    if not hmac.compare_digest(form.get("token", "").encode(), deciding.token.encode()):
        return _refused(pages, request, 403, "The form is of another start of the viewer; load the page again.")
    word, note = form.get("decision"), form.get("note", "").strip()
    by = person.name if person.is_known else form.get("by", "").strip()
    if word not in ("approve", "refuse") or not by or len(by) > _MOST_NAME or len(note) > _MOST_NOTE:
        said = f"A decision needs a name of at most {_MOST_NAME} characters, and a note of at most {_MOST_NOTE}."
        return _refused(pages, request, 400, said)
    id = request.path_params["id"]
    try:
        await run_in_threadpool(_write, pages, deciding, id, word == "approve", by, note)
    except ApprovalError as error:
        return _refused(pages, request, 409, str(error).removeprefix(f"{id}: "))
    base = request.scope.get("root_path", "")
    return RedirectResponse(f"{base}/decide?done={quote(id)}", 303)


def _write(pages: Pages, deciding: Deciding, id: str, approve: bool, by: str, note: str) -> None:
    store = Store(pages.store.path)
    try:
        Approvals(store, deciding.seconds).decide(id, approve=approve, by=by, note=note)
    finally:
        store.close()


def _refused(pages: Pages, request: Request, status: int, said: str) -> Response:
    return pages.show(request, "error.html", status, title="Not decided", said=said)
