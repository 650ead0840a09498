"""The variants of an experiment: a policy and its controls, each as a policy and a set of SAEs that the product runs.

What steering writes at a token is `(f' - f) @ W_dec` over the edited features. So a control is the same policy with
other rows of `W_dec` for them: gates, reads and places stay what they are, and what is written is scaled, turned round
or turned elsewhere at every token alike. The rows are those of the edited features alone: nothing else reads a decoder.
What is written of a direction the policy itself says: how many times, and whether random vectors take its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.policy import Policy, SteerRule
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site

Rows: TypeAlias = Mapping[Feature, Tensor]
"""Decoder rows `(d_in,)` in place of a set's own."""


class Setup(NamedTuple):
    """A variant's policy, decoder rows and prompt text; small, as it is sent to workers that have the model."""

    policy: Policy | None = None
    rows: Rows | None = None
    """Rows in its SAEs; None for the set as it is."""
    ask: str | None = None
    """A sentence of the developer's that asks for what the policy does."""


def edited_features(policy: Policy) -> dict[Site, list[int]]:
    """By site, the indices that any steering rule edits, in order."""
    found: dict[Site, list[int]] = {}
    named = {name for rule in policy.steer for name in rule.edit if name in policy.features}
    for one in sorted({policy.features[name].feature for name in named}):
        found.setdefault(one.site, []).append(one.index)
    return found


def scaled(saes: SaeSet | None, policy: Policy, factor: float) -> Rows:
    """Rows for what the policy writes of features times a factor: 0 is nothing, -1 the opposite sign."""
    return {} if saes is None else {f: factor * saes[f.site].W_dec[f.index].float() for f in _features(policy)}


def added(policy: Policy, factor: float) -> Policy:
    """The policy with its directions added a factor of times as often."""
    rules = []
    for rule in policy.steer:
        edit = {
            name: one if one.add is None else one.model_copy(update={"add": factor * one.add})
            for name, one in rule.edit.items()
        }
        rules.append(rule.model_copy(update={"edit": edit}))
    return policy.model_copy(update={"steer": tuple(rules)})


def random_directions(policy: Policy, seed: int) -> Policy:
    """The policy with random vectors of the same length in the place of those that it adds."""
    written = {name for rule in policy.steer for name in rule.edit}
    named = {
        name: one.model_copy(update={"random": seed}) if name in written else one
        for name, one in policy.directions.items()
    }
    return policy.model_copy(update={"directions": named})


def reads_what_it_adds(policy: Policy) -> bool:
    """True if a probe reads a direction that a rule adds: random vectors in its place would change the gates, too."""
    added = {name for rule in policy.steer for name in rule.edit if name in policy.directions}
    return any(not added.isdisjoint(probe.weights) for probe in policy.probes.values())


