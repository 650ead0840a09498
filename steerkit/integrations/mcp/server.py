"""A runtime as an MCP server: `run` takes a turn, `check` judges calls without one, `approve` decides a held call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from steerkit.agent import Approval, Runtime
from steerkit.chat import as_tools
from steerkit.engine import tool_from_function
from steerkit.errors import SteerkitError
from steerkit.guard import review
from steerkit.integrations.outcome import judged
from steerkit.types import Call, Trace, Turn


def server_of(runtime: Runtime, name: str = "steerkit") -> MCPServer:
    """A server with the tools `run`, `check` and `approve`; `server_of(runtime).run()` serves it over stdio.

    Every turn is under the runtime's own policies and on record before it is answered. Held calls wait in this process:
    with it they are gone, and then nothing of them was released.
    """
    desk, server = _Desk(runtime), MCPServer(name)
    for tool in (desk.run, desk.check, desk.approve):
        server.tool()(tool)
    return server


class _Desk:
    """The tools, and the calls that wait."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._held: dict[str, tuple[Turn, Call]] = {}

    async def run(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Take one turn: text, the calls that may be run, those that wait for a person, the record and the verdicts.

        Args:
            messages: OpenAI-style chat messages.
            tools: what the model may call, in any form of a tool dict.
        """
        with _told_to_the_client():
            turn = await run_sync(partial(self._runtime.run, messages, tools or ()))
        waiting = {}
        for number, (call, verdict) in enumerate(zip(turn.calls, turn.verdicts, strict=True)):
            if verdict.decision == "hold" and isinstance(call, Call):
                waiting[f"{turn.record_id}.{number}"] = (turn, call)
        self._held |= waiting
        return {
            "text": turn.text,
            "released": [_told(call) for call in turn.released],
            "held": [{"id": id, **_told(call)} for id, (_, call) in waiting.items()],
            **judged(turn),
        }

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
        turn, call = self._held.pop(id, (None, None))
        if turn is None or call is None:
            raise ToolError(f"approve: got {id!r}, expected a call that waits: {', '.join(self._held) or 'none does'}")
        with _told_to_the_client():
            decision = await run_sync(self._runtime.approved, turn, call, Approval(approved, by, note))
        return {"released": [_told(call)] if decision.approved else [], "record": turn.record_id}


@contextmanager
def _told_to_the_client() -> Iterator[None]:
    """Errors of steerkit as MCP's, whose text goes to the client; of any other it gets none."""
    try:
        yield
    except SteerkitError as error:
        raise ToolError(str(error)) from None


def _told(call: Call) -> dict[str, Any]:
    return {"name": call.name, "arguments": dict(call.arguments)}
