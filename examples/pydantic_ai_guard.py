"""A tool guard under pydantic-ai: its hook vetoes each call before the tool runs, and a held one waits for a person."""

import sys

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from pydantic_ai import Agent, DeferredToolRequests

import steerkit
from steerkit.integrations.pydantic_ai import guard, steered

runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)
tools = [get_balance, unlock_door]
agent = Agent(steered(runtime), tools=tools, capabilities=[guard()], output_type=[str, DeferredToolRequests])
for request in REQUESTS:
    output = agent.run_sync(request).output
    print(request, "->", output if isinstance(output, str) else f"waits for a person: {list(output.metadata.values())}")
