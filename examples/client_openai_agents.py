"""openai-agents on `steerkit serve`: its default Responses, a tool, and a held call as an interruption."""

import asyncio
import os

from agents import Agent, HostedMCPTool, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from house_tools import REQUESTS, get_balance, unlock_door
from openai import AsyncOpenAI

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1"), api_key="none")
held = {"type": "mcp", "server_label": "steerkit", "server_url": "http://steerkit", "require_approval": "always"}
tools = [function_tool(get_balance), function_tool(unlock_door), HostedMCPTool(held)]
model = OpenAIResponsesModel(os.environ.get("STEERKIT_NAME", "tiny"), client)
agent = Agent("house", tools=tools, model=model)


async def main() -> None:
    """Ask everything; what needs a person is agreed to."""
    for text in REQUESTS:
        run = await Runner.run(agent, text)
        while run.interruptions:
            state = run.to_state()
            for one in run.interruptions:
                print(f"  approving {one.name}")
                state.approve(one)
            run = await Runner.run(agent, state)
        print(f"{text} -> {run.final_output}")


asyncio.run(main())
