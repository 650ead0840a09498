"""Two turns, or a turn and its replay, side by side, aligned at the first token that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from steerkit.audit import Node, diff_calls, layer_activity
from steerkit.errors import AuditError, SettingError
from steerkit.report import ReplayReport, json_text
from steerkit.sites import Site
from steerkit.types import CallLike
from steerkit.viewer.pages import Pages
from steerkit.viewer.rows import time_of
from steerkit.viewer.shown_turn import ShownTurn, shown_turn
from steerkit.viewer.vocabulary import Vocabulary


class Leaf(NamedTuple):
    """A value of the calls of two turns."""

    name: str
    """`call` for a call's name, else the argument's; with the call's number where there are several."""
    kind: str
    """`same`, `changed`, `removed` or `added`."""
    first: str
    """As JSON."""
    second: str


class Replies(NamedTuple):
    """Two replies, token by token."""

    common: list[str]
    """Tokens that both begin with."""
    first: list[str]
    """The others."""
    second: list[str]

    @property
    def same(self) -> bool:
        """True if no token differs."""
        return not self.first and not self.second


class LayerPair(NamedTuple):
    """Activation of a site's strongest features over two replies, a token's mean."""

    site: str
    first: float
    second: float


class Side(NamedTuple):
    """One of two turns that stand side by side."""

    title: str
    record: str | None
    """Id of its record; None of a replay, which has none."""
    about: str
    """When it was made, and with what."""
    decisions: Sequence[str]
    steered: bool
    calls: Sequence[CallLike]
    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    vocabulary: Vocabulary | None
    layers: Mapping[str, float]
    """As `layers_of` has them."""


def calls_beside(first: Sequence[CallLike], second: Sequence[CallLike]) -> list[Leaf]:
    """Every value of two turns' calls."""
    several = max(len(first), len(second)) > 1
    return [_leaf(node, several) for node in diff_calls(first, second)]


def replies_beside(
    both: tuple[Sequence[int], Sequence[int]], vocabularies: tuple[Vocabulary | None, Vocabulary | None]
) -> Replies:
    """Two replies, cut at the first token that differs; each with its own vocabulary."""
    first, second = both
    common = next((at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(first), len(second)) if common is None else common
    one, other = map(_texts, both, vocabularies)
    return Replies(one[:at], one[at:], other[at:])


def layers_beside(first: Mapping[str, float], second: Mapping[str, float]) -> list[LayerPair]:
    """The sites of two turns, in causal order; none where one of the two has no features."""
    if not first or not second:
        return []
    sites = sorted({site for name in (*first, *second) if (site := _site(name)) is not None})
    return [LayerPair(str(site), first.get(str(site), 0.0), second.get(str(site), 0.0)) for site in sites]


def layers_of(shown: ShownTurn) -> dict[str, float]:
    """By site, the activation of a turn's strongest features over its reply, a token's mean."""
    if not shown.has_tokens:
        return {}
    return {str(site): value for site, value in layer_activity(shown.trace, len(shown.turn.prompt_ids)).items()}


def beside_page(pages: Pages, request: Request) -> Response:
    """A turn beside another one, or beside its replay. Raises SteerkitError where one of them is none."""
    wanted, name = (request.query_params.get(key, "").strip()[:200] for key in ("with", "replay"))
    first = shown_turn(pages, request.path_params["id"])
    if not wanted and not name:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/r/{first.stored.id}", 303)
    one = _recorded(first)
    other = _replayed(pages, first, name) if name else _recorded(shown_turn(pages, wanted[:40]))
    return pages.show(
        request,
        "beside.html",
        sides=[one, other],
        leaves=calls_beside(one.calls, other.calls),
        prompt=replies_beside((one.prompt_ids, other.prompt_ids), (one.vocabulary, other.vocabulary)),
        reply=replies_beside((one.reply_ids, other.reply_ids), (one.vocabulary, other.vocabulary)),
        layers=layers_beside(one.layers, other.layers),
    )


def _recorded(shown: ShownTurn) -> Side:
    if not shown.has_tokens:
        raise AuditError("the tokens of one of the two turns were redacted, so there is nothing to hold side by side")
    turn = shown.turn
    policies = [one.name for one in turn.policies]
    about = f"{time_of(shown.stored)} UTC, {turn.model.name}{_under(policies)}"
    decisions = [one.decision for one in turn.verdicts]
    ids = (turn.prompt_ids, turn.reply_ids)
    said = (f"Record {shown.stored.sequence}", shown.stored.id, about, decisions, bool(turn.edits))
    return Side(*said, turn.calls, *ids, shown.vocabulary, layers_of(shown))


def _replayed(pages: Pages, shown: ShownTurn, name: str) -> Side:
    """The replay of a turn in a report."""
    found = pages.reports.get(name)
    if not isinstance(found, ReplayReport) or found.record != shown.stored.id:
        raise SettingError(f"{name}: no replay of record {shown.stored.sequence}")
    made = found.made
    title = "The replay" if found.how == "again" else found.how.capitalize()
    about = f"{name}{_under([one.name for one in made.policies])}"
    said = (title, None, about, [one.decision for one in made.verdicts], False)
    calls, ids = [one.call for one in made.calls], (shown.turn.prompt_ids, made.reply_ids)
    return Side(*said, calls, *ids, shown.vocabulary, made.layers)


def _under(policies: Sequence[str]) -> str:
    return f" under {', '.join(policies)}" if policies else " without a policy"


def _site(name: str) -> Site | None:
    try:
        return Site.of(name)
    except ValueError:
        return None


def _leaf(node: Node, several: bool) -> Leaf:
    call, _, inner = node.path.removeprefix("calls[").partition("]")
    name = inner.removeprefix(".")
    name = "call" if name == "name" else name.removeprefix("arguments").removeprefix(".") or "arguments"
    said = f"{name} (call {int(call) + 1})" if several and call.isdecimal() else name
    return Leaf(said, node.kind, json_text(node.first), json_text(node.second))


def _texts(ids: Sequence[int], vocabulary: Vocabulary | None) -> list[str]:
    return [f"⟨{id}⟩" for id in ids] if vocabulary is None else vocabulary.texts(tuple(ids))
