"""LangChain in one process: the guard's calls run, and a held one interrupts the graph until somebody agrees."""

import sys

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import steerkit
from steerkit.integrations.langchain import ChatSteerkit, HeldCalls

runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)
model, held = ChatSteerkit(runtime=runtime), HeldCalls(runtime)
agent = create_agent(model, [get_balance, unlock_door], middleware=[held], checkpointer=InMemorySaver())
for request in REQUESTS:
    thread = {"configurable": {"thread_id": request}}
    done = agent.invoke({"messages": [{"role": "user", "content": request}]}, thread)
    for one in done.get("__interrupt__", ()):
        waiting = one.value["held"]
        print("  agreeing to", *(call["name"] for call in waiting))
        done = agent.invoke(Command(resume={call["id"]: {"approve": True, "by": "ann"} for call in waiting}), thread)
    print(request, "->", done["messages"][-1].content)
