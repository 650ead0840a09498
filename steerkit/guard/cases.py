"""Checks a policy's guard on cases, without a model: a case gives the values that would be read from one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from steerkit.chat import as_tools
from steerkit.decisions import Decision
from steerkit.errors import PolicyError
from steerkit.guard.review import needs, review
from steerkit.policy import Case, Cases, Policy, relative_quantities, watch_key
from steerkit.types import Call, Place, Span, Tool, Trace, Verdict

_BEFORE: Final = ("developer", "declaration", "user", "tool_result", "reply.start", "text")
"""Places before the calls, of one token each."""
_PROMPT: Final = 5
"""Tokens of the prompt; its last one is the step `reply.start`."""


class CaseResult(NamedTuple):
    """A call of a case, and its verdict."""

    case: str
    number: int
    """Index of the call in the case, from 0."""
    tool: str
    expected: Decision
    rule: str | None
    """The rule that was expected to decide; None for any."""
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """True if the verdict is the expected one."""
        return self.verdict.decision == self.expected and self.rule in (None, self.verdict.rule)

    def __str__(self) -> str:
        by = f" by {self.rule}" if self.rule else ""
        got = f"{self.verdict.decision} by {self.verdict.rule} ({self.verdict.reason})"
        return f"case '{self.case}', calls[{self.number}] {self.tool}: expected {self.expected}{by}, got {got}"


def check_cases(policy: Policy, cases: Cases, *, tools: Sequence[Any] | None = None) -> tuple[CaseResult, ...]:
    """The verdicts of a policy on cases. A policy in shadow mode is checked as if it enforced.

    Args:
        policy: with raw quantities in its guard.
        cases: see `steerkit.policy.load_cases`.
        tools: instead of the file's; without either, every call fits its tool.

    Raises:
        PolicyError: no guard, a relative bound, a value that the guard reads and no case gives, or one that it does
            not read.
        ToolError: a tool is no tool definition.
        MessageError: a message is not in the OpenAI form.
    """
    if policy.guard is None:
        raise PolicyError([f"policy '{policy.name}': got no guard, so there is no verdict to check"])
    if any(where[0] == "guard" for where, _, _ in relative_quantities(policy)):
        raise PolicyError([f"policy '{policy.name}': its guard has bounds in multiples of a statistic; give its SAEs"])
    given = cases.tools if tools is None else tools
    declared = None if given is None else as_tools(given, from_function=_no_function)
    enforced = policy.model_copy(update={"mode": "enforce"})
    return tuple(one for case in cases.cases for one in _checked(enforced, case, cases.values, declared))


def _checked(
    policy: Policy, case: Case, values: Mapping[str, Any], tools: Sequence[Tool] | None
) -> Iterator[CaseResult]:
    read, known = needs(policy), {**values, **case.values}
    for name in read:
        if name not in known:
            raise PolicyError([f"case '{case.name}' values: got no value of '{name}', which the guard reads; give one"])
    for name in known:
        if name not in read:
            raise PolicyError(
                [f"case '{case.name}' values: got '{name}', expected what the guard reads: {_listed(read)}"]
            )
    if case.messages and case.history:
        raise PolicyError([f"case '{case.name}': got history and messages, expected one of them"])
    calls = [Call(one.tool, one.arguments, _span(number)) for number, one in enumerate(case.calls)]
    if tools is None:
        tools = [Tool(name, "", {"type": "object"}) for name in dict.fromkeys(call.name for call in calls)]
    trace = _trace(policy, calls, {name: known[name] for name in read})
    messages = case.messages or tuple(_messages(case))
    verdicts = review(calls, tools=tools, trace=trace, policies=[policy], messages=messages)
    for number, (one, verdict) in enumerate(zip(case.calls, verdicts, strict=True)):
        yield CaseResult(case.name, number, one.tool, one.expect, one.rule, verdict)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _messages(case: Case) -> Iterator[dict[str, Any]]:
    for number, done in enumerate(case.history):
        id, function = f"case_{number}", {"name": done.tool, "arguments": done.arguments}
        yield {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": function}]}
        result = {"error": "not run: denied"} if done.denied else done.result
        if result is not None:
            text = json.dumps(result if isinstance(result, dict) else {"value": result})
            yield {"role": "tool", "tool_call_id": id, "content": text}


def _span(number: int) -> Span:
    """The four tokens of a call: its start, its name, its arguments, its end."""
    return Span(len(_BEFORE) + 4 * number, len(_BEFORE) + 4 * number + 4)


def _trace(policy: Policy, calls: Sequence[Call], values: Mapping[str, Any]) -> Trace:
    """The trace of a synthetic turn, with the given values at each place."""
    end = _span(len(calls)).start
    places: dict[Place, list[Span]] = {name: [Span(at, at + 1)] for at, name in enumerate(_BEFORE)}
    places |= {"any": [Span(0, end)], "prompt": [Span(0, _PROMPT)], "reply": [Span(_PROMPT - 1, end)]}
    for call in calls:
        parts = {"call": (0, 3), "call.open": (0, 1), "call.name": (0, 2), "call.arguments": (2, 3)}
        parts |= {f"call.arguments.{name}": (2, 3) for name in call.arguments}
        for place, (low, high) in parts.items():
            places.setdefault(place, []).append(Span(call.span.start + low, call.span.start + high))
    watched = {watch_key(policy, name): tuple(_series(value, places, end)) for name, value in values.items()}
    return Trace(watched=watched, places={place: tuple(spans) for place, spans in places.items()})


def _series(value: Any, places: Mapping[Place, Sequence[Span]], end: int) -> list[float]:
    by_place = value if isinstance(value, Mapping) else {"any": value}
    series = [0.0] * end
    for place in sorted(by_place, key=lambda place: -sum(high - low for low, high in places.get(place, ()))):
        for low, high in places.get(place, ()):  # the wider place first, so that a narrower one stands over it
            series[low:high] = [by_place[place]] * (high - low)
    return series


def _no_function(function: object) -> dict[str, object]:
    raise TypeError(f"a file holds no function: {function}")
