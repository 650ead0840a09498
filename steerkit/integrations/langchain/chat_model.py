"""A runtime as a chat model of LangChain: each generation is a turn, and only released calls go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool

from steerkit.audit import ENDPOINT, held_calls
from steerkit.integrations.outcome import judged, released, why_not


class ChatSteerkit(BaseChatModel):  # type: ignore[misc]  # untyped where the extra is not installed
    """`ChatSteerkit(runtime=steerkit.load("tiny", policy="payments")).bind_tools(tools)`.

    `max_tokens`, `temperature`, `top_p`, `top_k`, `seed`, `parallel_tool_calls` and `response_format` are given to
    `bind` or `invoke`. `response_metadata` of a message says the record, each verdict, what is held and why the turn
    ended.
    """

    runtime: Any
    """A `Runtime`."""

    @property
    def _llm_type(self) -> str:
        return "steerkit"

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        strict: bool | None = None,
        **settings: Any,
    ) -> Runnable:
        """The model with tools in any form that LangChain has.

        Args:
            tools: what may be called.
            tool_choice: `none`, `auto`, `any` or `required`, a tool's name, True for `any`, or OpenAI's objects.
            strict: a grammar holds calls to their tools' schemas.
            settings: of every turn.
        """
        told = [convert_to_openai_tool(one, strict=strict) for one in tools]
        return self.bind(tools=told, tool_choice=_choice(tool_choice), **settings)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **how: Any
    ) -> ChatResult:
        """One turn; its record is on disk before LangChain sees it."""
        tools, metadata = how.pop("tools", ()), {ENDPOINT: "langchain"}
        settings = {"max_new_tokens" if name == "max_tokens" else name: value for name, value in how.items()}
        asked = convert_to_openai_messages(messages)
        turn = self.runtime.run(asked, tools, stop=stop or (), metadata=metadata, **settings)
        calls = [{"name": one.name, "args": dict(one.arguments), "id": id} for id, one in released(turn)]
        read, made = len(turn.prompt_ids), len(turn.reply_ids)
        told = {**judged(turn), "text": turn.text, "held": [one.to_json() for one in held_calls(turn)]}
        message = AIMessage(
            content=turn.text or ("" if calls else why_not(turn)),
            tool_calls=calls,
            usage_metadata={
                "input_tokens": read,
                "input_token_details": {"cache_read": turn.cached_tokens},
                "output_tokens": made,
                "total_tokens": read + made,
            },
            response_metadata={"finish_reason": turn.finish, "model_name": self.runtime.engine.name, "steerkit": told},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _choice(given: Any) -> Any:
    """LangChain's choices in the runtime's words; `auto` is what a request without a choice gets."""
    if isinstance(given, bool):
        return "required" if given else None
    return {"any": "required", "auto": None}.get(given, given) if isinstance(given, str) else given
