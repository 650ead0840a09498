"""A runtime as a pydantic-ai model: each request is a turn, and each call carries what the guard said of it."""

from __future__ import annotations

from typing import Any, Final

from pydantic_ai import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from steerkit.agent import Runtime
from steerkit.decisions import RELEASED
from steerkit.integrations.outcome import released
from steerkit.integrations.pydantic_ai.messages import form, openai, sampling
from steerkit.types import Call

_FINISH: Final[dict[str, Any]] = {"length": "length", "tool_call": "tool_call", "tripwire": "content_filter"}


def steered(runtime: Runtime) -> FunctionModel:
    """A model that takes its turns with a runtime.

    Calls that are held or denied go out too, marked by their `provider_details`, so that a person can be asked: give
    the agent the hook `guard()` with it, which runs none that may not be run.
    """

    def turn(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = [{"role": "system", "content": info.instructions}] if info.instructions else []
        history = asked + [said for message in messages for said in openai(message)]
        tools = [
            {"name": one.name, "description": one.description, "parameters": one.parameters_json_schema}
            for one in (*info.function_tools, *info.output_tools)
        ]
        done = runtime.run(history, tools, **form(info), **sampling(info.model_settings))
        output, may_run = {one.name for one in info.output_tools}, [call for _, call in released(done)]
        parts: list[Any] = [TextPart(done.text)] if done.text else []
        for call, verdict in zip(done.calls, done.verdicts, strict=True):
            if isinstance(call, Call) and (call in may_run or call.name not in output):  # no hook stands before output
                decision = "deny" if verdict.decision in RELEASED and call not in may_run else verdict.decision
                judged = {"verdict": decision, "reason": verdict.reason, "record": done.record_id}
                parts.append(ToolCallPart(call.name, dict(call.arguments), provider_details=judged))
        read, made = len(done.prompt_ids), len(done.reply_ids)
        usage = RequestUsage(input_tokens=read, cache_read_tokens=done.cached_tokens, output_tokens=made)
        why = _FINISH.get(done.finish, "stop")
        return ModelResponse(parts, usage=usage, finish_reason=why, provider_response_id=done.record_id)

    return FunctionModel(turn, model_name=runtime.engine.name)
