"""Replies to turns: read the traces, judge the calls, and say what is to be generated again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steerkit import guard
from steerkit.runtime.constraints import chosen_by_grammar
from steerkit.runtime.generate import GeneratedReply, Generation
from steerkit.runtime.request import Prepared
from steerkit.steer import Extent
from steerkit.types import CallLike, MalformedCall, Span, Trace, Turn


def judge(made: Generation) -> list[Turn]:
    """The judged turns of a generation, one per request that was asked for.

    The last replies may be those without steering that others name; they become the counterfactuals of those turns.
    """
    traces = made.recording.traces(list(map(_extent, made.replies)))
    known = made.recording.cached or [0] * len(traces)
    turns = [
        replace(_judged(reply, _marked(reply, trace)), cached_tokens=cached)
        for reply, trace, cached in zip(made.replies, traces, known, strict=True)
    ]
    asked = len(turns) - sum(one.request.unsteered is not None for one in made.replies)
    beside = iter(turns[asked:])
    return [
        turn if reply.request.unsteered is None else replace(turn, counterfactual=next(beside))
        for reply, turn in zip(made.replies[:asked], turns[:asked], strict=True)
    ]


def _marked(reply: GeneratedReply, trace: Trace) -> Trace:
    """The trace with what is known of its tokens."""
    return replace(trace, places=reply.places, forced=chosen_by_grammar(reply.constrained))


def _cut_off(reply: GeneratedReply) -> tuple[CallLike, ...]:
    """The calls; the error of one that was still open at the reply's end says what cut it off."""
    one, calls = reply.request, reply.parsed.calls
    last, end = calls[-1] if calls else None, len(one.prompt.ids) + len(reply.ids)
    if not isinstance(last, MalformedCall) or not last.position == last.span.end == end:
        return calls
    most, length = one.request.sampling.max_new_tokens, len(reply.ids)
    if reply.tripped is not None:
        error = guard.CUT_OFF
    elif length < most:
        error = f"the reply was cut after {length} tokens, where the model's context ends; shorten the conversation"
    else:
        error = f"the reply was cut at max_new_tokens={most}, before {last.error.split()[-1]}; raise max_new_tokens"
    return (*calls[:-1], replace(last, error=error))


def _extent(reply: GeneratedReply) -> Extent:
    """Every position that the model ran on (not the last of a reply) and those whose strongest features are kept."""
    length = len(reply.request.prompt.ids) + len(reply.ids) - 1
    wanted = [policy.trace.at for policy in reply.request.policies if policy.trace.top_k]
    spans = [span for place in wanted for span in reply.places.get(place, ())]
    if not spans:
        return Extent(length)
    start = min(span.start for span in spans) - ("call" in wanted)  # the step before decided for the call
    return Extent(length, Span(start, max(span.end for span in spans)))


def _judged(reply: GeneratedReply, trace: Trace) -> Turn:
    """The turn with its verdicts; where a tripwire ended the reply, its verdict is that of the call it cut off."""
    one, calls = reply.request, _cut_off(reply)
    messages = one.request.messages
    verdicts = guard.review(calls, tools=one.tools, trace=trace, policies=one.policies, messages=messages)
    if reply.tripped is not None:
        verdicts = (*verdicts[:-1], guard.tripwire_verdict(reply.tripped, calls[-1]))
    return Turn(
        text=reply.parsed.text,
        calls=calls,
        verdicts=guard.limit_retries(verdicts, one.policies, one.made),
        trace=trace,
        prompt_ids=tuple(one.prompt.ids),
        reply_ids=reply.ids,
        finish=reply.parsed.finish if reply.tripped is None else "tripwire",
        attempts=one.attempts,
        call_ids=call_ids(messages, calls),
        constrained=reply.constrained,
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


@dataclass(frozen=True, slots=True)
class Retried:
    """A stream starts over: what came since the last one is void, and recorded as an attempt."""

    turn: Turn


def wants_retry(turn: Turn) -> bool:
    """True if a turn is to be generated again; `guard.limit_retries` has turned all others' retries into denials."""
    return any(verdict.decision == "retry" for verdict in turn.verdicts)


def next_attempt(one: Prepared, turn: Turn) -> Prepared:
    """The request of the next attempt: the named steering acts without its gate."""
    worst = guard.strictest(turn.verdicts)
    assert worst is not None  # the caller asked `wants_retry`
    named = guard.rule_of(one.policies, worst).with_ or ""
    policies = tuple(policy.without_gate(named) if policy.name == worst.policy else policy for policy in one.policies)
    return replace(
        one,
        policies=policies,
        wanted=one.wanted._replace(policies=policies),
        attempts=(*one.attempts, turn),
        made=one.made + 1,
    )
