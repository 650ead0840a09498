"""Requests, as callers give them and as they are rendered for the model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeAlias

from steerkit.chat import Prompt, ReplyForm, as_tools, dialect_of, lint, render, reply_form
from steerkit.engine import Engine, Sampling, tool_from_function
from steerkit.errors import ContextError, SettingError
from steerkit.guard import needs
from steerkit.policy import Policy
from steerkit.runtime.constraints import grammar_for
from steerkit.runtime.keywords import init_raises_setting_errors, refuse_unknown
from steerkit.runtime.policies import PolicyLike, unsteered
from steerkit.steer import Wanted
from steerkit.types import Messages, Tool, Turn

ToolLike: TypeAlias = "Tool | Mapping[str, Any] | Callable[..., Any]"
"""A `Tool`, a tool dict as OpenAI, Anthropic, Google or the Model Context Protocol have it, a JSON Schema with a title,
a Python function with a docstring, or an object that describes a tool, as langchain's."""
Metadata: TypeAlias = "Mapping[str, str | int | float | bool | Sequence[str]]"
"""Keys and values such as `{"user": "ann", "tags": ["mail"]}`; records keep them as content that can be redacted."""

_MOST_KEYS: Final = 32
_MOST_CHARACTERS: Final = 512
"""Longest text."""
_MOST_ITEMS: Final = 32
"""Longest list of texts."""
FORM: Final = ("tool_choice", "parallel_tool_calls", "response_format", "stop")
"""Fields of a request that say what its reply must be like."""
SAMPLING: Final = tuple(one.name for one in fields(Sampling))


@init_raises_setting_errors
@dataclass(frozen=True, slots=True)
class Request:
    """One turn to make."""

    messages: Messages
    tools: Sequence[ToolLike] = ()
    policy: PolicyLike | None = None
    """None takes the runtime's own policies; an empty sequence takes none."""
    sampling: Sampling = field(default_factory=Sampling)
    counterfactual: bool | None = None
    """Record as well what the model does without steering; None takes the runtime's own setting."""
    metadata: Metadata | None = None
    """Keys and values by which its record is found, such as who asked."""
    conversation: str | None = None
    """Id that the records of a conversation's turns share; `loop` gives each conversation one of its own."""
    tool_choice: str | Mapping[str, Any] | None = None
    """`none`, `auto`, `required`, a tool's name, or OpenAI's objects for one tool or several; None leaves replies free.
    All but None and `none` hold the reply to a grammar."""
    parallel_tool_calls: bool | None = None
    """False for at most one call."""
    response_format: Mapping[str, Any] | None = None
    """OpenAI's object of type `text`, `json_object` or `json_schema`: what the reply's text is."""
    stop: str | Sequence[str] = ()
    """Texts before which the reply's text ends."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request in the model's terms."""

    request: Request
    tools: tuple[Tool, ...]
    policies: tuple[Policy, ...]
    """With every quantity raw."""
    prompt: Prompt
    wanted: Wanted
    """Features and probes that its traces and the guard need."""
    metadata: Mapping[str, Any] | None = None
    """A checked copy of the request's."""
    form: ReplyForm = field(default_factory=ReplyForm)
    """The form that its reply must have."""
    grammar: str | None = None
    """The grammar of that form; None where none is needed."""
    attempts: tuple[Turn, ...] = ()
    """Turns that were generated before and judged `retry`."""
    made: int = 0
    """Number of earlier attempts: of a replay, more than are at hand."""
    unsteered: Prepared | None = None
    """Its counterfactual: the request without steering, for a row beside it."""


