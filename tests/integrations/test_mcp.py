"""MCP's own library on the box: a server's tools in a loop, and a runtime as a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import steerkit
from steerkit.agent import Runtime
from tests.integrations.conftest import BALANCE, DOOR, PLAIN

pytest.importorskip("mcp")
from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from steerkit.integrations.mcp import server_of, tools_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def house() -> MCPServer:
    """A server with two tools, one of which fails."""
    server = MCPServer("house")

    @server.tool()
    def get_balance(account: str) -> str:
        """Show a balance."""
        return f"1200 dollars on {account}"

    @server.tool()
    def unlock_door(door: str) -> str:
        """Unlock a door."""
        raise ToolError(f"the {door} door is stuck")

    return server


def test_a_loop_runs_a_servers_tools(runtime: Runtime) -> None:
    """The released call reaches the server and is answered; an error of its tool is one that the model is told."""

    async def ran(text: str, approve: Any = None) -> Any:
        async with Client(house()) as client:
            tools, execute = await tools_of(client)
            asked = [{"role": "user", "content": text}]
            return await runtime.aloop(asked, tools, execute=execute, approve=approve, max_turns=3)

    done = asyncio.run(ran(BALANCE))
    assert done.status == "answer"
    assert [(one.call.name, one.status) for one in done.executions] == [("get_balance", "ok")]
    assert "1200 dollars on travel 38" in json.dumps(done.executions[0].result)
    assert asyncio.run(ran(DOOR)).pending.held[0].call.name == "unlock_door"
    stuck = asyncio.run(ran(DOOR, lambda held: True)).executions[0]
    assert (stuck.status, "is stuck" in json.dumps(stuck.result)) == ("error", True)


TOOLS = [
    {"name": name, "description": text, "parameters": {"properties": {key: {"type": "string"}}, "required": [key]}}
    for name, text, key in (("get_balance", "Show a balance.", "account"), ("unlock_door", "Unlock a door.", "door"))
]


async def called(runtime: Runtime, name: str, **arguments: Any) -> Any:
    """The answer of a new server on a runtime: its value, or the text of its error."""
    async with Client(server_of(runtime)) as client:
        result = await client.call_tool(name, arguments)
        text = "\n".join(one.text for one in result.content if one.type == "text")
        found = text if result.is_error else (result.structured_content or json.loads(text))
        return found["result"] if isinstance(found, dict) and set(found) == {"result"} else found


def test_a_runtime_serves_turns_and_checks(runtime: Runtime) -> None:
    """A released call comes with its verdict, a required one where the model would answer; given calls are judged."""

    async def asked() -> None:
        async with Client(server_of(runtime)) as client:
            assert {one.name for one in (await client.list_tools()).tools} == {"run", "check", "approve", "held"}
        benign = await called(runtime, "run", messages=[{"role": "user", "content": BALANCE}], tools=TOOLS)
        assert benign["released"] == [{"name": "get_balance", "arguments": {"account": "travel 38"}}]
        assert (benign["held"], benign["verdicts"][0]["decision"]) == ([], "allow")
        said = {"messages": [{"role": "user", "content": PLAIN}], "tools": TOOLS}
        free, forced = [await called(runtime, "run", **said, **one) for one in ({}, {"tool_choice": "get_balance"})]
        assert (free["released"], [one["name"] for one in forced["released"]]) == ([], ["get_balance"])
        calls = [{"name": "unlock_door", "arguments": {"door": "cellar"}}, {"name": "get_balance", "arguments": {}}]
        checked = await called(runtime, "check", calls=calls, tools=TOOLS)
        assert [one["decision"] for one in checked] == ["hold", "deny"]

    asyncio.run(asked())


def test_held_calls_wait_in_the_store(runtime: Runtime) -> None:
    """Another server on the same store lists and decides them, once; the asker's gives the approved call out."""

    async def asked() -> None:
        door = await called(runtime, "run", messages=[{"role": "user", "content": DOOR}], tools=TOOLS)
        (held,) = door["held"]
        assert (door["released"], held["name"]) == ([], "unlock_door")
        with steerkit.load("tiny", audit=runtime.store) as other:
            assert held["id"] in [one["id"] for one in await called(other, "held")]
            decided = await called(other, "approve", id=held["id"], approved=True, by="ann")
        assert [one["name"] for one in decided["released"]] == ["unlock_door"]
        (entry,) = await called(runtime, "held", id=held["id"])
        assert (entry["status"], entry["by"], entry["call"]["function"]["name"]) == ("approved", "ann", "unlock_door")
        again = await called(runtime, "approve", id=held["id"], approved=False, by="bob")
        assert "it was approved by ann; a decision is made once" in again
        assert "no such held call" in await called(runtime, "approve", id="apr_x.y.z", approved=True, by="ann")
        assert "nothing is recorded here" in await called(steerkit.load("tiny", audit=False), "held")

    asyncio.run(asked())
