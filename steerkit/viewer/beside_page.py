"""Two turns side by side, aligned at the first token that differs."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from steerkit.audit import Node, diff_calls
from steerkit.errors import AuditError
from steerkit.report import json_text
from steerkit.sites import Site
from steerkit.types import CallLike, Trace
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


def beside_page(pages: Pages, request: Request) -> Response:
    """A turn beside another. Raises AuditError where one of them is none."""
    wanted = request.query_params.get("with", "").strip()[:40]
    first = shown_turn(pages, request.path_params["id"])
    if not wanted:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/r/{first.stored.id}", 303)
    second = shown_turn(pages, wanted)
    if not (first.has_tokens and second.has_tokens):
        raise AuditError("the tokens of one of the two turns were redacted, so there is nothing to hold side by side")
    one, other = first.turn, second.turn
    vocabularies = (first.vocabulary, second.vocabulary)
    return pages.show(
        request,
        "beside.html",
        sides=[(first, time_of(first.stored)), (second, time_of(second.stored))],
        leaves=calls_beside(one.calls, other.calls),
        prompt=replies_beside((one.prompt_ids, other.prompt_ids), vocabularies),
        reply=replies_beside((one.reply_ids, other.reply_ids), vocabularies),
        layers=_layers(first, second),
    )


def _leaf(node: Node, several: bool) -> Leaf:
    call, _, inner = node.path.removeprefix("calls[").partition("]")
    name = inner.removeprefix(".")
    name = "call" if name == "name" else name.removeprefix("arguments").removeprefix(".") or "arguments"
    said = f"{name} (call {int(call) + 1})" if several and call.isdecimal() else name
    return Leaf(said, node.kind, json_text(node.first), json_text(node.second))


def _texts(ids: Sequence[int], vocabulary: Vocabulary | None) -> list[str]:
    return [f"⟨{id}⟩" for id in ids] if vocabulary is None else vocabulary.texts(tuple(ids))


def _layers(first: ShownTurn, second: ShownTurn) -> list[LayerPair]:
    pair = [_activity(one.trace, len(one.turn.prompt_ids)) for one in (first, second)]
    return [LayerPair(str(site), *(one.get(site, 0.0) for one in pair)) for site in sorted({*pair[0], *pair[1]})]


def _activity(trace: Trace | None, start: int) -> dict[Site, float]:
    """Mean over the reply's tokens of the sum of the strongest features, by site."""
    found = {}
    for top in trace.top if trace else ():
        rows = max(0, min(top.count, start - top.start))
        data = top.value[2 * rows * top.k :]
        tokens = top.count - rows
        if tokens:
            found[top.site] = math.fsum(struct.unpack(f"<{len(data) // 2}e", data)) / tokens
    return found
