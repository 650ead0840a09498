"""pydantic-ai on `steerkit serve`: its chat and its Responses model, each with a tool loop."""

import os

from house_tools import REQUESTS, get_balance, unlock_door
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

url = os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1")
provider = OpenAIProvider(base_url=url, api_key="none")
for kind in (OpenAIChatModel, OpenAIResponsesModel):
    agent = Agent(kind("tiny", provider=provider), tools=[get_balance, unlock_door])
    print(f"{REQUESTS[0]} -> {agent.run_sync(REQUESTS[0]).output}")
