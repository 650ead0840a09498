"""The tools of an MCP server as tools of a loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from mcp import Client

from steerkit.errors import ToolError


class ServerTools(NamedTuple):
    """What `runtime.aloop(messages, found.tools, execute=found.execute)` takes."""

    tools: list[Any]
    """The server's own declarations."""
    execute: Mapping[str, Callable[..., Awaitable[Any]]]
    """By name, what calls the server."""


async def tools_of(client: Client) -> ServerTools:
    """All tools of the server that a client is connected to, page after page."""
    found: list[Any] = []
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return ServerTools(found, {one.name: partial(_called, client, one.name) for one in found})


async def _called(client: Client, name: str, /, **arguments: Any) -> Any:
    """The result of a call: its structure where it has one, else its texts; what else it holds is named by its type.

    Raises:
        ToolError: the tool says that it failed.
    """
    result = await client.call_tool(name, arguments)
    text = "\n".join(getattr(block, "text", None) or f"({block.type})" for block in result.content)
    if result.is_error:
        raise ToolError(text)
    return text if result.structured_content is None else result.structured_content
