"""steerkit as a model of Inspect: each generation is a turn, and only calls that its own policies release go out."""

import json
from typing import Any

from house_tools import STORE
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolCall, ToolInfo

import steerkit


@modelapi(name="steerkit")
class Steered(ModelAPI):
    """`Model(Steered("tiny"), GenerateConfig())`, or by name: `get_model("steerkit/tiny", policy=...)`."""

    def __init__(self, model_name: str, policy: Any = (), **_: Any) -> None:
        super().__init__(model_name)
        self.runtime = steerkit.load(model_name, policy=policy, audit=STORE)

    async def generate(self, input: list[ChatMessage], tools: list[ToolInfo], **_: Any) -> ModelOutput:
        """One turn; its record is on disk before Inspect sees it."""
        declared = [one.model_dump(include={"name", "description", "parameters"}, exclude_none=True) for one in tools]
        turn = self.runtime.run([openai(one) for one in input], declared)
        calls = [ToolCall(f"{turn.record_id}.{n}", c.name, dict(c.arguments)) for n, c in enumerate(turn.released)]
        return ModelOutput.from_message(ChatMessageAssistant(content=turn.text, tool_calls=calls or None))


def openai(message: Any) -> dict[str, Any]:
    """A message in the form that steerkit takes."""
    if message.role == "tool":
        result = json.dumps({"error": f"not run: {message.error.message}"}) if message.error else message.text
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": result}
    asked = getattr(message, "tool_calls", None) or []
    calls = [{"id": one.id, "function": {"name": one.function, "arguments": one.arguments}} for one in asked]
    return {"role": message.role, "content": message.text, **({"tool_calls": calls} if calls else {})}
