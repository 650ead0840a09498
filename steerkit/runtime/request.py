"""What a caller asks for, and what it becomes before a token is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from steerkit.chat import Prompt, as_tools, lint, render
from steerkit.engine import LoadedModel, Sampling, tool_from_function
from steerkit.errors import ModelError, SettingError
from steerkit.guard import needs
from steerkit.policy import Policy
from steerkit.runtime.keywords import clear_fields
from steerkit.runtime.metadata import Metadata, metadata_of
from steerkit.runtime.resolve_policies import PolicyLike, unsteered
from steerkit.sae import SaeSet
from steerkit.steer import Capacity, Wanted, compile_plan, pack_plan, traced_sites
from steerkit.types import Messages, Tool, Turn

ToolLike: TypeAlias = "Tool | Mapping[str, Any] | Callable[..., Any]"
"""A `Tool`, a tool dict as OpenAI, Anthropic, Google or the Model Context Protocol have it, a JSON Schema with a title,
a Python function with a docstring, or an object that describes a tool, as langchain's."""


@clear_fields
@dataclass(frozen=True, slots=True)
class Request:
    """One turn to make."""

    messages: Messages
    tools: Sequence[ToolLike] = ()
    policy: PolicyLike | None = None
    """None takes the runtime's own policies; an empty sequence takes none."""
    sampling: Sampling = field(default_factory=Sampling)
    counterfactual: bool | None = None
    """Whether to record as well what the model does without steering; None takes the runtime's own setting."""
    metadata: Metadata | None = None
    """Who asked, and what else its record is to be found by."""
    conversation: str | None = None
    """Id that the records of a conversation's turns share; `loop` gives each conversation one of its own."""


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
    attempts: tuple[Turn, ...] = ()
    """What was generated before and judged `retry`."""
    made: int = 0
    """How many attempts came before: of a replay, more than are at hand."""
    unsteered: Prepared | None = None
    """The same request without steering, to be made beside it."""


def prepare(request: Request, loaded: LoadedModel, policies: tuple[Policy, ...], untrusted: str) -> Prepared:
    """Check and render a request whose policies are already resolved.

    What FunctionGemma's published template would drop or garble of a tool is a warning: other templates may not.
    """
    metadata = metadata_of(request.metadata)
    if not isinstance(request.sampling, Sampling):
        raise SettingError(f"sampling: got {type(request.sampling).__name__}, expected a Sampling")
    if request.conversation is not None and not isinstance(request.conversation, str):
        raise SettingError(f"conversation: got {type(request.conversation).__name__}, expected text")
    tools = as_tools(request.tools, from_function=tool_from_function)
    for tool in tools:
        for found in lint(tool):
            warnings.warn(f"tool {tool.name} {found.path}: {found.text}", stacklevel=2)
    prompt = render(loaded.tokenizer, request.messages, tools, untrusted=untrusted)
    context = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and len(prompt.ids) >= context:
        raise ModelError(
            f"the prompt has {len(prompt.ids):,} tokens, but the model's context is {context:,}, which leaves no room "
            f"for a reply; shorten the conversation"
        )
    return Prepared(request, tools, policies, prompt, wanted_of(policies), metadata)


def wanted_of(policies: tuple[Policy, ...]) -> Wanted:
    """What the trace of a request under these policies shows, and the guard reads of it."""
    watch = {policy.name: tuple(dict.fromkeys((*policy.trace.watch, *needs(policy)))) for policy in policies}
    return Wanted(policies, watch, max((policy.trace.top_k for policy in policies), default=0))


def room_for(sets: Iterable[tuple[Policy, ...]], loaded: LoadedModel, saes: SaeSet | None) -> Capacity:
    """How much room prepared steps need so that a request under any of these policies fits."""
    held = list(sets)
    plan = compile_plan(held, saes, loaded.site_devices)
    return pack_plan(plan, traced_sites([wanted_of(policies) for policies in held], saes)).needs


def with_counterfactual(one: Prepared) -> Prepared:
    """The request with the same one without steering beside it; where nothing steers it, as it is."""
    if not any(policy.steer and policy.mode == "enforce" for policy in one.policies):
        return one
    policies = unsteered(one.policies)
    watch = {policy.name: needs(policy) for policy in policies}
    return replace(one, unsteered=replace(one, policies=policies, wanted=Wanted(policies, watch)))
