"""steerkit's guard as an approver of Inspect: it judges each tool call of whatever model is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, Final

from inspect_ai.approval import Approval, ApprovalDecision, Approver, approver

from steerkit import guard, policy
from steerkit.decisions import Decision
from steerkit.integrations.inspect.messages import openai
from steerkit.types import Call, Tool, Trace

DECISIONS: Final[Mapping[Decision, ApprovalDecision]] = {
    "none": "reject",
    "allow": "approve",
    "flag": "approve",
    "retry": "reject",  # the model is told why, and may try again
    "hold": "escalate",  # to the next approver, such as `human`
    "deny": "reject",
    "handoff": "terminate",
    "stop": "terminate",
}


@approver(name="steerkit")  # type: ignore[untyped-decorator]  # untyped where the extra is not installed
def judged(path: str) -> Approver:
    """An approver by a policy file, or one that ships. A rule that reads features denies: none are read of a model that
    is only called.
    """
    policies = [policy.load(path)]

    async def approve(message: str, call: Any, view: Any, history: list[Any]) -> Approval:
        asked = [*takewhile(lambda one: one.id != call.id, history[-1].tool_calls), call]
        calls = [Call(one.function, one.arguments) for one in asked]
        free = {"type": "object", "additionalProperties": True}  # Inspect itself checks names and arguments
        tools = [Tool(name, parameters=free) for name in {one.function for one in asked}]
        said = [openai(one) for one in history[:-1]]
        verdict = guard.review(calls, tools=tools, trace=Trace(), policies=policies, messages=said)[-1]
        return Approval(decision=DECISIONS[verdict.decision], explanation=f"{verdict.decision}: {verdict.reason}")

    return approve
