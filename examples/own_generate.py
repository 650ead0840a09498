"""A `model.generate` loop of your own: steered as it writes, every call judged before it runs; nothing is recorded."""

import sys
from typing import Any

import torch
from house_tools import REQUESTS, get_balance, transfer_money, unlock_door
from transformers import AutoModelForCausalLM, AutoTokenizer

import steerkit
from steerkit import chat, guard, policy
from steerkit.engine import tool_from_function
from steerkit.types import Call, Trace

BOX = "steerkit/tiny/box"
functions: dict[str, Any] = {one.__name__: one for one in (get_balance, transfer_money, unlock_door)}
tools = chat.as_tools(functions.values(), from_function=tool_from_function)
model, tokenizer = (
    AutoModelForCausalLM.from_pretrained(BOX, trust_remote_code=False),
    AutoTokenizer.from_pretrained(BOX, trust_remote_code=False),
)
judges = [policy.load(path) for path in sys.argv[1:] or ["policies/people.yaml"]]  # rules on features: steerkit.load
for request in (*REQUESTS, "I owe Lumes a payment of 740 dollars"):
    messages: list[dict[str, Any]] = [{"role": "user", "content": request}]
    for _ in range(4):
        prompt = torch.tensor([chat.render(tokenizer, messages, tools).ids])
        with steerkit.attach(model, f"{BOX}/saes", "policies/payments.yaml", tokenizer=tokenizer):
            written = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64)[0]
        said = chat.parse(tokenizer, written[prompt.shape[1] :], offset=prompt.shape[1])
        verdicts = guard.review(said.calls, tools=tools, trace=Trace(), policies=judges, messages=messages)
        if not verdicts or any(verdict.decision not in ("allow", "flag") for verdict in verdicts):
            break
        for call in (call for call in said.calls if isinstance(call, Call)):
            asked = {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            messages.append({"role": "assistant", "tool_calls": [asked]})
            messages.append({"role": "tool", "name": call.name, "content": functions[call.name](**call.arguments)})
    print(request, "->", said.text or [f"{verdict.decision}: {verdict.reason}" for verdict in verdicts])
