"""openai-agents on `steerkit serve`: its default Responses, where a held call is an interruption, and chat."""

import asyncio
import os

import agents
from agents import Agent, HostedMCPTool, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from house_tools import REQUESTS, get_balance, unlock_door
from openai import AsyncOpenAI

agents.set_tracing_disabled(True)
client = AsyncOpenAI(base_url=os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1"), api_key="none")
held = {"type": "mcp", "server_label": "steerkit", "server_url": "http://steerkit", "require_approval": "always"}
tools, name = [function_tool(get_balance), function_tool(unlock_door)], os.environ.get("STEERKIT_NAME", "tiny")
agent = Agent("house", tools=[*tools, HostedMCPTool(held)], model=OpenAIResponsesModel(name, client))
over_chat = agent.clone(tools=tools, model=OpenAIChatCompletionsModel(name, client))


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
        print(f"{text} -> {(await Runner.run(over_chat, text)).final_output}")


asyncio.run(main())
