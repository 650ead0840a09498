"""Recomputes the verdicts of a recorded turn from its record alone, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.chat import name_in
from steerkit.guard.review import certain, limit_retries, review, tripwire_verdict
from steerkit.policy import Policy, recorded_policy
from steerkit.types import Call, CallLike, Trace, Verdict

if TYPE_CHECKING:  # a policy is judged without the audit room
    from steerkit.audit import TurnRecord


def policies_in(turn: TurnRecord) -> tuple[Policy, ...]:
    """The policies of a recorded turn, from their content. Raises PolicyError: one of them cannot be read."""
    named = ((f"policies[{number}] ({one.name})", one) for number, one in enumerate(turn.policies))
    return tuple(recorded_policy(one.content, name) for name, one in named)


def rejudge(turn: TurnRecord, policies: Sequence[Policy], trace: Trace) -> tuple[Verdict, ...]:
    """The verdicts of a recorded turn, from its record alone.

    A record without `judging` is of version 1: calls that did not run satisfied `without`, and arguments that a schema
    does not list passed. It is judged by that version. Its schemas are read as today's are (patterns by ECMA-262,
    decimals, null).

    Args:
        turn: the record.
        policies: those of the turn, with raw quantities.
        trace: as recorded.
    """
    calls, messages, judging = turn.calls, turn.messages, turn.judging
    verdicts = review(calls, tools=turn.tools, trace=trace, policies=policies, messages=messages, judging=judging)
    if turn.finish == "tripwire" and calls:
        begun = _begun(calls[-1])
        verdict = certain(begun, trace=trace, policies=policies, messages=messages, judging=judging)
        verdicts = (*verdicts[:-1], tripwire_verdict(verdict, calls[-1])) if verdict else verdicts
    return limit_retries(verdicts, policies, turn.attempt)


def _begun(call: CallLike) -> Call:
    """A call as far as it was generated when a tripwire cut it off: its name, if that was complete."""
    return call if isinstance(call, Call) else Call(name_in(call.raw) or "", {}, call.span)
