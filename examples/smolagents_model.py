"""steerkit as a smolagents model: an agent that only gets calls which may run, every turn of it on record."""

import json
import sys

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from smolagents import ChatMessage, LogLevel, MessageRole, Model, Tool, ToolCallingAgent, tool
from smolagents.models import get_tool_json_schema

import steerkit

runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)


class Steered(Model):
    """Each step of the agent is a turn. The agent's own prompt is left out: it shows how to write calls as text."""

    def generate(self, messages: list[ChatMessage], tools_to_call_from: list[Tool], **__: object) -> ChatMessage:
        """One call at a time, as smolagents mixes the results of several; the final answer if one may not run."""
        history = []
        for role, (head, _, text) in ((one.role, one.content[0]["text"].partition("\n")) for one in messages):
            if role == MessageRole.USER:
                history.append({"role": "user", "content": text})
            elif role == MessageRole.ASSISTANT:
                history.append(json.loads(head))
            elif role == MessageRole.TOOL_RESPONSE:
                history.append({"role": "tool", "tool_call_id": history[-1]["tool_calls"][0]["id"], "content": text})
        turn = runtime.run(history, [get_tool_json_schema(t) for t in tools_to_call_from if t.name != "final_answer"])
        answer = "; ".join(f"{verdict.decision}: {verdict.reason}" for verdict in turn.verdicts) or turn.text
        function = {"name": "final_answer", "arguments": {"answer": answer}}
        if turn.calls and turn.released == turn.calls:
            function = {"name": turn.released[0].name, "arguments": dict(turn.released[0].arguments)}
        calls = [{"id": turn.record_id, "type": "function", "function": function}]
        return ChatMessage(MessageRole.ASSISTANT, json.dumps({"role": "assistant", "tool_calls": calls}), calls)


agent = ToolCallingAgent([tool(get_balance), tool(unlock_door)], Steered(), verbosity_level=LogLevel.OFF)
for request in REQUESTS:
    print(request, "->", agent.run(request))
