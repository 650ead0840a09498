"""Compiles policies into the tables that the hooks run: one row per set of policies, row 0 the identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.policy import Formula, Policy, fingerprint
from steerkit.sae import Columns, Sae, SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer.compile.gates import GateSpec, GateTable, Leaf, gate_spec, gate_table, leaf_weights, own_leaves
from steerkit.steer.compile.latents import Latent, columns_of, edited_by, in_order
from steerkit.types import Place

_CPU = torch.device("cpu")
_UNGATED = Site(-1)
"""Stands before all sites: where rules without a gate are known."""
IDENTITY = Formula(1.0, 0.0, -torch.inf, torch.inf)


@dataclass(frozen=True)
class Rule:
    """A steering rule as the kernel sees it; its index in `Plan.rules` is its column, column 0 belongs to none."""

    policy: str
    name: str
    place: Place
    writes: bool
    """False in shadow mode: the gate is evaluated and recorded, nothing is written."""
    reconstructs: bool
    gate: GateSpec | None
    edits: Mapping[Latent, Formula]
    row: int
    """Table row that holds it."""
    rank: tuple[int, int, int]
    """Rank; of two open rules that edit one feature at one token the lower acts: position of the policy in the
    request, then the highest priority, then the position in the file."""

    @cached_property
    def late(self) -> bool:
        """True if the gate reads a later site than the rule edits, and so acts from the next token on."""
        return self.gate is not None and self.gate.site > min(feature.site for feature in self.edits)

    @cached_property
    def reads_at(self) -> Place:
        """The place at which the gate must be read for the rule to act; with nothing remembered, its own."""
        if self.gate is None or (self.gate.at == "any" and not self.gate.remembers and not self.late):
            return self.place
        return self.gate.at


@dataclass(frozen=True, slots=True)
class SiteTable:
    """The tables of one site, on its device: S latents are read, K rules at most edit one of them."""

    site: Site
    sae: Sae | None
    """The site's SAE; None where only vectors are read and written."""
    latents: tuple[Latent, ...]
    """The S features and vectors that are edited here or weighed by a gate, features first."""
    indices: Tensor
    """Indices of the features among them."""
    columns: Columns
    gates: Tensor | None
    """`(S, L)` weights of the site's features in each reading's sum; None where no gate reads this site."""
    leaves: slice
    """Outside these readings all those weights are 0."""
    held: tuple[tuple[int, ...], ...]
    """By row, the places among the S of the features that it edits or weighs."""
    owner: Tensor
    """`(K, rows, S)` column of the rules that edit the feature, the one that goes first first; 0 where none does."""
    alone: tuple[int | None, ...]
    """By row, the column of the one rule that edits here; 0 where none does, None where several do."""
    numbers: Tensor
    """`(4, K, rows, S)` scale, shift, floor and ceiling of the edit, the identity where there is none."""
    scaled: bool
    """True if the result of any edit depends on the feature's value; False where all clamp."""
    bounded: bool
    """True if any edit has a floor or a ceiling."""
    editors: Tensor | None
    """`(R,)` rules that edit here; None if the site is only read."""
    reconstructs: Tensor | None
    """`(R,)` editors that write `decode(f')`; None if there are none."""
    all_reconstruct: bool
    """True if all editors do."""

    @property
    def places(self) -> dict[Latent, int]:
        """By latent, its place among those that are read here."""
        return {latent: place for place, latent in enumerate(self.latents)}


@dataclass(frozen=True)
class Plan:
    """Everything the hooks need to know, for every row of policies in a batch."""

    rows: tuple[tuple[Policy, ...], ...]
    """Row r + 1 of the tables belongs to `rows[r]`; row 0 is the identity."""
    rules: tuple[Rule, ...]
    """All rules: without a gate first, then by the site at which the gate is complete."""
    owned: Tensor
    """`(rows + 1, R)` whether the row holds the rule."""
    writes: Tensor
    """`(R,)`"""
    bias: Tensor
    """`(L,)` what each reading's sum starts from."""
    gates: Mapping[Site, GateTable]
    """By the site at which they are complete."""
    sites: Mapping[Site, SiteTable]

    def row(self, policies: Sequence[Policy]) -> int:
        """Table row of a set of policies that the plan was compiled with; 0 for none."""
        key = _key(policies)
        return [_key(row) for row in self.rows].index(key) + 1 if policies else 0

    @cached_property
    def remembers(self) -> bool:
        """True if any gate needs earlier tokens, so that tokens must come once and in order."""
        return any(rule.gate is not None and (rule.gate.remembers or rule.late) for rule in self.rules)

    @cached_property
    def has_late_rules(self) -> bool:
        """True if any rule acts from the token after its gate on, so that the last prompt token must come alone."""
        return any(rule.late for rule in self.rules)


