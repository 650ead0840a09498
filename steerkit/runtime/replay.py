"""Makes a recorded turn again, as it was or as it would have been under other policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Literal, NamedTuple

from torch import Tensor

from steerkit.audit import RecordedTurn, TurnRecord, record_of
from steerkit.engine import Divergence, Row, Sampling, divergence
from steerkit.guard import policies_in
from steerkit.policy import Policy
from steerkit.runtime.record import context_of
from steerkit.runtime.request import Prepared, Request, prepare, with_counterfactual
from steerkit.runtime.turns import Turns
from steerkit.steer import Wanted
from steerkit.types import NOWHERE, Call, Turn


class Replayed(NamedTuple):
    """A replayed turn."""

    turn: Turn
    record: TurnRecord
    """Its record, which is not written."""


class Moment(NamedTuple):
    """A step at which a turn is decided, and how far apart two sets of policies are there."""

    at: tuple[str, ...]
    """Any of `call opens`, `name begins` and `replies part`: what its token is."""
    step: int
    """Index of its token in the reply, from 0."""
    leads: Literal["recorded", "other"]
    """Side whose reply it is; both are forced along its tokens before this one."""
    token: str
    """Text of that reply's token."""
    probabilities: tuple[float, float]
    """Probability of that token under the recorded and the other policies, before temperature."""
    other_token: str | None
    """Text of the other reply's token where the replies part; None at its end, and everywhere else."""
    divergence: Divergence
    """Divergence of the second's next-token distribution from the first's, before temperature."""


class Alternative(NamedTuple):
    """A token that the model might have written at a step."""

    token: str
    id: int
    probability: float
    """Under the recorded policies, before temperature."""


class WhatIf(NamedTuple):
    """A recorded turn beside what the model does under other policies."""

    first: Replayed
    """Under the recorded policies."""
    second: Replayed
    moments: tuple[Moment, ...]


def replay(runtime: Turns, recorded: RecordedTurn) -> Replayed:
    """The turn again: its prompt tokens under its policies, with its settings and seed. Nothing is recorded.

    The record has the prompt as it is rendered today, so that another template shows there.

    Raises:
        SteerkitError: the record's policies or tools cannot be used with this runtime.
    """
    prepared = _prepared(runtime, recorded, policies_in(recorded.record))
    asked = _with_prompt(prepared, recorded)
    (turn,) = runtime.turns_of([with_counterfactual(asked) if recorded.record.counterfactual else asked])
    record = _record(runtime, prepared, turn, {"size": 1, "row": 0})
    return Replayed(turn, replace(record, prompt_ids=tuple(prepared.prompt.ids)))


def what_if(runtime: Turns, recorded: RecordedTurn, policies: Sequence[Policy]) -> WhatIf:
    """The turn under its own policies and under others, in one batch, one row each.

    Raises:
        SteerkitError: as for `replay`.
    """
    both = [
        _with_prompt(_prepared(runtime, recorded, one), recorded) for one in (policies_in(recorded.record), policies)
    ]
    turns = runtime.turns_of(both)
    first, second = (
        Replayed(turn, _record(runtime, one, turn, {"size": 2, "row": row}))
        for row, (one, turn) in enumerate(zip(both, turns, strict=True))
    )
    return WhatIf(first, second, tuple(_moments(runtime, both, first.turn, second.turn)))


def alternatives(runtime: Turns, recorded: RecordedTurn, most: int) -> list[list[Alternative]]:
    """The likeliest tokens at each step of a recorded reply, which is read along; the likeliest first.

    Args:
        runtime: with the recorded model.
        recorded: the turn.
        most: tokens of a step.

    Raises:
        SteerkitError: as for `replay`.
    """
    prepared = _with_prompt(_prepared(runtime, recorded, policies_in(recorded.record)), recorded)
    row = Row(prepared.prompt.ids, Wanted(prepared.policies), prepared.request.sampling)
    decode, found = runtime.engine.tokenizer.decode, []
    for logits, _ in zip(runtime.engine.logits_along([row], recorded.record.reply_ids), recorded.record.reply_ids):  # noqa: B905  # one more after the last
        best = logits[0].float().softmax(dim=-1).topk(most)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found.append([Alternative(str(decode([id])), id, chance) for id, chance in pairs])
    return found


