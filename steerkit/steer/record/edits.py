"""Reads off a recorder which rules acted, at which tokens, and by how much: all requests of a site at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steerkit.policy import Formula
from steerkit.sites import Site
from steerkit.steer import ops
from steerkit.steer.compile.latents import Latent
from steerkit.steer.compile.plan import IDENTITY, Plan, SiteTable
from steerkit.steer.record.recorder import Recorder
from steerkit.types import Edit

_NUMBERS_AT_ONCE = 1 << 22
"""Bounds the activations in memory at a time."""


class _Pairs(NamedTuple):
    """The rules that acted in the requests, at one site: P of them."""

    sequences: list[int]
    """`(P,)`"""
    numbers: list[int]
    """`(P,)` columns of the rules."""
    positions: list[Tensor]
    """Positions at which each acted."""


class _Rules(NamedTuple):
    """The pairs by rule: Q rules, the one with the most tokens first, N tokens and E edits of features at most."""

    numbers: list[int]
    """`(Q,)` columns of the rules."""
    counts: list[int]
    """`(Q,)` how many tokens each acted at."""
    sequences: Tensor
    """`(Q, N)` of the tokens, pair after pair; 0 beyond."""
    columns: Tensor
    """`(Q, N)` theirs on the recorder."""
    edits: list[list[tuple[Latent, Formula]]]
    """Features and vectors, and what becomes of them."""


class Acted(NamedTuple):
    """The steering rules in one request."""

    edits: list[Edit]
    """Those that changed something: where, and by how much at most."""
    opened: dict[str, int]
    """By POLICY/RULE of those that were ever open, at how many tokens."""


def read_edits(recorder: Recorder, plan: Plan, places: Sequence[Tensor]) -> list[Acted]:
    """What the rules did in each request.

    `places` holds each request's columns of the recorder, without padding.
    """
    found = [Acted([], {}) for _ in places]
    for site, opened in recorder.opened().items():
        pairs = _pairs(opened, places)
        if not pairs.numbers:
            continue
        norms = _norms(recorder.raw(site), opened, plan, plan.sites[site], pairs, places)
        for b, number, positions, lengths in zip(*pairs, norms, strict=True):
            rule, changed, acted = plan.rules[number - 1], positions[lengths > 0], found[b]
            name = f"{rule.policy}/{rule.name}"
            acted.opened[name] = max(acted.opened.get(name, 0), len(positions))
            if len(changed):
                edit = Edit(rule.name, rule.policy, site, tuple(changed.tolist()), float(lengths.max()))
                acted.edits.append(edit)
    return found


def _pairs(opened: Tensor, places: Sequence[Tensor]) -> _Pairs:
    """Rules that were ever open, of `(B, C, R)`; they come to the host by themselves."""
    sequences, numbers = (part.tolist() for part in opened.any(dim=1).nonzero().unbind(-1))
    pairs = _Pairs([], [], [])
    if not sequences:
        return pairs
    acted = opened[sequences, :, numbers].cpu()
    for b, number, columns in zip(sequences, numbers, acted, strict=True):
        positions = columns[places[b]].nonzero().squeeze(-1)
        if len(positions):
            pairs.sequences.append(b)
            pairs.numbers.append(number)
            pairs.positions.append(positions)
    return pairs


def _norms(
    raw: Tensor, opened: Tensor, plan: Plan, table: SiteTable, pairs: _Pairs, places: Sequence[Tensor]
) -> list[Tensor]:
    """On the host, of each pair the lengths of what its rule added to the activations at its tokens."""
    rules = _by_rule(plan, table.site, pairs, places)
    device = raw.device
    sequences, columns = rules.sequences.to(device), rules.columns.to(device)
    read = _Reader(plan, table, rules)
    # Rules that act at fewer tokens than others drop out on the way.
    norms, start = torch.zeros(columns.shape), 0
    while start < columns.shape[1]:
        some = sum(count > start for count in rules.counts)
        end = start + max(1, _NUMBERS_AT_ONCE // (some * read.width))
        b, at = sequences[:some, start:end], columns[:some, start:end]
        norms[:some, start:end] = read.added(raw[b, at], opened, b, at).norm(dim=-1).cpu()
        start = end
    rest = dict(zip(rules.numbers, norms, strict=True))
    found = []
    for number, positions in zip(pairs.numbers, pairs.positions, strict=True):
        own, rest[number] = rest[number].tensor_split([len(positions)])
        found.append(own)
    return found


def _by_rule(plan: Plan, site: Site, pairs: _Pairs, places: Sequence[Tensor]) -> _Rules:
    """The pairs put together by their rules."""
    sequences: dict[int, list[Tensor]] = {}
    columns: dict[int, list[Tensor]] = {}
    for b, number, positions in zip(*pairs, strict=True):
        sequences.setdefault(number, []).append(torch.full_like(positions, b))
        columns.setdefault(number, []).append(places[b][positions])
    counts = {number: sum(map(len, parts)) for number, parts in columns.items()}
    order = sorted(counts, key=lambda number: -counts[number])
    edits = [
        [(latent, formula) for latent, formula in plan.rules[n - 1].edits.items() if latent.site == site] for n in order
    ]
    by_token, at = (
        pad_sequence([torch.cat(parts[number]) for number in order], batch_first=True) for parts in (sequences, columns)
    )
    return _Rules(order, [counts[number] for number in order], by_token, at, edits)


class _Reader:
    """Computes what rules added to the activations of one site."""

    def __init__(self, plan: Plan, table: SiteTable, rules: _Rules) -> None:
        self._table, device = table, table.indices.device
        self._sites, numbers = (part.to(device) for part in _tables(table, rules.edits))
        self._numbers = numbers.unsqueeze(2).unbind()
        self._rivals = _rivals(plan, table, rules)
        whole = table.columns.whole
        self._own = None if whole is not None else table.columns.in_lanes(self._sites)
        self._W_dec = table.columns.W_dec[self._sites] if self._own is None else self._own.W_dec
        reconstructs = table.reconstructs
        self._rebuilt = None if reconstructs is None else reconstructs[torch.tensor(rules.numbers, device=device)]
        complete = table.sae is not None and (whole is not None or reconstructs is not None)
        self.width = table.sae.d_sae if complete and table.sae is not None else table.columns.width
        """Numbers that a token takes."""

    def added(self, y: Tensor, opened: Tensor, sequences: Tensor, columns: Tensor) -> Tensor:
        """`(q, n, d_in)` what the first q rules added to activations `y` of that shape, at these tokens `(q, n)`."""
        q, x = len(y), y.float()
        features = self._features(x)
        on = None
        if self._rivals:
            on, acting = torch.ones_like(features, dtype=torch.bool), opened[sequences, columns]
            for (rule, slot), others in self._rivals.items():
                if rule < q:
                    on[rule, :, slot] &= ~acting[rule][:, others].any(dim=-1)
        scale, shift, floor, ceiling = (part[:q] for part in self._numbers)
        change = ops.feature_change(features, on, scale, shift, (floor, ceiling))
        added = torch.bmm(change, self._W_dec[:q])
        if self._rebuilt is not None:
            added = torch.where(self._rebuilt[:q].view(-1, 1, 1), self._reconstructed(x, change) - x, added)
        return added

    def _reconstructed(self, x: Tensor, change: Tensor) -> Tensor:
        """`decode(f')` `(q, n, d_in)` of the features' changes `(q, n, E)`, and what vectors add to it."""
        table, sites = self._table, self._sites[: len(x)]
        assert table.sae is not None  # reconstructing rules edit features of it
        own = (sites < len(table.indices)).unsqueeze(1)
        at = table.indices[sites.clamp(max=len(table.indices) - 1)].unsqueeze(1).expand(change.shape)
        decoded = table.sae.decode(table.sae.encode(x).scatter_add(-1, at, torch.where(own, change, 0.0)))
        if len(table.indices) == len(table.latents):
            return decoded
        return decoded + torch.bmm(torch.where(own, 0.0, change), self._W_dec[: len(x)])

    def _features(self, x: Tensor) -> Tensor:
        """`(q, n, E)` those that the rules edit, of activations `(q, n, d_in)` in float32."""
        if self._own is None:
            every = ops.read_features(x.flatten(0, 1), self._table.columns).view(*x.shape[:2], -1)
            return every.gather(2, self._sites[: len(x)].unsqueeze(1).expand(*x.shape[:2], -1))
        return ops.read_grouped(x, self._own.of_first(len(x)))


