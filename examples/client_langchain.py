"""LangChain and LangGraph on `steerkit serve`: an agent whose calls have passed the guard."""

import os

from house_tools import REQUESTS, get_balance, unlock_door
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

url = os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1")
for responses in (False, True):
    model = ChatOpenAI(model="tiny", base_url=url, api_key="none", use_responses_api=responses)
    agent = create_agent(model, [get_balance, unlock_door])
    for text in REQUESTS:
        done = agent.invoke({"messages": [{"role": "user", "content": text}]})
        print(f"{text} -> {done['messages'][-1].text}")
