"""Turns a Python function with type hints and a docstring into a tool."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
)

from steerkit.errors import ToolError


def tool_from_function(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI tool dict of a function, by transformers' `get_json_schema`.

    Raises:
        ToolError: a type hint or a docstring entry is missing; says which.
    """
    name = getattr(function, "__name__", repr(function))
    try:
        schema: dict[str, Any] = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ToolError(
            f"tool {name}: got a function that cannot be described ({reason}); expected type hints on all arguments "
            f"and a Google-style docstring with an Args section"
        ) from None
    if all(one.kind is not one.VAR_KEYWORD for one in inspect.signature(function).parameters.values()):
        schema["function"]["parameters"]["additionalProperties"] = False
    return schema