def compile_plan(
    requests: Sequence[Sequence[Policy]], saes: SaeSet | None, devices: Mapping[Site, torch.device] | None = None
) -> Plan:
    """Tables for a batch in which each request has its own policies, with all quantities already raw.

    Where several open rules of a request edit one feature at one token, the policy that was given first acts, and
    within a policy the higher priority.

    Args:
        requests: the policies of each request; equal ones share a row.
        saes: the dictionaries; may be None where no policy names a feature.
        devices: by site, where its hook runs (default: the CPU).

    Raises:
        PolicyError: a gate with too many alternatives.
        SaeError: a feature that the set does not have.
        SteeringError: a policy steers and there are no SAEs.
    """
    rows = tuple({_key(policies): tuple(policies) for policies in requests if policies}.values())
    rules = tuple(sorted((rule for row, held in enumerate(rows, start=1) for rule in _rules(row, held)), key=_known_at))
    owned = torch.zeros(len(rows) + 1, len(rules) + 1, dtype=torch.bool)
    for column, rule in enumerate(rules, start=1):
        owned[rule.row, column] = True
    leaves, gates = _gates(rules, devices or {})
    latents = {f for rule in rules for f in rule.edits} | {f for leaf in leaves for f, _ in leaf.weights}
    if saes is None and any(isinstance(latent, Feature) for latent in latents):
        raise SteeringError(f"policy {rules[0].policy}: it names features, but no SAEs are loaded; give saes=…")
    sites = {}
    for site in sorted({latent.site for latent in latents}):
        read = in_order([latent for latent in latents if latent.site == site])
        sites[site] = _site(site, read, saes, rules, leaves, len(rows) + 1, (devices or {}).get(site, _CPU))
    writes = torch.tensor([False, *(rule.writes for rule in rules)])
    bias = torch.tensor([leaf.bias for leaf in leaves])
    return Plan(rows, rules, owned, writes, bias, gates, sites)


def _key(policies: Sequence[Policy]) -> tuple[str, ...]:
    return tuple(fingerprint(policy) for policy in policies)


def _known_at(rule: Rule) -> Site:
    return _UNGATED if rule.gate is None else rule.gate.site


def _rules(row: int, policies: Sequence[Policy]) -> Iterator[Rule]:
    """The steering rules of one row's policies; those that only act in retries are not among them."""
    for number, policy in enumerate(policies):
        for position, rule in enumerate(policy.steer):
            if rule.when == "retry":
                continue
            yield Rule(
                policy=policy.name,
                name=rule.name,
                place=rule.where,
                writes=policy.mode == "enforce",
                reconstructs=policy.write_back == "reconstruction",
                gate=None if rule.when is None else gate_spec(policy, rule.when, rule.hold_tokens),
                edits={
                    latent: edit.formula() for name, edit in rule.edit.items() for latent in edited_by(policy, name)
                },
                row=row,
                rank=(number, -rule.priority, position),
            )


def _gates(rules: Sequence[Rule], devices: Mapping[Site, torch.device]) -> tuple[list[Leaf], dict[Site, GateTable]]:
    """All readings, those that are complete at one site side by side, and the tables of the gates by that site."""
    leaves: list[Leaf] = []
    tables = {}
    for site, group in groupby(enumerate(rules, start=1), key=lambda item: _known_at(item[1])):
        if site == _UNGATED:
            continue
        columns, held = zip(*group, strict=True)
        specs = [rule.gate for rule in held if rule.gate is not None]
        start = len(leaves)
        leaves += own_leaves(specs)
        tables[site] = gate_table(
            specs,
            slice(start, len(leaves)),
            slice(columns[0], columns[-1] + 1),
            late=any(rule.late for rule in held),
            device=devices.get(site, _CPU),
        )
    return leaves, tables


