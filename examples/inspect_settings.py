"""Inspect's settings in steerkit's words, and a turn as what Inspect keeps of it."""

import logging
from functools import cache
from typing import Any

from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, GenerateConfig, ModelOutput, ModelUsage
from inspect_ai.tool import ToolCall

from steerkit.types import Turn

NAMES = {name: name for name in ("temperature", "top_p", "top_k", "seed")} | {"max_tokens": "max_new_tokens"}
UNKNOWN = (
    *("best_of", "frequency_penalty", "presence_penalty", "logit_bias", "num_choices", "logprobs", "top_logprobs"),
    *("prompt_logprobs", "response_schema", "extra_body", "modalities", "verbosity", "effort", "reasoning_effort"),
    *("reasoning_tokens", "reasoning_mode", "reasoning_summary"),
)  # of the others Inspect itself takes care, or they say how to ask a server
REASONS: dict[str, Any] = {"length": "max_tokens", "tool_call": "tool_calls", "tripwire": "content_filter"}
warn = cache(lambda name: logging.getLogger(__name__).warning("steerkit does not support %r: it is left out", name))


def sampling(config: GenerateConfig) -> dict[str, Any]:
    """The settings of a turn; what it does not know is warned of once, as Inspect's own providers do."""
    [warn(name) for name in UNKNOWN if getattr(config, name, None) is not None]
    return {ours: value for name, ours in NAMES.items() if (value := getattr(config, name)) is not None}


def output(model: str, turn: Turn, stops: list[str]) -> ModelOutput:
    """What a turn came to: text up to a stop sequence, released calls, why it ended, and tokens."""
    cut = min((turn.text.find(stop) for stop in stops if stop in turn.text), default=None)
    calls = [ToolCall(f"{turn.record_id}.{n}", c.name, dict(c.arguments)) for n, c in enumerate(turn.released)]
    why = "stop" if cut is not None else REASONS.get(turn.finish, "stop")
    why = "content_filter" if why == "tool_calls" and not calls else why  # the guard let none of them through
    calls, text = (calls or None) if cut is None else None, turn.text[:cut]
    choice = ChatCompletionChoice(message=ChatMessageAssistant(content=text, tool_calls=calls), stop_reason=why)
    read, made = len(turn.prompt_ids), len(turn.reply_ids)
    usage = ModelUsage(input_tokens=read, output_tokens=made, total_tokens=read + made)
    return ModelOutput(model=model, choices=[choice], usage=usage)
