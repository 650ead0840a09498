"""Held calls in a graph of LangGraph: an `interrupt`, whose answer approves or refuses them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langgraph.types import interrupt

from steerkit.agent import Runtime
from steerkit.audit import Approvals, HeldEntry
from steerkit.errors import SettingError


class HeldCalls(AgentMiddleware):  # type: ignore[misc]  # untyped where the extra is not installed
    """`create_agent(ChatSteerkit(runtime=runtime), tools, middleware=[HeldCalls(runtime)], checkpointer=…)`.

    A turn with held calls interrupts the graph before any of its calls runs. The interrupt's value is `{"held": […]}`,
    each call under an id that names its record and has a digest of it. `Command(resume={id: True})` decides, or with a
    name and a reason `{id: {"approve": False, "by": "ann", "note": "…"}}`. The decision is on record before the call
    runs, and what runs is the call on record. Calls without a decision interrupt again; those that were decided
    elsewhere, as by `steerkit approvals`, need none.

    Args:
        runtime: of the model, with an audit store.
        seconds: how long a held call waits; after that it is not run.

    Raises:
        SettingError: the runtime has no store, so that no decision could be kept.
    """

    def __init__(self, runtime: Runtime, *, seconds: float = 3600.0) -> None:
        super().__init__()
        if runtime.store is None:
            raise SettingError("HeldCalls: got a runtime without an audit store, expected one that keeps decisions")
        self._approvals = Approvals(runtime.store, seconds)

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """The model's message with the held calls, and an error for each that was not approved; None without any."""
        last = next(one for one in reversed(state["messages"]) if isinstance(one, AIMessage))  # the model was asked
        told = last.response_metadata.get("steerkit", {})
        if not told.get("held"):
            return None
        entries = self._decided([one["id"] for one in told["held"]])
        calls = [tool_call(name=one.call.name, args=dict(one.call.arguments), id=one.call_id) for one in entries]
        order = [one["id"] for one in told["verdicts"]]
        calls = sorted([*last.tool_calls, *calls], key=lambda one: order.index(one["id"]))
        errors = [
            ToolMessage(
                json.dumps({"error": one.not_run}), name=one.call.name, tool_call_id=one.call_id, status="error"
            )
            for one in entries
            if one.state != "approved"
        ]
        settled = {**last.response_metadata, "steerkit": {**told, "held": []}}
        said = {"content": told["text"], "tool_calls": calls, "response_metadata": settled}
        return {"messages": [last.model_copy(update=said), *errors]}

    async def aafter_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """The same in an event loop."""
        return self.after_model(state, runtime)

    def _decided(self, ids: list[str]) -> list[HeldEntry]:
        """The calls once none of them waits. With each answer the graph comes here anew, with those before it."""
        while waiting := [one for one in map(self._approvals.get, ids) if one.state == "pending"]:
            answer = interrupt({"held": [one.to_json() for one in waiting]})
            for one in waiting:
                if decision := _decision(answer, one.id):
                    self._approvals.decide(one.id, **decision)
        return [self._approvals.get(id) for id in ids]


def _decision(answer: Any, id: str) -> dict[str, Any] | None:
    """The decision about a call in an answer; None where that does not say it clearly, so that it is asked again."""
    said = answer.get(id) if isinstance(answer, Mapping) else None
    said = {"approve": said} if isinstance(said, bool) else said
    if not isinstance(said, Mapping) or not isinstance(said.get("approve"), bool):
        return None
    texts = {name: said.get(name, "") for name in ("by", "note")}
    return {"approve": said["approve"], **texts} if all(isinstance(one, str) for one in texts.values()) else None
