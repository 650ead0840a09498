"""Replies to turns: parse the calls, read the traces, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steerkit import guard
from steerkit.chat import Parsed, Tokenizer, parse, steps_by_place
from steerkit.runtime.generate import Generation
from steerkit.runtime.request import Prepared
from steerkit.steer import Extent
from steerkit.types import CallLike, MalformedCall, Place, Span, Trace, Turn, Verdict


def judge(tokenizer: Tokenizer, made: Generation) -> list[Turn]:
    """The judged turns of a generation, one per request that was asked for.

    The last rows may be those without steering that others name; they become the counterfactuals of those turns.
    """
    both = list(zip(made.rows, made.replies, strict=True))
    parsed = [parse(tokenizer, reply, offset=len(one.prompt.ids)) for one, reply in both]
    places = [steps_by_place(tokenizer, one.prompt.ids, reply) for one, reply in both]
    traces = made.recording.traces(
        [_extent(one, len(reply), here) for (one, reply), here in zip(both, places, strict=True)]
    )
    turns = [
        _judged(one, reply, parsed[row], replace(traces[row], places=places[row]), made.tripped.get(row))
        for row, (one, reply) in enumerate(both)
    ]
    asked = len(both) - sum(one.unsteered is not None for one in made.rows)
    beside = iter(turns[asked:])
    return [
        turn if one.unsteered is None else replace(turn, counterfactual=next(beside))
        for one, turn in zip(made.rows[:asked], turns[:asked], strict=True)
    ]


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
    """Every position that the model ran on (not the last of a reply) and those whose strongest features are kept."""
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
        verdicts = (*verdicts[:-1], guard.tripped(tripped, calls[-1]))
    return Turn(
        text=parsed.text,
        calls=calls,
        verdicts=guard.settle(verdicts, one.policies, one.made),
        trace=trace,
        prompt_ids=tuple(one.prompt.ids),
        reply_ids=tuple(reply),
        finish=parsed.finish if tripped is None else "tripwire",
        attempts=one.attempts,
        call_ids=call_ids(one.request.messages, calls),
    )


def next_ids(messages: Sequence[Mapping[str, Any]], count: int) -> tuple[str, ...]:
    """Ids for the next calls of a conversation: `call_N`, counting on, and none that an earlier call has."""
    lists = [message.get("tool_calls") for message in messages]
    calls = [call for some in lists if isinstance(some, (list, tuple)) for call in some]
    taken = {str(call.get("id")) for call in calls if isinstance(call, Mapping)}
    found: list[str] = []
    number = len(calls)
    while len(found) < count:
        number += 1
        if f"call_{number}" not in taken:
            found.append(f"call_{number}")
    return tuple(found)


def call_ids(messages: Sequence[Mapping[str, Any]], calls: Sequence[CallLike]) -> tuple[str, ...]:
    """Ids for a reply's calls that no call of the conversation has; well-formed calls get the first of them."""
    first = sorted(range(len(calls)), key=lambda number: isinstance(calls[number], MalformedCall))
    found = dict(zip(first, next_ids(messages, len(calls)), strict=True))
    return tuple(found[number] for number in range(len(calls)))