def prepare(
    request: Request,
    engine: Engine,
    policies: tuple[Policy, ...],
    untrusted: str,
    *,
    required_over_steering: bool = False,
) -> Prepared:
    """Check and render a request whose policies are already resolved.

    What FunctionGemma's published template would drop or garble of a tool is a warning: other templates may not.
    """
    metadata = metadata_of(request.metadata)
    if not isinstance(request.sampling, Sampling):
        raise SettingError(f"sampling: got {type(request.sampling).__name__}, expected a Sampling")
    if request.conversation is not None and not isinstance(request.conversation, str):
        raise SettingError(f"conversation: got {type(request.conversation).__name__}, expected text")
    tools, dialect = as_tools(request.tools, from_function=tool_from_function), dialect_of(engine.tokenizer)
    for tool in tools:
        for found in lint(tool, dialect):
            warnings.warn(f"tool {tool.name} {found.path}: {found.text}", stacklevel=2)
    form = reply_form(tools, request.tool_choice, request.parallel_tool_calls, request.response_format, request.stop)
    form = replace(form, over_steering=required_over_steering)
    prompt = render(engine.tokenizer, request.messages, tools, untrusted=untrusted)
    context = engine.context
    if context is not None and len(prompt.ids) >= context:
        raise ContextError(
            f"the prompt has {len(prompt.ids):,} tokens, but the model's context is {context:,}, which leaves no room "
            f"for a reply; shorten the conversation"
        )
    grammar = grammar_for(engine.tokenizer, form, tools, prompt.ids, policies, request.messages)
    return Prepared(request, tools, policies, prompt, wanted_of(policies), metadata, form, grammar)


def wanted_of(policies: tuple[Policy, ...]) -> Wanted:
    """Features and probes that the trace of a request under these policies shows and the guard reads."""
    watch = {policy.name: tuple(dict.fromkeys((*policy.trace.watch, *needs(policy)))) for policy in policies}
    return Wanted(policies, watch, max((policy.trace.top_k for policy in policies), default=0))


def with_counterfactual(one: Prepared) -> Prepared:
    """The request with the same one without steering beside it; where nothing steers it, as it is."""
    if not any(policy.steer and policy.mode == "enforce" for policy in one.policies):
        return one
    policies = unsteered(one.policies)
    watch = {policy.name: needs(policy) for policy in policies}
    wanted = Wanted(policies, watch, one.wanted.top_k)
    return replace(one, unsteered=replace(one, policies=policies, wanted=wanted))


def sampling_of(where: str, settings: Mapping[str, Any], others: Iterable[str] = ()) -> Sampling:
    """The sampling of keyword arguments. Raises SettingError for an unknown one; `others` are known as well."""
    refuse_unknown(where, settings, (*others, *SAMPLING))
    return Sampling(**settings)


def metadata_of(given: object, where: str = "metadata") -> dict[str, Any] | None:
    """A copy of plain JSON values; None where there is none.

    Raises:
        SettingError: what was got, and what was expected.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise SettingError(f'{where}: got {type(given).__name__}, expected a mapping such as {{"user": "ann"}}')
    if len(given) > _MOST_KEYS:
        raise SettingError(f"{where}: got {len(given)} keys, expected at most {_MOST_KEYS}")
    for key in given:
        if not isinstance(key, str) or not key:
            raise SettingError(f"{where}: got the key {_short(key)}, expected text")
        _text(key, f"{where}: a key")
    return {str.__str__(key): _value(value, f"{where}[{key!r}]") for key, value in given.items()} or None


def _value(value: object, where: str) -> Any:
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, (bool, int)):
        if not -(2**63) <= value < 2**63:
            raise SettingError(f"{where}: got an integer of {value.bit_length()} bits, expected at most 63")
        return bool(value) if isinstance(value, bool) else int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SettingError(f"{where}: got {value}, expected a finite number")
        return float(value)
    if isinstance(value, (list, tuple)):
        if len(value) > _MOST_ITEMS:
            raise SettingError(f"{where}: got a list of {len(value)}, expected at most {_MOST_ITEMS}")
        for number, item in enumerate(value):
            if not isinstance(item, str):
                raise SettingError(f"{where}[{number}]: got {_short(item)}, expected text")
        return [_text(item, f"{where}[{number}]") for number, item in enumerate(value)]
    raise SettingError(f"{where}: got {_short(value)}, expected text, a number, true or false, or a list of texts")


def _text(text: str, where: str) -> str:
    if len(text) > _MOST_CHARACTERS:
        raise SettingError(f"{where}: got {len(text)} characters, expected at most {_MOST_CHARACTERS}")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise SettingError(f"{where}: got half a character (a lone surrogate), expected Unicode text")
    return str.__str__(text)


def _short(value: object) -> str:
    """Text of a short scalar, else the kind of the value."""
    shown = repr(value) if value is None or isinstance(value, (bool, int, float, str)) else ""
    return shown if shown and len(shown) <= 40 else type(value).__name__
