"""A tool guard under pydantic-ai: its hook vetoes each call before the tool runs, and a held one waits for a person."""

import json
import sys
from typing import Any

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from pydantic_ai import Agent, ApprovalRequired, DeferredToolRequests, RunContext, ToolCallPart, ToolFailed
from pydantic_ai.capabilities import Hooks
from pydantic_ai_model import steered

import steerkit

guard: Hooks[None] = Hooks()


@guard.on.before_tool_execute
def veto(ctx: RunContext[None], *, call: ToolCallPart, tool_def: object, args: dict[str, Any]) -> dict[str, Any]:
    """Let a call run if its verdict does, or if a person agreed to one that was held."""
    said = call.provider_details or {"verdict": "deny", "reason": "nobody judged it"}
    if said["verdict"] == "hold" and not ctx.tool_call_approved:
        raise ApprovalRequired(said)
    if said["verdict"] not in ("allow", "flag", "hold"):
        raise ToolFailed(json.dumps({"error": f"not run: {said['reason']}"}))
    return args


runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)
tools = [get_balance, unlock_door]
agent = Agent(steered(runtime), tools=tools, capabilities=[guard], output_type=[str, DeferredToolRequests])
for request in REQUESTS:
    output = agent.run_sync(request).output
    print(request, "->", output if isinstance(output, str) else f"waits for a person: {list(output.metadata.values())}")