def _prepared(runtime: Turns, recorded: RecordedTurn, policies: Sequence[Policy]) -> Prepared:
    record = recorded.record
    said = {name: value for name, value in asdict(record.sampling).items() if value is not None}
    form = dict(record.form or {})
    over = form.pop("required_over_steering", False)
    request = Request(record.messages, record.tools, None, Sampling(**said), **form)
    made = prepare(request, runtime.engine, tuple(policies), runtime.untrusted, required_over_steering=over)
    return replace(made, made=record.attempt)


def _with_prompt(prepared: Prepared, recorded: RecordedTurn) -> Prepared:
    return replace(prepared, prompt=replace(prepared.prompt, ids=recorded.record.prompt_ids))


def _record(runtime: Turns, prepared: Prepared, turn: Turn, batch: dict[str, int]) -> TurnRecord:
    return record_of(turn, context_of(runtime.engine.provenance, prepared, 0.0, batch))


def _moments(runtime: Turns, both: Sequence[Prepared], first: Turn, second: Turn) -> Iterator[Moment]:
    """The deciding steps in order, each once."""
    leads: Literal["recorded", "other"] = "recorded" if first.calls or not second.calls else "other"
    leading = first if leads == "recorded" else second
    found: dict[int, list[str]] = {}
    for name, index in _landmarks(leading):
        found.setdefault(index, []).append(name)
    parts = _parting(first.reply_ids, second.reply_ids)
    if parts is not None:
        found.setdefault(parts, []).append("replies part")
    if not found:
        return
    if max(found) >= len(leading.reply_ids):  # the other reply is longer, and the leading one a beginning of it
        leads = "other" if leads == "recorded" else "recorded"
    leading, trailing = (first, second) if leads == "recorded" else (second, first)
    for index, logits in _read(runtime, both, leading.reply_ids[: max(found)], sorted(found)):
        token = leading.reply_ids[index]
        one, two = (float(chance) for chance in logits.softmax(dim=-1)[:, token])
        there = _token(runtime, trailing.reply_ids, index) if index == parts else None
        said = _token(runtime, leading.reply_ids, index) or ""
        yield Moment(tuple(found[index]), index, leads, said, (one, two), there, divergence(logits[0], logits[1]))


def _landmarks(turn: Turn) -> Iterator[tuple[str, int]]:
    """Indices in the reply at which the first call opens and its name begins."""
    if not turn.calls:
        return
    call, start = turn.calls[0], len(turn.prompt_ids)
    yield "call opens", call.span.start - start
    if isinstance(call, Call) and call.name_span != NOWHERE:
        yield "name begins", call.name_span.start - start


def _parting(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token that differs; where one reply is the beginning of the other, that of its next token."""
    pairs = zip(first, second, strict=False)
    shorter = min(len(first), len(second))
    other = next((index for index, (one, two) in enumerate(pairs) if one != two), shorter)
    return None if other == len(first) == len(second) else other


def _read(
    runtime: Turns, both: Sequence[Prepared], forced: Sequence[int], wanted: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Logits `(2, vocabulary)` before the wanted tokens, each row under its own policies, over the same tokens."""
    rows = [Row(one.prompt.ids, Wanted(one.policies), one.request.sampling) for one in both]
    for index, logits in enumerate(runtime.engine.logits_along(rows, forced)):
        if index in wanted:
            yield index, logits.cpu()


def _token(runtime: Turns, reply: Sequence[int], index: int) -> str | None:
    """A token as text."""
    if index >= len(reply):
        return None
    return str(runtime.engine.tokenizer.decode([reply[index]]))
