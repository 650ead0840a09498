"""Runs tools with the arguments of calls, made into the types that their functions hint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from steerkit.chat import tool_object
from steerkit.engine.tool_schema import Described, described, is_model
from steerkit.types import Tool


def runnable(given: Any) -> Callable[..., Any] | None:
    """Callable that runs a tool with the arguments of a call; None for a tool that is only a declaration.

    Arguments of types that JSON has not, models, dataclasses, dates and the like, are made of their JSON first. What
    langchain made is invoked.
    """
    if isinstance(given, (Tool, Mapping)):
        return None
    if tool_object(given) is not None and hasattr(given, "invoke"):
        return _invoked(given)
    if not callable(given):
        return None
    function: Callable[..., Any] = given
    if is_model(given) or tool_object(given) is not None:
        return function
    known = described(function)
    return _converting(function, known) if known.converted or known.filled else function


def _invoked(given: Any) -> Callable[..., Any]:
    if getattr(given, "func", True) is None and hasattr(given, "ainvoke"):

        async def ainvoke(**arguments: Any) -> Any:
            return await given.ainvoke(arguments)

        return ainvoke

    def invoke(**arguments: Any) -> Any:
        return given.invoke(arguments)

    return invoke


def _converting(function: Callable[..., Any], known: Described) -> Callable[..., Any]:
    def converted(arguments: dict[str, Any]) -> dict[str, Any]:
        read = known.model.model_validate(arguments)
        fields = {name: field for name, field in known.converted.items() if name in arguments}
        return {**arguments, **{name: getattr(read, field) for name, field in {**fields, **known.filled}.items()}}

    call = getattr(function, "__call__", None)  # noqa: B004  # of an object that can be called
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):

        async def arun(**arguments: Any) -> Any:
            return await function(**converted(arguments))

        return arun

    def run(**arguments: Any) -> Any:
        return function(**converted(arguments))

    return run
