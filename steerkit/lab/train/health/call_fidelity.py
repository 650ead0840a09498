"""Share of a model's calls that stay the same under SAE reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from steerkit.chat import as_tools, parse, render
from steerkit.engine import LoadedModel, tool_from_function
from steerkit.errors import SaeError
from steerkit.lab.activations import rewritten
from steerkit.lab.corpus import Conversation
from steerkit.lab.replies import Way, replies
from steerkit.lab.train.health.fidelity import spliced
from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import attach, compile_plan
from steerkit.types import Call


@dataclass(frozen=True)
class CallFidelity:
    """Replies with calls that kept exactly the same calls: names, arguments and order."""

    asked: int
    """Conversations that were generated from."""
    calling: int
    """Conversations whose plain reply calls at least one tool; the counts below are among these."""
    delta: int
    """Same calls under an empty delta: steering is attached and every edit is the identity."""
    every_layer: int
    """Same calls with all layers' reconstructions at once."""
    by_layer: dict[Site, int]
    """Same calls with one site's reconstruction."""


def call_fidelity(
    loaded: LoadedModel,
    saes: SaeSet,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 128,
    report: Callable[[int, int], None] | None = None,
) -> CallFidelity:
    """Generate greedily from each conversation, plain and with the SAEs in several ways, and compare the calls.

    `report` is called with how many of how many ways are done.

    Raises:
        SaeError: no conversations.
    """
    if not conversations:
        raise SaeError("conversations: got none, expected messages to answer; plain texts cannot be asked for calls")
    prompts = [_prompt(loaded, one) for one in conversations]
    ways: list[Way] = [nullcontext, lambda: _empty_delta(loaded, saes)]
    ways += [partial(_reconstruction, loaded, saes, some) for some in [list(saes), *([site] for site in saes)]]
    found: list[list[Any]] = []
    for way in ways:
        found.append(_calls(loaded, prompts, way, max_new_tokens))
        if report is not None:
            report(len(found), len(ways))
    plain, *others = found
    calling = [number for number, calls in enumerate(plain) if calls]
    delta, every, *single = (sum(other[number] == plain[number] for number in calling) for other in others)
    return CallFidelity(len(prompts), len(calling), delta, every, dict(zip(saes, single, strict=True)))


def _prompt(loaded: LoadedModel, one: Conversation) -> tuple[int, ...]:
    tools = as_tools(one.tools, from_function=tool_from_function)
    return render(loaded.tokenizer, one.asked, tools).ids


def _calls(loaded: LoadedModel, prompts: Sequence[Sequence[int]], way: Way, max_new_tokens: int) -> list[Any]:
    """The calls of each reply, in order, as plain data."""
    found: list[Any] = []
    for reply in replies(loaded, prompts, max_new_tokens, way):
        calls = parse(loaded.tokenizer, reply).calls
        found.append([(c.name, dict(c.arguments)) if isinstance(c, Call) else c.raw for c in calls])
    return found


def _empty_delta(loaded: LoadedModel, saes: SaeSet) -> AbstractContextManager[Any]:
    """Steering by a policy that edits a feature of every layer at every token and changes nothing: `max(f, 0)`."""
    names = {f"{site.point}{site.layer}": {"site": str(site), "index": 0} for site in saes}
    edit = {name: {"floor": 0} for name in names}
    rule = {"name": "nothing", "where": "any", "edit": edit}
    policy = Policy.model_validate({"steerkit": 1, "name": "identity", "features": names, "steer": [rule]})
    plan = compile_plan([[policy]], saes, loaded.site_devices)
    return attach(loaded.model, plan)


def _reconstruction(loaded: LoadedModel, saes: SaeSet, sites: Sequence[Site]) -> AbstractContextManager[Any]:
    rewrites = {site: spliced(saes[site].to(loaded.site_devices[site])) for site in sites}
    return rewritten(loaded.model, rewrites)
