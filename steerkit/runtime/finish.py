"""From the reply's tokens to finished turns: parse, read the features, judge, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerkit import guard
from steerkit.audit import Store, append_turn
from steerkit.chat import Parsed, parse, steps_by_place
from steerkit.engine import LoadedModel
from steerkit.runtime.exchange import call_ids
from steerkit.runtime.provenance import context_of
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet
from steerkit.steer import Extent, Plan, Tape, read_traces
from steerkit.types import CallLike, MalformedCall, Place, Span, Trace, Turn, Verdict


def finish_turns(
    loaded: LoadedModel,
    saes: SaeSet | None,
    store: Store | None,
    prepared: Sequence[Prepared],
    replies: Sequence[Sequence[int]],
    tape: Tape,
    plan: Plan,
    tripped: Mapping[int, Verdict],
    seconds: float,
) -> list[Turn]:
    """The turns of a batch, which took so many seconds to generate, each recorded before any is returned.

    The last rows may be those without steering that others name; they become part of those turns.

    Raises:
        AuditError: a record could not be written; no turn is returned then.
    """
    tokenizer = loaded.tokenizer
    parsed = [parse(tokenizer, reply, offset=len(one.prompt.ids)) for one, reply in zip(prepared, replies, strict=True)]
    places = [steps_by_place(tokenizer, one.prompt.ids, reply) for one, reply in zip(prepared, replies, strict=True)]
    extents = [_extent(one, len(reply), here) for one, reply, here in zip(prepared, replies, places, strict=True)]
    traces = read_traces(tape, plan, saes, [one.wanted for one in prepared], extents)
    made = [
        _judged(one, reply, part, replace(traces[row], places=places[row]), tripped.get(row))
        for row, (one, reply, part) in enumerate(zip(prepared, replies, parsed, strict=True))
    ]
    asked = len(prepared) - sum(one.unsteered is not None for one in prepared)
    beside = iter(made[asked:])
    turns = []
    for row, (one, turn) in enumerate(zip(prepared[:asked], made[:asked], strict=True)):
        if one.unsteered is not None:
            turn = replace(turn, counterfactual=next(beside))
        batch = {"size": len(prepared), "row": row}
        if store is not None:
            turn = append_turn(store, turn, context_of(loaded, saes, one, seconds, batch, tape.decoding))
        turns.append(turn)
    return turns


def _told_cut(
    one: Prepared, reply: Sequence[int], calls: Sequence[CallLike], by_tripwire: bool
) -> tuple[CallLike, ...]:
    """The calls; one that was still open at the reply's end says what cut it off."""
    last, end = calls[-1] if calls else None, len(one.prompt.ids) + len(reply)
    if not isinstance(last, MalformedCall) or not last.position == last.span.end == end:
        return tuple(calls)
    most = one.request.sampling.max_new_tokens
    if by_tripwire:
        error = guard.CUT_OFF
    elif len(reply) < most:
        error = f"the reply was cut after {len(reply)} tokens, where the model's context ends; shorten the conversation"
    else:
        error = f"the reply was cut at max_new_tokens={most}, before <end_function_call>; raise max_new_tokens"
    return (*calls[:-1], replace(last, error=error))


def _extent(one: Prepared, reply_length: int, places: Mapping[Place, Sequence[Span]]) -> Extent:
    """Every position that was read (the last token of a reply is written, not read) and the ones to trace in full."""
    length = len(one.prompt.ids) + reply_length - 1
    wanted = [policy.trace.at for policy in one.policies if policy.trace.top_k]
    spans = [span for place in wanted for span in places.get(place, ())]
    if not spans:
        return Extent(length)
    start = min(span.start for span in spans) - ("call" in wanted)  # the step before decided for the call
    return Extent(length, Span(start, max(span.end for span in spans)))


def _judged(one: Prepared, reply: Sequence[int], parsed: Parsed, trace: Trace, tripped: Verdict | None) -> Turn:
    """The turn with its verdicts; where a tripwire ended the reply, its verdict is that of the call it cut off."""
    calls = _told_cut(one, reply, parsed.calls, by_tripwire=tripped is not None)
    verdicts = guard.review(calls, tools=one.tools, trace=trace, policies=one.policies, messages=one.request.messages)
    if tripped is not None:
        verdicts = (*verdicts[:-1], guard.tripwire_verdict(tripped, calls[-1]))
    return Turn(
        text=parsed.text,
        calls=calls,
        verdicts=guard.limit_retries(verdicts, one.policies, one.made),
        trace=trace,
        prompt_ids=tuple(one.prompt.ids),
        reply_ids=tuple(reply),
        finish=parsed.finish if tripped is None else "tripwire",
        attempts=one.attempts,
        call_ids=call_ids(one.request.messages, calls),
    )
