"""From the reply's tokens to finished turns: parse, read the features, judge, record."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit import guard
from steerkit.audit import Store, append_turn
from steerkit.chat import Parsed, parse
from steerkit.engine import LoadedModel
from steerkit.runtime.provenance import context_of
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet
from steerkit.steer import Extent, Plan, Tape, read_traces
from steerkit.types import Span, Trace, Turn


def finish_turns(
    loaded: LoadedModel,
    saes: SaeSet | None,
    store: Store | None,
    prepared: Sequence[Prepared],
    replies: Sequence[Sequence[int]],
    tape: Tape,
    plan: Plan,
) -> list[Turn]:
    """The turns of a batch, each recorded before any is returned.

    Raises:
        AuditError: a record could not be written; no turn is returned then.
    """
    parsed = [
        parse(loaded.tokenizer, reply, offset=len(one.prompt.ids)) for one, reply in zip(prepared, replies, strict=True)
    ]
    extents = [_extent(one, len(reply), part) for one, reply, part in zip(prepared, replies, parsed, strict=True)]
    traces = read_traces(tape, plan, saes, [one.wanted for one in prepared], extents)
    return [
        _finish(loaded, saes, store, one, reply, part, trace)
        for one, reply, part, trace in zip(prepared, replies, parsed, traces, strict=True)
    ]


def _extent(one: Prepared, reply_length: int, parsed: Parsed) -> Extent:
    """Every position that was read (the last token of a reply is written, not read) and the ones to trace in full."""
    prompt_length = len(one.prompt.ids)
    length = prompt_length + reply_length - 1
    reach = {
        "any": Span(0, length),
        "prompt": Span(0, prompt_length),
        "reply": Span(prompt_length - 1, length),
        "call": Span(
            min((call.span.start - 1 for call in parsed.calls), default=length),
            min(length, max((call.span.end for call in parsed.calls), default=length)),
        ),
    }
    spans = [reach[policy.trace.at] for policy in one.policies if policy.trace.top_k]
    if not spans:
        return Extent(length)
    return Extent(length, Span(min(span.start for span in spans), max(span.end for span in spans)))


def _finish(
    loaded: LoadedModel,
    saes: SaeSet | None,
    store: Store | None,
    one: Prepared,
    reply: Sequence[int],
    parsed: Parsed,
    trace: Trace,
) -> Turn:
    prompt = one.prompt.ids
    verdicts = guard.review(
        parsed.calls,
        tools=one.tools,
        trace=trace,
        policies=one.policies,
        prompt_length=len(prompt),
        length=len(prompt) + len(reply),
    )
    turn = Turn(parsed.text, parsed.calls, verdicts, trace, tuple(prompt), tuple(reply), parsed.finish)
    if store is None:
        return turn
    return append_turn(store, turn, context_of(loaded, saes, one))
