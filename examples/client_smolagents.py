"""smolagents on `steerkit serve`: an agent of tool calls."""

import json
import os

from house_tools import REQUESTS, get_balance
from smolagents import ChatMessage, MessageRole, OpenAIServerModel, tool

model = OpenAIServerModel("tiny", api_base=os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1"), api_key="none")
asked = [ChatMessage(MessageRole.USER, [{"type": "text", "text": REQUESTS[0]}])]
reply = model.generate(asked, tools_to_call_from=[tool(get_balance)], tool_choice="auto")
call = reply.tool_calls[0].function
print(f"{REQUESTS[0]} -> {get_balance(**json.loads(call.arguments))}")