def _tables(table: SiteTable, edits: Sequence[Sequence[tuple[Latent, Formula]]]) -> tuple[Tensor, Tensor]:
    """The edits of each rule: their sites `(Q, E)` and their numbers `(4, Q, E)`, the identity beyond its last one."""
    place, most = table.places, max(map(len, edits))
    beyond = [[IDENTITY] * (most - len(some)) for some in edits]
    sites = [[place[latent] for latent, _ in some] + [0] * len(more) for some, more in zip(edits, beyond, strict=True)]
    numbers = [[formula for _, formula in some] + more for some, more in zip(edits, beyond, strict=True)]
    return torch.tensor(sites), torch.tensor(numbers).movedim(-1, 0)


def _rivals(plan: Plan, table: SiteTable, rules: _Rules) -> dict[tuple[int, int], list[int]]:
    """By rule and edit, the rules that go before it where both would edit a feature; in shadow none does."""
    if len(table.owner) == 1:
        return {}  # no feature is edited by two rules of a row
    editors: dict[tuple[int, Latent], list[int]] = {}
    for number in [] if table.editors is None else table.editors.nonzero().squeeze(-1).tolist():
        rule = plan.rules[number - 1]
        for latent in rule.edits if rule.writes else ():
            if latent.site == table.site:
                editors.setdefault((rule.row, latent), []).append(number)
    found = {}
    for place, number in enumerate(rules.numbers):
        rule = plan.rules[number - 1]
        for slot, (latent, _) in enumerate(rules.edits[place] if rule.writes else ()):
            others = [one for one in editors[rule.row, latent] if plan.rules[one - 1].rank < rule.rank]
            if others:
                found[place, slot] = others
    return found
