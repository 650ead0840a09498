"""Compiles policies into the tables that the hooks run: one row per set of policies, row 0 the identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.errors import PolicyError, SteeringError
from steerkit.policy import Formula, Policy, SteerRule, fingerprint
from steerkit.sae import Sae, SaeSet
from steerkit.sae.dictionary import Columns
from steerkit.types import Feature, Place

IDENTITY = Formula(1.0, 0.0, -torch.inf, torch.inf)


@dataclass(frozen=True, slots=True)
class Rule:
    """A steering rule as the kernel sees it; its index in `Plan.rules` is its column, column 0 belongs to none."""

    policy: str
    name: str
    place: Place
    writes: bool
    """False in shadow mode: the gate is evaluated and recorded, nothing is written."""
    reconstructs: bool
    gate: Mapping[Feature, float]
    """Weights of the gate's sum; empty for a rule without one."""
    bias: float
    low: float
    high: float
    """The gate is open where `low < sum < high`."""
    edits: Mapping[Feature, Formula]


@dataclass(frozen=True, slots=True)
class SiteTable:
    """What one hook needs; tensors live on the site's device. S features are read, R = rules + 1 columns."""

    layer: int
    sae: Sae
    indices: Tensor
    """`(S,)` features that are edited here or weighed by a gate."""
    columns: Columns
    gates: Tensor | None
    """`(S, R)` weights of this layer's features in each rule's gate sum; None where no gate reads this layer."""
    owner: Tensor
    """`(rows, S)` column of the rule that edits the feature; 0 where none does."""
    scale: Tensor
    shift: Tensor
    floor: Tensor
    ceiling: Tensor
    """`(rows, S)` each: the edit's four numbers, the identity where there is none."""
    editors: Tensor | None
    """`(R,)` rules that edit here; None if the site is only read."""
    reconstructs: Tensor | None
    """`(R,)` editors that write `decode(f')`; None if there are none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the hooks need to know, for every row of policies in a batch."""

    rows: tuple[tuple[Policy, ...], ...]
    """Row r + 1 of the tables belongs to `rows[r]`; row 0 is the identity."""
    rules: tuple[Rule, ...]
    owned: Tensor
    """`(rows + 1, R)` whether the row holds the rule."""
    writes: Tensor
    low: Tensor
    high: Tensor
    bias: Tensor
    """`(R,)` each."""
    sites: Mapping[int, SiteTable]

    def row(self, policies: Sequence[Policy]) -> int:
        """Table row of a set of policies that the plan was compiled with; 0 for none."""
        key = _key(policies)
        return [_key(row) for row in self.rows].index(key) + 1 if policies else 0


def compile_plan(
    requests: Sequence[Sequence[Policy]], saes: SaeSet | None, devices: Mapping[int, torch.device] | None = None
) -> Plan:
    """Tables for a batch in which each request has its own policies, with all quantities already raw.

    Args:
        requests: the policies of each request; equal ones share a row.
        saes: the dictionaries; may be None where no policy names a feature.
        devices: by layer, where its hook runs (default: the CPU).

    Raises:
        PolicyError: two rules of one request edit the same feature.
        SaeError: a feature that the set does not have.
        SteeringError: a policy steers and there are no SAEs.
    """
    rows = tuple({_key(policies): tuple(policies) for policies in requests if policies}.values())
    held = [[_rule(policy, rule) for policy in row for rule in policy.steer] for row in rows]
    for row_rules in held:
        _refuse_conflicts(row_rules)
    rules = tuple(rule for row_rules in held for rule in row_rules)
    owned = torch.zeros(len(rows) + 1, len(rules) + 1, dtype=torch.bool)
    column = 1
    for row, row_rules in enumerate(held, start=1):
        owned[row, column : column + len(row_rules)] = True
        column += len(row_rules)
    features = {f for rule in rules for f in (*rule.edits, *rule.gate)}
    if features and saes is None:
        raise SteeringError(f"policy {rules[0].policy}: it names features, but no SAEs are loaded; give saes=…")
    sites = {}
    for layer in sorted({feature.layer for feature in features}):
        assert saes is not None  # said above, for the type checker
        device = (devices or {}).get(layer, torch.device("cpu"))
        sites[layer] = _site(layer, saes, rules, owned, device)
    return Plan(
        rows,
        rules,
        owned,
        torch.tensor([False, *(rule.writes for rule in rules)]),
        torch.tensor([-torch.inf, *(rule.low for rule in rules)]),
        torch.tensor([torch.inf, *(rule.high for rule in rules)]),
        torch.tensor([0.0, *(rule.bias for rule in rules)]),
        sites,
    )


