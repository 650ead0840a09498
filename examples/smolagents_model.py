"""steerkit as a smolagents model: an agent that only gets calls which may run, every turn of it on record."""

import sys

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from smolagents import LogLevel, ToolCallingAgent, tool

import steerkit
from steerkit.integrations.smolagents import SteerkitModel

runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)
tools = [tool(get_balance), tool(unlock_door)]
agent = ToolCallingAgent(tools, SteerkitModel(runtime), verbosity_level=LogLevel.OFF)
for request in REQUESTS:
    print(request, "->", agent.run(request))
