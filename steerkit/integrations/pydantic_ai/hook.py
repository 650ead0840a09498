"""A hook of pydantic-ai that vetoes each call before its tool runs; a held one is deferred to a person."""

from __future__ import annotations

import json
from typing import Any

from pydantic_ai import ApprovalRequired, RunContext, ToolCallPart, ToolFailed
from pydantic_ai.capabilities import Hooks

from steerkit.decisions import RELEASED


def guard() -> Hooks[Any]:
    """`Agent(steered(runtime), capabilities=[guard()], output_type=[str, DeferredToolRequests])`.

    A call runs if its verdict releases it, or if it was held and a person approved it (`DeferredToolResults`); the
    model is told why another did not. A call that nobody judged is not run.
    """
    hooks: Hooks[Any] = Hooks()

    @hooks.on.before_tool_execute  # type: ignore[untyped-decorator]  # untyped where the extra is not installed
    def veto(ctx: RunContext[Any], *, call: ToolCallPart, tool_def: object, args: dict[str, Any]) -> dict[str, Any]:
        said = call.provider_details or {"verdict": "deny", "reason": "nobody judged it"}
        if said["verdict"] == "hold" and not ctx.tool_call_approved:
            raise ApprovalRequired(said)
        if said["verdict"] not in (*RELEASED, "hold"):
            raise ToolFailed(json.dumps({"error": f"not run: {said['reason']}"}))
        return args

    return hooks