def weighted_sum(policy: Policy, name: str) -> tuple[dict[Feature, float], float]:
    """Weights and bias of a probe of the policy; a feature is the sum of itself."""
    if name in policy.features:
        return {_feature(policy, name): 1.0}, 0.0
    probe = policy.probes[name]
    return {_feature(policy, part): weight for part, weight in probe.weights.items()}, probe.bias


def _feature(policy: Policy, name: str) -> Feature:
    return policy.features[name].site


def _key(policies: Sequence[Policy]) -> tuple[str, ...]:
    return tuple(fingerprint(policy) for policy in policies)


def _rule(policy: Policy, rule: SteerRule) -> Rule:
    gate: dict[Feature, float] = {}
    bias, low, high = 0.0, -torch.inf, torch.inf
    if rule.when is not None:
        gate, bias = weighted_sum(policy, rule.when.feature or rule.when.probe or "")
        low = -torch.inf if rule.when.above is None else float(rule.when.above)
        high = torch.inf if rule.when.below is None else float(rule.when.below)
    return Rule(
        policy=policy.name,
        name=rule.name,
        place=rule.where,
        writes=policy.mode == "enforce",
        reconstructs=policy.write_back == "reconstruction",
        gate=gate,
        bias=bias,
        low=low,
        high=high,
        edits={_feature(policy, name): edit.formula() for name, edit in rule.edit.items()},
    )


def _refuse_conflicts(rules: Sequence[Rule]) -> None:
    first: dict[Feature, Rule] = {}
    problems = []
    for rule in rules:
        for feature in rule.edits:
            other = first.setdefault(feature, rule)
            if other is not rule:
                problems.append(
                    f"{rule.policy} steer '{rule.name}': layer {feature.layer} feature {feature.index} is already "
                    f"edited by {other.policy} steer '{other.name}'; expected one rule per feature"
                )
    if problems:
        raise PolicyError(problems)


def _site(layer: int, saes: SaeSet, rules: Sequence[Rule], owned: Tensor, device: torch.device) -> SiteTable:
    read = sorted({f for rule in rules for f in (*rule.edits, *rule.gate) if f.layer == layer})
    for feature in read:
        saes.check(feature)
    place = {feature: s for s, feature in enumerate(read)}
    rows, columns = owned.shape
    gates = torch.zeros(len(read), columns)
    owner = torch.zeros(rows, len(read), dtype=torch.long)
    table = torch.tensor(IDENTITY).repeat(rows, len(read), 1)
    editors, reconstructs = torch.zeros(2, columns, dtype=torch.bool)
    for column, rule in enumerate(rules, start=1):
        for feature, weight in rule.gate.items():
            if feature.layer == layer:
                gates[place[feature], column] = weight
        for feature, formula in rule.edits.items():
            if feature.layer == layer:
                holders = owned[:, column]
                owner[holders, place[feature]] = column
                table[holders, place[feature]] = torch.tensor(formula)
                editors[column] = True
                reconstructs[column] = rule.reconstructs
    indices = torch.tensor([feature.index for feature in read])
    sae = saes[layer]
    scale, shift, floor, ceiling = (part.contiguous().to(device) for part in table.unbind(-1))
    whole = bool(reconstructs.any())
    return SiteTable(
        layer,
        sae.to(device, torch.float32) if whole else sae,
        indices.to(device),
        Columns(*(part.to(device) for part in sae.columns(indices))),
        gates.to(device) if bool(gates.any()) else None,
        owner.to(device),
        scale,
        shift,
        floor,
        ceiling,
        editors.to(device) if bool(editors.any()) else None,
        reconstructs.to(device) if whole else None,
    )
