"""MCP: tools of a server as tools of a loop, and a runtime as a server that runs turns, checks calls and approves."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.mcp.server import server_of
    from steerkit.integrations.mcp.tools import ServerTools, tools_of
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
        raise
    raise MissingExtraError.of("steerkit.integrations.mcp", "mcp") from None

__all__ = ["ServerTools", "server_of", "tools_of"]
