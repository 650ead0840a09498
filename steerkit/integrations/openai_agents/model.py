"""A runtime as a model of openai-agents: each response is a turn, and only released calls go out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, Final

from agents import HostedMCPTool, Model, ModelResponse, Usage
from agents.models.chatcmpl_converter import Converter
from anyio.to_thread import run_sync
from openai.types.responses import Response, ResponseCompletedEvent, ResponseUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from steerkit.agent import Runtime
from steerkit.audit import ENDPOINT, Approvals
from steerkit.errors import SettingError
from steerkit.integrations.openai_agents.items import LABEL, call_of, decided, items_of, messages_of, to_run
from steerkit.integrations.turns import taken
from steerkit.runtime import Request, sampling_of
from steerkit.types import Turn

APPROVALS: Final = {
    "type": "mcp",
    "server_label": LABEL,
    "server_url": "http://steerkit",
    "require_approval": "always",
}
"""`HostedMCPTool(APPROVALS)` among an agent's tools has its held calls come as interruptions."""
_SAMPLING: Final = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_new_tokens"}
_OTHERS: Final = (
    *("metadata", "tool_choice", "parallel_tool_calls", "extra_args"),
    *("store", "include_usage", "retry", "timeout", "preserve_raw_usage"),  # of servers, and of the runner
)
"""Settings beside sampling that may be given."""


class SteerkitModel(Model):  # type: ignore[misc]  # untyped where the extra is not installed
    """`Agent("house", tools=tools, model=SteerkitModel(steerkit.load("tiny", policy="people")))`.

    Temperature, top_p, max_tokens, tool_choice, parallel_tool_calls, metadata and an output type are honoured, `seed`
    and `top_k` in `extra_args`; another setting is an error. A stream has the whole reply as its one event.

    Args:
        runtime: takes the turns.
        seconds: how long a held call waits for a decision.
    """

    def __init__(self, runtime: Runtime, *, seconds: float = 3600.0) -> None:
        self.runtime = runtime
        self._approvals = None if runtime.store is None else Approvals(runtime.store, seconds)

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: Any,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: Any,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
    ) -> ModelResponse:
        """One turn, on record before it is returned; or the calls that a person approved, without another turn.

        Raises:
            SettingError: a setting that is not honoured.
            SteerkitError: another of its kinds.
        """
        stored = {"previous_response_id": previous_response_id, "conversation_id": conversation_id, "prompt": prompt}
        if given := [name for name, value in stored.items() if value is not None]:
            raise SettingError(f"{given[0]}: got one, but nothing is kept here; give the whole conversation")
        items = [] if isinstance(input, str) else input
        entries = await run_sync(decided, items, self._approvals)
        if approved := to_run(items, entries):
            return ModelResponse([call_of(one.call_id, one.call) for one in approved], Usage(), None)
        functions = [one for one in tools if not _asks_approval(one)]
        request = Request(
            messages_of(system_instructions, input, entries),
            [*map(Converter.tool_to_openai, functions), *map(Converter.convert_handoff_tool, handoffs)],
            **_settings(model_settings),
            response_format=Converter.convert_response_format(output_schema) or None,
        )
        turn = await taken(self.runtime, request)
        return ModelResponse(items_of(turn, len(functions) < len(tools)), _usage(turn), turn.record_id)

    async def stream_response(self, *asked: Any, **how: Any) -> AsyncIterator[Any]:
        """The response of `get_response` as the last event of a stream, and its only one."""
        made = await self.get_response(*asked, **how)
        read = made.usage
        usage = ResponseUsage(
            input_tokens=read.input_tokens,
            input_tokens_details=read.input_tokens_details,
            output_tokens=read.output_tokens,
            output_tokens_details=read.output_tokens_details,
            total_tokens=read.total_tokens,
        )
        response = Response(
            id=made.response_id or "",
            created_at=time.time(),
            model=self.runtime.engine.name,
            object="response",
            output=made.output,
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=True,
            usage=usage,
        )
        yield ResponseCompletedEvent(response=response, sequence_number=0, type="response.completed")


def _settings(given: Any) -> dict[str, Any]:
    """A request's settings. Raises SettingError for one that is not honoured."""
    said = {name: value for name, value in asdict(given).items() if value is not None}
    for name, value in said.items():
        if name not in (*_SAMPLING, *_OTHERS):
            raise SettingError(f"{name}: got {value!r:.80}, expected none: steerkit has no such setting")
    sampled = {ours: said[theirs] for theirs, ours in _SAMPLING.items() if theirs in said}
    choice = said.get("tool_choice")
    return {
        "sampling": sampling_of("extra_args", sampled | (given.extra_args or {})),
        "metadata": {**(given.metadata or {}), ENDPOINT: "openai-agents"},
        "tool_choice": None if choice == "auto" else choice,
        "parallel_tool_calls": given.parallel_tool_calls,
    }


def _asks_approval(tool: Any) -> bool:
    return isinstance(tool, HostedMCPTool) and tool.tool_config.get("server_label") == LABEL


def _usage(turn: Turn) -> Usage:
    read, made = len(turn.prompt_ids), len(turn.reply_ids)
    return Usage(
        requests=1,
        input_tokens=read,
        input_tokens_details=InputTokensDetails(cached_tokens=turn.cached_tokens, cache_write_tokens=0),
        output_tokens=made,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        total_tokens=read + made,
    )
