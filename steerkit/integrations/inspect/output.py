"""A turn as what Inspect keeps of a generation: text, released calls, stop reason, usage, and what the guard said."""

from __future__ import annotations

from typing import Final

from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage, StopReason
from inspect_ai.tool import ToolCall

from steerkit.integrations.outcome import judged, released
from steerkit.types import Turn

_REASONS: Final[dict[str, StopReason]] = {
    "length": "max_tokens",
    "tool_call": "tool_calls",
    "tripwire": "content_filter",
}


def output(model: str, turn: Turn, context: int | None) -> ModelOutput:
    """The text and the released calls.

    Args:
        model: its name.
        turn: what came of the generation.
        context: most tokens that the model reads; a reply that ended there ended for want of room.
    """
    may_run = [one for _, one in released(turn)]
    calls = [ToolCall(f"{turn.record_id}.{n}", one.name, dict(one.arguments)) for n, one in enumerate(may_run)]
    why: StopReason = _REASONS.get(turn.finish, "stop")
    read, made = len(turn.prompt_ids), len(turn.reply_ids)
    if why == "tool_calls" and not calls:
        why = "content_filter"  # the guard let none of them through
    if why == "max_tokens" and context is not None and read + made >= context:
        why = "model_length"
    message = ChatMessageAssistant(content=turn.text, tool_calls=calls or None)
    usage = ModelUsage(input_tokens=read, output_tokens=made, total_tokens=read + made)
    choice = ChatCompletionChoice(message=message, stop_reason=why)
    return ModelOutput(model=model, choices=[choice], usage=usage, metadata={"steerkit": judged(turn)})


def too_long(model: str, error: Exception) -> ModelOutput:
    """A prompt that leaves no room for a reply."""
    return ModelOutput.from_content(model, str(error), stop_reason="model_length")
