"""What a record says of a turn: pure content. Its id and time first appear in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from steerkit.audit.log.schema import FORMAT as FORMAT  # events say it too
from steerkit.audit.log.store import Store
from steerkit.audit.log.trace_codec import pack
from steerkit.types import JUDGING, Call, CallLike, Message, Tool, Turn, Verdict


@dataclass(frozen=True, slots=True)
class Context:
    """How a turn came about: everything that shaped it and does not stand in the turn itself."""

    messages: Sequence[Message]
    tools: Sequence[Tool]
    model: Mapping[str, str]
    """`name`, `fingerprint`, `tokenizer` and `template` (fingerprints), `device`, `dtype`."""
    saes: Mapping[str, str] | None
    """`name` and `fingerprint`."""
    policies: Sequence[Mapping[str, Any]]
    """Each with `name`, `fingerprint`, `mode` and its whole content, quantities raw."""
    guarded: bool
    """Whether any policy had a guard; else the record says `guard: none`."""
    sampling: Mapping[str, Any]
    """Settings of the generation, the seed among them."""
    libraries: Mapping[str, str]
    seconds: float | None = None
    """How long the generation took, of its whole batch."""
    machine: Mapping[str, Any] | None = None
    """`processor`, `instructions`, `threads` and `accelerator`: what float arithmetic may depend on."""
    batch: Mapping[str, int] | None = None
    """`size` of the batch and the turn's `row` in it."""
    conversation: str | None = None
    """Id that the turns of one conversation share."""
    metadata: Mapping[str, Any] | None = None
    """Who asked, as the caller said it."""


def append_turn(store: Store, turn: Turn, context: Context) -> Turn:
    """Write the turn's record to disk and return the turn with its id; raises AuditError where it cannot.

    Without an id, the record was lost in a run that only warns of that.
    """
    record = store.append(body_of(turn, context), pack(turn.trace))
    return replace(turn, record_id=record.id or None)


def body_of(turn: Turn, context: Context) -> dict[str, Any]:
    """The record's content, as JSON values."""
    return {
        "format": FORMAT,
        "kind": "turn",
        "guard": "policy" if context.guarded else "none",
        "judging": JUDGING,
        "verdicts": [verdict_data(verdict) for verdict in turn.verdicts],
        "calls": [_call(call) for call in turn.calls],
        "text": turn.text,
        "finish": turn.finish,
        "attempt": len(turn.attempts),
        "retry_of": turn.attempts[-1].record_id if turn.attempts else None,
        "edits": [edit.as_json() for edit in turn.trace.edits],
        "messages": [dict(message) for message in context.messages],
        "tools": [asdict(tool) for tool in context.tools],
        "prompt_ids": list(turn.prompt_ids),
        "reply_ids": list(turn.reply_ids),
        "model": dict(context.model),
        "saes": None if context.saes is None else dict(context.saes),
        "policies": [dict(policy) for policy in context.policies],
        "sampling": dict(context.sampling),
        "libraries": dict(context.libraries),
        "seconds": context.seconds,
        **_optional(turn, context),
    }


def _optional(turn: Turn, context: Context) -> dict[str, Any]:
    """What a record says only where there is something to say."""
    found = about(context.conversation, context.metadata)
    if turn.call_ids:
        found["call_ids"] = list(turn.call_ids)
    if context.machine is not None:
        found["machine"] = dict(context.machine)
    if context.batch is not None:
        found["batch"] = dict(context.batch)
    if (other := turn.counterfactual) is not None:
        found["counterfactual"] = {
            "text": other.text,
            "calls": [_call(call) for call in other.calls],
            "verdicts": [verdict_data(verdict) for verdict in other.verdicts],
            "finish": other.finish,
            "reply_ids": list(other.reply_ids),
        }
    return found


def about(conversation: str | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Which conversation a record belongs to and who asked, where that is known."""
    found: dict[str, Any] = {} if conversation is None else {"conversation": conversation}
    return found if not metadata else {**found, "metadata": dict(metadata)}


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a record holds it."""
    return {**asdict(verdict), "readings": [asdict(reading) for reading in verdict.readings]}


def _call(call: CallLike) -> dict[str, Any]:
    if isinstance(call, Call):
        return {"name": call.name, "arguments": dict(call.arguments), "span": list(call.span)}
    return {"malformed": call.error, "position": call.position, "raw": call.raw, "span": list(call.span)}
