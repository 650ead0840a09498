"""A runtime as a chat model of LangChain: each generation is a turn, and only released calls go out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool

from steerkit.errors import SettingError
from steerkit.integrations.outcome import judged, why_not


class ChatSteerkit(BaseChatModel):  # type: ignore[misc]  # untyped where the extra is not installed
    """`ChatSteerkit(runtime=steerkit.load("tiny", policy="payments")).bind_tools(tools)`.

    `max_tokens`, `temperature`, `top_p`, `top_k` and `seed` are given to `bind` or `invoke`. `response_metadata` of a
    message says the record, each verdict and why the turn ended.
    """

    runtime: Any
    """A `Runtime`."""

    @property
    def _llm_type(self) -> str:
        return "steerkit"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **settings: Any) -> Runnable:
        """The model with tools in any form that LangChain has.

        Raises:
            SettingError: a call is to be forced.
        """
        if tool_choice not in (None, "auto", "none"):
            raise SettingError(f"tool_choice: got {tool_choice!r}, but no call can be forced; expected auto or none")
        told = [] if tool_choice == "none" else [convert_to_openai_tool(one) for one in tools]
        return self.bind(tools=told, **settings)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **how: Any
    ) -> ChatResult:
        """One turn; its record is on disk before LangChain sees it."""
        tools = how.pop("tools", ())
        sampling = {"max_new_tokens" if name == "max_tokens" else name: value for name, value in how.items()}
        turn = self.runtime.run(convert_to_openai_messages(messages), tools, stop=stop or (), **sampling)
        calls = [
            {"name": one.name, "args": dict(one.arguments), "id": f"{turn.record_id}.{number}"}
            for number, one in enumerate(turn.released)
        ]
        text = turn.text or ("" if calls else why_not(turn))
        read, made = len(turn.prompt_ids), len(turn.reply_ids)
        message = AIMessage(
            content=text,
            tool_calls=calls,
            usage_metadata={"input_tokens": read, "output_tokens": made, "total_tokens": read + made},
            response_metadata={"finish_reason": turn.finish, "model_name": self.runtime.engine.name, **_told(turn)},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _told(turn: Any) -> dict[str, Any]:
    return {"steerkit": judged(turn)}
