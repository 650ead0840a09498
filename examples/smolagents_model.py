"""steerkit as a smolagents model: an agent that only gets calls which may run, every turn of it on record."""

import json
import sys
from typing import Any

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from smolagents import ChatMessage, LogLevel, MessageRole, Model, TokenUsage, ToolCallingAgent, tool
from smolagents.models import get_tool_json_schema
from smolagents_messages import openai, sampling

import steerkit

runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)


class Steered(Model):
    """Each step of the agent is a turn, with the settings that this is made with, such as `temperature`."""

    def generate(self, messages: list[ChatMessage], **how: Any) -> ChatMessage:
        """One call at a time, as smolagents mixes the results of several; the final answer if one may not run."""
        stops, offered = how.pop("stop_sequences", None) or [], how.pop("tools_to_call_from", None) or []
        tools = [get_tool_json_schema(one) for one in offered if one.name != "final_answer"]
        turn = runtime.run(openai(messages), tools, **sampling(how | self.kwargs))
        text = turn.text[: min((turn.text.find(stop) for stop in stops if stop in turn.text), default=None)]
        answer = "; ".join(f"{verdict.decision}: {verdict.reason}" for verdict in turn.verdicts) or text
        function = {"name": "final_answer", "arguments": {"answer": answer}}
        if turn.calls and turn.released == turn.calls:
            function = {"name": turn.released[0].name, "arguments": dict(turn.released[0].arguments)}
        calls = [{"id": turn.record_id, "type": "function", "function": function}]
        said, used = {"role": "assistant", "tool_calls": calls}, TokenUsage(len(turn.prompt_ids), len(turn.reply_ids))
        return ChatMessage(MessageRole.ASSISTANT, json.dumps(said), calls, turn, used)


agent = ToolCallingAgent([tool(get_balance), tool(unlock_door)], Steered(), verbosity_level=LogLevel.OFF)
for request in REQUESTS:
    print(request, "->", agent.run(request))
