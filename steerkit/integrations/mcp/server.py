"""A runtime as an MCP server: turns, verdicts on given calls, and held calls with the decisions about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from steerkit.agent import Runtime
from steerkit.audit import ENDPOINT, Approvals, held_calls
from steerkit.chat import as_tools
from steerkit.engine import tool_from_function
from steerkit.errors import SteerkitError
from steerkit.guard import review
from steerkit.integrations.outcome import judged, released
from steerkit.integrations.turns import taken
from steerkit.runtime import Request
from steerkit.types import Call, Trace


def server_of(runtime: Runtime, name: str = "steerkit", *, approval_seconds: float = 3600.0) -> MCPServer:
    """A server with the tools `run`, `check`, `approve` and `held`; `server_of(runtime).run()` serves it over stdio.

    Every turn is under the runtime's own policies and on record before it is answered. Held calls wait in the
    runtime's store for so many seconds, whatever becomes of this process; without a store nobody can approve them.
    """
    desk, server = _Desk(runtime, approval_seconds), MCPServer(name)
    for tool in (desk.run, desk.check, desk.approve, desk.held):
        server.tool()(tool)
    return server


class _Desk:
    """The tools."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self._runtime = runtime
        self._approvals = None if runtime.store is None else Approvals(runtime.store, seconds)

    async def run(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Take one turn: text, the calls that may be run, those that wait for a person, the record and the verdicts.

        Args:
            messages: OpenAI-style chat messages.
            tools: what the model may call, in any form of a tool dict.
            tool_choice: none, auto, required, a tool's name, or one of OpenAI's objects.
            parallel_tool_calls: false for at most one call.
            response_format: OpenAI's object, for a text that is JSON.
        """
        with _told_to_the_client():
            request = Request(
                messages,
                tools or (),
                metadata={ENDPOINT: "mcp"},
                tool_choice=tool_choice,
                parallel_tool_calls=parallel_tool_calls,
                response_format=response_format,
            )
            turn = await taken(self._runtime, request)
        held = [one.to_json() for one in held_calls(turn)]
        return {"text": turn.text, "released": [_told(one) for _, one in released(turn)], "held": held, **judged(turn)}

    async def check(
        self,
        calls: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        messages: list[dict[str, Any]] | None = None,
    ) -> list[dict[str, Any]]:
        """Judge given calls, without a turn and without a record. Rules that read features deny: nothing was read.

        Args:
            calls: each with its name and arguments.
            tools: the declarations.
            messages: the conversation before them.
        """
        asked = [Call(one["name"], one.get("arguments") or {}) for one in calls]
        with _told_to_the_client():
            declared = as_tools(tools, from_function=tool_from_function)
            policies, before = self._runtime.policies, messages or ()
            verdicts = review(asked, tools=declared, trace=Trace(), policies=policies, messages=before)
        return [{"decision": one.decision, "rule": one.rule, "reason": one.reason} for one in verdicts]

    async def approve(self, id: str, approved: bool, by: str, note: str = "") -> dict[str, Any]:
        """Decide a held call, once; the decision is on record before the call is given out.

        Args:
            id: of the call, as `run` gave it.
            approved: whether it may be run.
            by: name of the person who decides.
            note: why.
        """
        with _told_to_the_client():
            entry = await run_sync(partial(self._store.decide, id, approve=approved, by=by, note=note))
        return {"released": [_told(entry.call)] if entry.state == "approved" else [], "record": entry.record}

    async def held(self, id: str = "") -> list[dict[str, Any]]:
        """The held calls that wait, oldest first; or one of them, with the decision and, approved, the call to run.

        Args:
            id: of the call, as `run` gave it; nothing for all that wait.
        """
        with _told_to_the_client():
            found = [await run_sync(self._store.get, id)] if id else await run_sync(self._store.pending)
        return [one.to_json() for one in found]

    @property
    def _store(self) -> Approvals:
        if self._approvals is None:
            raise ToolError("nothing is recorded here, so no call can wait for a decision; load steerkit with a store")
        return self._approvals


@contextmanager
def _told_to_the_client() -> Iterator[None]:
    """Errors of steerkit as MCP's, whose text goes to the client; of any other it gets none."""
    try:
        yield
    except SteerkitError as error:
        raise ToolError(str(error)) from None


def _told(call: Call) -> dict[str, Any]:
    return {"name": call.name, "arguments": dict(call.arguments)}
