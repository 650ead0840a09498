"""A turn's record: pure content. Its id and time first appear in the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from steerkit.audit.log.store import Store
from steerkit.audit.log.trace_codec import pack
from steerkit.audit.records.feature_values import layer_activity
from steerkit.audit.schema import (
    Counterfactual,
    ModelIdentity,
    PolicyIdentity,
    SaeSetIdentity,
    SamplingSettings,
    TurnRecord,
)
from steerkit.types import JUDGING, Message, Tool, Turn


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that shaped a turn and is not in the turn itself."""

    messages: Sequence[Message]
    tools: Sequence[Tool]
    model: ModelIdentity
    saes: SaeSetIdentity | None
    policies: Sequence[PolicyIdentity]
    """With their content."""
    guarded: bool
    """Has a policy with a guard; else the record says `guard: none`."""
    sampling: SamplingSettings
    libraries: Mapping[str, str]
    seconds: float | None = None
    """Duration of the generation of its batch."""
    machine: Mapping[str, Any] | None = None
    """`processor`, `instructions`, `threads` and `accelerator`: what float arithmetic may depend on."""
    batch: Mapping[str, int] | None = None
    """`size` of the batch and the turn's `row` in it."""
    conversation: str | None = None
    """Id that the turns of one conversation share."""
    metadata: Mapping[str, Any] | None = None
    """The caller's own keys, such as who asked."""
    form: Mapping[str, Any] | None = None
    """What the reply had to be like, in the words of a request."""


def append_turn(store: Store, turn: Turn, context: Context) -> Turn:
    """Write the turn's record to disk and return the turn with its id; raises AuditError where it cannot.

    Without an id, the record was lost in a run that only warns of that.
    """
    record = store.append(record_of(turn, context), pack(turn.trace))
    return replace(turn, record_id=record.id or None)


def record_of(turn: Turn, context: Context) -> TurnRecord:
    """The record of a turn."""
    other = turn.counterfactual
    return TurnRecord(
        guard="policy" if context.guarded else "none",
        judging=JUDGING,
        verdicts=turn.verdicts,
        calls=turn.calls,
        text=turn.text,
        finish=turn.finish,
        attempt=len(turn.attempts),
        retry_of=turn.attempts[-1].record_id if turn.attempts else None,
        edits=turn.trace.edits,
        messages=tuple(context.messages),
        tools=tuple(context.tools),
        prompt_ids=turn.prompt_ids,
        reply_ids=turn.reply_ids,
        model=context.model,
        saes=context.saes,
        policies=tuple(context.policies),
        sampling=context.sampling,
        libraries=context.libraries,
        seconds=context.seconds,
        call_ids=turn.call_ids,
        conversation=context.conversation,
        metadata=context.metadata or None,
        machine=context.machine,
        batch=context.batch,
        form=context.form or None,
        constrained=turn.constrained,
        rules=_rules(turn),
        counterfactual=None
        if other is None
        else Counterfactual(other.text, other.calls, other.verdicts, other.finish, other.reply_ids, _layers(other)),
    )


def _layers(turn: Turn) -> dict[str, float]:
    """Activity of its layers, rounded: a picture needs no more."""
    found = layer_activity(turn.trace, len(turn.prompt_ids))
    return {str(site): float(f"{value:.4g}") for site, value in found.items() if isfinite(value)}


def _rules(turn: Turn) -> dict[str, dict[str, int]]:
    """The part that each rule had in a turn."""
    found = {name: {"opened": tokens} for name, tokens in turn.trace.opened.items()}
    for name, calls in Counter(name for verdict in turn.verdicts for name in verdict.matched).items():
        found[name] = {**found.get(name, {}), "matched": calls}
    return found