def random_features(saes: SaeSet, policy: Policy, seed: int) -> Rows:
    """Rows for what the policy writes along random other features of the same layer, of the same norm at every token.

    Of the random features' decoder rows R the nearest orthonormal frame O is taken (polar decomposition), and the
    policy's rows W become `(W @ W.T) ** 0.5 @ O`: any weighted sum of them is as long as that of W's. Where a layer has
    more edited features than its width, no such frame exists, and W is turned by a random rotation instead.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: dict[Feature, Tensor] = {}
    for site, indices in edited_features(policy).items():
        decoder = saes[site].W_dec.float()
        wanted = decoder[indices].double()
        others = torch.ones(len(decoder), dtype=torch.bool)
        others[indices] = False
        others &= decoder.norm(dim=1).cpu() > 0
        free = others.nonzero().squeeze(-1)
        if min(decoder.shape[1], len(free)) < len(indices):
            rotation = torch.linalg.qr(torch.randn(decoder.shape[1], decoder.shape[1], generator=generator)).Q
            turned = wanted @ rotation.to(wanted)
        else:
            chosen = free[torch.randperm(len(free), generator=generator)[: len(indices)]]
            left, _, right = torch.linalg.svd(decoder[chosen].double(), full_matrices=False)
            turned = _root(wanted @ wanted.T) @ (left @ right)
        rows |= {Feature(site, index): row.float() for index, row in zip(indices, turned, strict=True)}
    return rows


def along(
    saes: SaeSet, policy: Policy, directions: Mapping[tuple[str, Site], Tensor], norms: Mapping[tuple[str, Site], float]
) -> Setup:
    """A policy whose rules write a constant along one direction in each layer instead of their edits.

    Args:
        saes: the set.
        policy: raw, with steering rules.
        directions: by rule and site, `(d_in,)`; of any length.
        norms: by rule and site, how long what is written is; a rule and site without one writes nothing.
    """
    rows: dict[Feature, Tensor] = {}
    rules = []
    for rule in policy.steer:
        edits: dict[str, Any] = {}
        for name in rule.edit:
            if name not in policy.features:
                continue  # a direction's length is what it is; another may not be written in its place
            feature = policy.features[name].feature
            taken = {policy.features[other].feature.site for other in edits}
            if feature.site in taken or feature in rows or (rule.name, feature.site) not in norms:
                continue
            direction = directions.get((rule.name, feature.site))
            if direction is None:
                continue
            rows[feature] = direction / direction.norm().clamp(min=1e-12)
            edits[name] = {"shift": norms[rule.name, feature.site]}
        if edits:
            rules.append({**rule.model_dump(exclude_none=True), "edit": edits})
    content = {**policy.model_dump(exclude_none=True), "steer": rules, "guard": None}
    return Setup(Policy.model_validate(content), rows)


def steering_only(policy: Policy) -> Policy:
    """The policy without its guard, writing deltas, and for no model in particular: its controls are other SAEs."""
    return policy.model_copy(update={"guard": None, "write_back": "delta", "model": None})


def without_gates(policy: Policy) -> Policy:
    """The policy whose steering rules act at every token of their places: what its gates keep from harm shows here."""
    steer = tuple(rule if rule.when == "retry" else rule.model_copy(update={"when": None}) for rule in policy.steer)
    return policy.model_copy(update={"steer": steer})


def guard_only(policy: Policy) -> Policy:
    """The policy without steering, but for what retries ask for."""
    return policy.model_copy(update={"steer": tuple(rule for rule in policy.steer if rule.when == "retry")})


def single_rules(policy: Policy) -> dict[str, Policy]:
    """Each rule by itself: a steering rule without a guard, a guard rule before a default that allows."""
    found = {}
    for rule in policy.steer:
        if rule.when != "retry":
            found[rule.name] = policy.model_copy(update={"steer": (rule,), "guard": None})
    for one in policy.guard.rules if policy.guard else ():
        guard = policy.guard.model_copy(update={"default": "allow", "rules": (one,)}) if policy.guard else None
        helping = tuple(rule for rule in policy.steer if rule.when == "retry" and rule.name == one.with_)
        found[one.name] = policy.model_copy(update={"steer": helping, "guard": guard})
    return found


def acting_rules(policy: Policy) -> tuple[SteerRule, ...]:
    """The steering rules that act without a retry."""
    return tuple(rule for rule in policy.steer if rule.when != "retry")


def asked_for(messages: Sequence[Mapping[str, Any]], ask: str) -> list[Mapping[str, Any]]:
    """Messages whose developer also says `ask`: at the end of the first developer's or system's message, or before all.

    A developer's text in parts gets a part more.
    """
    head, *rest = messages
    if head.get("role") not in ("developer", "system"):
        return [{"role": "developer", "content": ask}, *messages]
    content = head.get("content") or ""
    longer = f"{content} {ask}".strip() if isinstance(content, str) else [*content, {"type": "text", "text": f" {ask}"}]
    return [{**head, "content": longer}, *rest]


def _features(policy: Policy) -> list[Feature]:
    return [Feature(site, index) for site, indices in edited_features(policy).items() for index in indices]


def _root(gram: Tensor) -> Tensor:
    """The symmetric square root of a matrix of inner products."""
    values, vectors = torch.linalg.eigh(gram)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
