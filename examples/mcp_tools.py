"""MCP both ways: a loop that calls a server's tools, and a runtime as a server whose held calls somebody decides."""

import asyncio
import sys

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from mcp import Client
from mcp.server import MCPServer

import steerkit
from steerkit.integrations.mcp import server_of, tools_of

runtime = steerkit.load("tiny", policy=sys.argv[1:] or ["policies/payments.yaml", "policies/people.yaml"], audit=STORE)
house = MCPServer("house")
house.tool()(get_balance)
house.tool()(unlock_door)


async def main() -> None:
    """Take turns in a loop over the house's tools, and a turn over MCP."""
    async with Client(house) as client, Client(server_of(runtime)) as guarded:
        tools, execute = await tools_of(client)
        for request in REQUESTS:
            messages = [{"role": "user", "content": request}]
            run = await runtime.aloop(messages, tools, execute=execute)
            print(request, "->", run.text if run.pending is None else "waits for a person")
        declared = [one.model_dump(by_alias=True, include={"name", "description", "input_schema"}) for one in tools]
        turn = await guarded.call_tool("run", {"messages": messages, "tools": declared})
        for held in turn.structured_content["held"]:
            decision = {"id": held["id"], "approved": True, "by": "ann"}
            print("  agreed to", (await guarded.call_tool("approve", decision)).structured_content["released"])


asyncio.run(main())
