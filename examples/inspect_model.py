"""steerkit as a model of Inspect: each generation is a turn, and only calls that its own policies release go out."""

from typing import Any

from house_tools import STORE
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo
from inspect_settings import output, sampling

import steerkit


@modelapi(name="steerkit")
class Steered(ModelAPI):
    """`Model(Steered("tiny"), GenerateConfig())`, or by name: `get_model("steerkit/tiny", policy=...)`."""

    def __init__(self, model_name: str, base_url: Any = None, api_key: Any = None, config: Any = None, **how: Any):
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.runtime = steerkit.load(model_name, **{"audit": STORE, **how})

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """One turn; its record is on disk before Inspect sees it."""
        if tool_choice not in ("auto", "none"):
            raise ValueError(f"tool_choice: got {tool_choice}, but no call can be forced; expected auto or none")
        told = [one.model_dump(include={"name", "description", "parameters"}, exclude_none=True) for one in tools]
        turn = self.runtime.run([openai(one) for one in input], told * (tool_choice != "none"), **sampling(config))
        return output(self.model_name, turn, config.stop_seqs or [])


def openai(message: Any) -> dict[str, Any]:
    """A message in the form that steerkit takes."""
    if message.role == "tool":
        result = {"error": f"not run: {message.error.message}"} if message.error else message.text
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": result}
    asked = getattr(message, "tool_calls", None) or []
    calls = [{"id": one.id, "function": {"name": one.function, "arguments": one.arguments}} for one in asked]
    return {"role": message.role, "content": message.text, **({"tool_calls": calls} if calls else {})}
