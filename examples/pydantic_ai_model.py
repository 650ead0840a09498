"""steerkit as a pydantic-ai model: each request is a turn, and each call carries what the guard said of it."""

from typing import Any

from pydantic_ai import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from steerkit import Runtime
from steerkit.types import Call


def steered(runtime: Runtime) -> FunctionModel:
    """A model that takes its turns with a runtime."""

    def turn(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        history = [openai(part) for message in messages for part in message.parts]
        schemas = [(one.name, one.description, one.parameters_json_schema) for one in info.function_tools]
        tools = [{"name": name, "description": text, "parameters": schema} for name, text, schema in schemas]
        done = runtime.run([said for said in history if said], tools)
        parts: list[Any] = [TextPart(done.text)] if done.text else []
        for call, verdict in zip(done.calls, done.verdicts, strict=True):
            if isinstance(call, Call):
                judged = {"verdict": verdict.decision, "reason": verdict.reason, "record": done.record_id}
                parts.append(ToolCallPart(call.name, dict(call.arguments), provider_details=judged))
        return ModelResponse(parts)

    return FunctionModel(turn, model_name=runtime.loaded.name)


def openai(part: Any) -> dict[str, Any]:
    """A part of the conversation in the form that steerkit takes; empty for those that it does not need."""
    if isinstance(part, UserPromptPart):
        return {"role": "user", "content": part.content}
    if isinstance(part, ToolReturnPart):
        return {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.model_response_str()}
    function = {"name": part.tool_name, "arguments": part.args_as_dict()} if isinstance(part, ToolCallPart) else {}
    return {"role": "assistant", "tool_calls": [{"id": part.tool_call_id, "function": function}]} if function else {}