def _site(
    site: Site,
    read: Sequence[Latent],
    saes: SaeSet | None,
    rules: Sequence[Rule],
    leaves: Sequence[Leaf],
    rows: int,
    device: torch.device,
) -> SiteTable:
    features = [latent for latent in read if isinstance(latent, Feature)]
    own = saes if features else None
    if own is not None:
        for feature in features:
            own.check(feature)
    place = {latent: s for s, latent in enumerate(read)}
    here = [(column, rule) for column, rule in enumerate(rules, start=1) if any(f in place for f in rule.edits)]
    editors, reconstructs = torch.zeros(2, len(rules) + 1, dtype=torch.bool)
    for column, rule in here:
        editors[column] = True
        reconstructs[column] = rule.reconstructs and any(feature in rule.edits for feature in features)
    owner, numbers = _edit_tables(here, place, rows)
    gates = leaf_weights(leaves, site, place)
    whole = bool(reconstructs.any())
    return SiteTable(
        site,
        None if own is None else own.on(site, device, torch.float32) if whole else own[site],
        tuple(read),
        torch.tensor([feature.index for feature in features], dtype=torch.long, device=device),
        columns_of(site, read, saes, device),
        None if gates is None else gates.to(device),
        slice(0) if gates is None else _between(gates.any(dim=0)),
        tuple(tuple(sorted(found)) for found in _held(rules, place, rows)),
        owner.to(device),
        tuple(_alone(here, rows)),
        numbers.to(device),
        bool(numbers[0, owner > 0].any()),
        bool(numbers[2:].isfinite().any()),
        editors.to(device) if here else None,
        reconstructs.to(device) if whole else None,
        bool((reconstructs == editors).all()),
    )


def _edit_tables(here: Sequence[tuple[int, Rule]], place: Mapping[Latent, int], rows: int) -> tuple[Tensor, Tensor]:
    """`(K, rows, S)` owners and `(4, K, rows, S)` numbers: what goes first in a row first."""
    editing: dict[tuple[int, int], list[tuple[int, Formula]]] = {}
    for column, rule in sorted(here, key=lambda item: item[1].rank):
        for feature, formula in rule.edits.items():
            if feature in place:
                editing.setdefault((rule.row, place[feature]), []).append((column, formula))
    depth = max(map(len, editing.values()), default=1)
    owner = torch.zeros(depth, rows, len(place), dtype=torch.long)
    numbers = torch.tensor(IDENTITY).repeat(depth, rows, len(place), 1)
    for (row, s), stack in editing.items():
        for level, (column, formula) in enumerate(stack):
            owner[level, row, s] = column
            numbers[level, row, s] = torch.tensor(formula)
    return owner, numbers.movedim(-1, 0).contiguous()


def _alone(here: Sequence[tuple[int, Rule]], rows: int) -> Iterator[int | None]:
    """Column of the one rule that edits at a site, by row; 0 where none does, None where several do."""
    found: list[list[int]] = [[] for _ in range(rows)]
    for column, rule in here:
        found[rule.row].append(column)
    yield from (None if len(columns) > 1 else next(iter(columns), 0) for columns in found)


def _held(rules: Sequence[Rule], place: Mapping[Latent, int], rows: int) -> list[set[int]]:
    """Places of the latents that a row's rules edit, or their gates weigh, by row."""
    found: list[set[int]] = [set() for _ in range(rows)]
    for rule in rules:
        weighed = () if rule.gate is None else (feature for leaf in rule.gate.leaves for feature, _ in leaf.weights)
        found[rule.row] |= {place[feature] for feature in (*rule.edits, *weighed) if feature in place}
    return found


def _between(flags: Tensor) -> slice:
    """Slice from the first flag that is set to the last."""
    places = flags.nonzero().squeeze(-1).tolist()
    return slice(places[0], places[-1] + 1)
