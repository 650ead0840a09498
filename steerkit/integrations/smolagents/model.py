"""A runtime as the model of smolagents: an agent that only gets calls which may run, every turn of it on record."""

from __future__ import annotations

import json
from typing import Any

from smolagents import ChatMessage, MessageRole, Model, TokenUsage
from smolagents.models import get_tool_json_schema

from steerkit.agent import Runtime
from steerkit.integrations.outcome import released, why_not
from steerkit.integrations.smolagents.messages import openai, sampling


class SteerkitModel(Model):  # type: ignore[misc]  # untyped where the extra is not installed
    """Each step of an agent is a turn.

    Args:
        runtime: takes the turns.
        settings: of every turn, such as `temperature` and `max_tokens`.
    """

    def __init__(self, runtime: Runtime, **settings: Any) -> None:
        super().__init__(**settings)
        self.runtime = runtime

    def generate(self, messages: list[ChatMessage], **how: Any) -> ChatMessage:
        """One call at a time, as smolagents mixes the results of several; the final answer if one may not run.

        Raises:
            SettingError: a setting that is not known.
        """
        stops, offered = how.pop("stop_sequences", None) or [], how.pop("tools_to_call_from", None) or []
        tools = [get_tool_json_schema(one) for one in offered if one.name != "final_answer"]
        turn = self.runtime.run(openai(messages), tools, stop=stops, **sampling(how | self.kwargs))
        function = {"name": "final_answer", "arguments": {"answer": why_not(turn) or turn.text}}
        may_run = [call for _, call in released(turn)]
        if turn.calls and len(may_run) == len(turn.calls):
            function = {"name": may_run[0].name, "arguments": dict(may_run[0].arguments)}
        calls = [{"id": turn.record_id, "type": "function", "function": function}]
        said, used = {"role": "assistant", "tool_calls": calls}, TokenUsage(len(turn.prompt_ids), len(turn.reply_ids))
        return ChatMessage(MessageRole.ASSISTANT, json.dumps(said), calls, turn, used)
