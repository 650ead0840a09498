"""openai-agents in one process: the guard's calls run, and a held one is an interruption that somebody agrees to."""

import sys

from agents import Agent, HostedMCPTool, Runner, function_tool, set_tracing_disabled
from house_tools import REQUESTS, STORE, get_balance, unlock_door

import steerkit
from steerkit.integrations.openai_agents import APPROVALS, SteerkitModel

set_tracing_disabled(True)
runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)
tools = [function_tool(get_balance), function_tool(unlock_door), HostedMCPTool(APPROVALS)]
agent = Agent("house", tools=tools, model=SteerkitModel(runtime))
for request in REQUESTS:
    run = Runner.run_sync(agent, request)
    while run.interruptions:
        state = run.to_state()
        for one in run.interruptions:
            print("  agreeing to", one.name)
            state.approve(one)
        run = Runner.run_sync(agent, state)
    print(request, "->", run.final_output)
