"""OpenAI's own client on `steerkit serve`: a loop that runs released calls, and asks a person about held ones."""

import json
import os

from house_tools import REQUESTS, get_balance, unlock_door
from openai import OpenAI

client = OpenAI(base_url=os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1"), api_key="none")
functions = {"get_balance": get_balance, "unlock_door": unlock_door}
tools = json.load(open("examples/tools.json"))  # noqa: SIM115  # read once

for text in REQUESTS:
    messages = [{"role": "user", "content": text}]
    for _ in range(4):
        reply = client.chat.completions.create(model="tiny", messages=messages, tools=tools)
        said, told = reply.choices[0].message, reply.steerkit
        calls = said.tool_calls or []
        messages.append(said)
        for call in calls:
            result = functions[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
        if not calls:
            break
    print(f"{text} -> {said.content}")
    for held in told["held"]:
        path, decision = f"/steerkit/approvals/{held['id']}", {"approve": True, "by": "ann"}
        call = client.post(path, body=decision, cast_to=object)["call"]["function"]
        print(f"  approved: {functions[call['name']](**json.loads(call['arguments']))}")
