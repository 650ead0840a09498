"""Responses as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from steerkit.server.chat_request import Declaration
from steerkit.server.errors import ApiError
from steerkit.server.fields import SHARED_REFUSED, Common, Form, Refused, Shape, check_count, read_form
from steerkit.server.options import Limits

REFUSED: Final[Mapping[str, Refused]] = {
    **SHARED_REFUSED,
    "background": Refused((None, False), "a reply comes while its request is open"),
    "conversation": Refused((None,), "a conversation goes on by previous_response_id"),
    "context_management": Refused((None, []), "conversations are not shortened"),
    "truncation": Refused((None, "disabled"), "conversations are not shortened"),
    "max_tool_calls": Refused((None,), "tools are the client's"),
    "prompt": Refused((None,), "there are no stored prompts"),
    "reasoning": Refused((None, {}), "the model has no such setting"),
}
_NOTHING_TO_INCLUDE: Final = ("reasoning.encrypted_content",)
"""What may be asked to be included and is never there, as the model does not reason apart from its text."""


class _Tool(Declaration):
    type: Literal["function"]


class _Approvals(Form):
    """The declaration of a client that it answers `mcp_approval_request` items of this server."""

    type: Literal["mcp"]
    server_label: Literal["steerkit"]
    server_url: str | None = None
    server_description: str | None = None
    require_approval: Literal["always"] | None = None


class _Text(Form):
    format: dict[str, Any] | None = None
    verbosity: None = None


class _StreamOptions(Form):
    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Common):
    """Body of `POST /v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Annotated[_Tool | _Approvals, Field(discriminator="type")]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: _Text = _Text()
    include: list[str] | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: int | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input

    def declared(self) -> Sequence[dict[str, Any]]:
        """The tools in the form of chat completions."""
        return [tool.declared() for tool in self.tools or () if isinstance(tool, _Tool)]

    @property
    def shape(self) -> Shape:
        """The form that the reply must have."""
        shown = self.text.format
        if shown is not None and shown.get("type") == "json_schema" and "json_schema" not in shown:
            shown = {"type": "json_schema", "json_schema": {key: shown[key] for key in shown if key != "type"}}
        return Shape(self.tool_choice, self.parallel_tool_calls, shown)

    @property
    def asks_approval(self) -> bool:
        """True if held calls come as items that the client answers; else the text names them."""
        return any(isinstance(tool, _Approvals) for tool in self.tools or ())

    def repeated(self) -> dict[str, Any]:
        """Fields that the Response repeats."""
        return {
            "model": self.model,
            "instructions": self.instructions,
            "previous_response_id": self.previous_response_id,
            "metadata": self.metadata or {},
            "max_output_tokens": self.max_output_tokens,
            "temperature": 0.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "tool_choice": self.tool_choice or "auto",
            "tools": [
                {"strict": None, **tool.model_dump(exclude_none=True)}
                if isinstance(tool, _Tool)
                else tool.model_dump(exclude_none=True)
                for tool in self.tools or ()
            ],
            "text": {"format": self.text.format or {"type": "text"}},
            "truncation": "disabled",
            "store": self.store is not False,
            **({} if self.user is None else {"user": self.user}),
        }


def read_responses(body: Mapping[str, Any], limits: Limits) -> ResponsesRequest:
    """The fields of a request for a Response. Raises ApiError."""
    form = read_form(ResponsesRequest, body, REFUSED)
    check_count("input", form.items, limits.messages)
    check_count("tools", form.tools or (), limits.tools)
    if not form.items:
        raise ApiError(400, "input: got nothing, expected text or items", param="input")
    for name in form.include or ():
        if name not in _NOTHING_TO_INCLUDE:
            raise ApiError(
                400,
                f"include: got {name!r:.80}, expected nothing: a Response has no more than it shows",
                code="unsupported_parameter",
                param="include",
            )
    if form.steerkit.conversation is not None:
        raise ApiError(
            400,
            "steerkit.conversation: got an id, expected none here: it follows from previous_response_id",
            param="steerkit.conversation",
        )
    return form
