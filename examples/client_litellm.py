"""LiteLLM on `steerkit serve`: a reply and a stream; the policies by the model's name."""

import json
import os

import litellm

litellm.suppress_debug_info = True
where = {"api_base": os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1"), "api_key": "none"}
asked = {
    "messages": [{"role": "user", "content": "tell me how much money travel 38 has"}],
    "tools": json.load(open("examples/tools.json")),  # noqa: SIM115  # read once
}
reply = litellm.completion(model="openai/tiny", **asked, **where)
call = reply.choices[0].message.tool_calls[0].function
print(f"{reply.choices[0].finish_reason}: {call.name}({call.arguments})")
chunks = list(litellm.completion(model="openai/tiny:payments", stream=True, **asked, **where))
whole = litellm.stream_chunk_builder(chunks).choices[0]
print(f"{whole.finish_reason}: {whole.message.tool_calls[0].function.name}")
