"""Recomputes the verdicts of a recorded turn from its record alone, without a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from steerkit.guard.review import certain, limit_retries, review, tripwire_verdict
from steerkit.policy import Policy, recorded_policy
from steerkit.types import Call, CallLike, MalformedCall, Span, Tool, Trace, Verdict

_NAMED: Final = re.compile(r"<start_function_call>\s*call:\s*([\w.-]{1,128})[^\w.-]", re.ASCII)
"""Text of a call whose name is complete."""


def policies_in(turn: Mapping[str, Any]) -> tuple[Policy, ...]:
    """The policies that a record holds with their content. Raises PolicyError: one of them cannot be read."""
    named = ((f"policies[{number}] ({one['name']})", one) for number, one in enumerate(turn["policies"]))
    return tuple(recorded_policy(one.get("content"), name) for name, one in named)


def rejudge(turn: Mapping[str, Any], policies: Sequence[Policy], trace: Trace) -> tuple[Verdict, ...]:
    """The verdicts of a recorded turn, from its record alone.

    A record without `judging` is of version 1: calls that did not run satisfied `without`, and arguments that a schema
    does not list passed. It is judged by that version. Its schemas are read as today's are (patterns by ECMA-262,
    decimals, null).

    Args:
        turn: the record's content: `calls`, `tools`, `messages`, `finish`, `attempt`, and `judging` where it says so.
        policies: those of the turn, with raw quantities.
        trace: as recorded.
    """
    calls = [_call(call) for call in turn["calls"]]
    tools, messages, judging = [Tool(**tool) for tool in turn["tools"]], turn["messages"], turn.get("judging", 1)
    verdicts = review(calls, tools=tools, trace=trace, policies=policies, messages=messages, judging=judging)
    if turn["finish"] == "tripwire" and calls:
        begun = _begun(calls[-1])
        verdict = certain(begun, trace=trace, policies=policies, messages=messages, judging=judging)
        verdicts = (*verdicts[:-1], tripwire_verdict(verdict, calls[-1])) if verdict else verdicts
    return limit_retries(verdicts, policies, turn["attempt"])


def _call(call: Mapping[str, Any]) -> CallLike:
    span = Span(*call["span"])
    if "malformed" in call:
        return MalformedCall(call["malformed"], call["position"], call["raw"], span)
    return Call(call["name"], call["arguments"], span)


def _begun(call: CallLike) -> Call:
    """A call as far as it was generated when a tripwire cut it off: its name, if that was complete."""
    if isinstance(call, Call):
        return call
    named = _NAMED.match(call.raw)
    return Call(named[1] if named else "", {}, call.span)
