"""Reads off a tape which rules acted, at which tokens, and by how much: all requests of a layer at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.policy import Formula
from steerkit.steer import ops
from steerkit.steer.plan import IDENTITY, Plan, SiteTable
from steerkit.steer.tape import Tape
from steerkit.types import Edit

_NUMBERS_AT_ONCE = 1 << 22
"""Bounds the features held at a time, tokens times sites."""


class _Pairs(NamedTuple):
    """The rules that acted in the requests, at one layer: P of them, at N tokens in all."""

    sequences: list[int]
    """`(P,)`"""
    numbers: list[int]
    """`(P,)` columns of the rules."""
    positions: list[Tensor]
    """Of each, where it acted."""


def read_edits(tape: Tape, plan: Plan, places: Sequence[Tensor]) -> list[list[Edit]]:
    """Which rules acted in each request, where, and how much they changed at most.

    `places` holds each request's columns of the tape, without padding.
    """
    found: list[list[Edit]] = [[] for _ in places]
    for layer, opened in tape.opened().items():
        pairs = _pairs(opened, places)
        if not pairs.numbers:
            continue
        norms = _norms(tape.raw(layer), opened, plan, plan.sites[layer], pairs, places)
        sizes = [len(positions) for positions in pairs.positions]
        for b, number, positions, lengths in zip(*pairs, torch.split(norms, sizes), strict=True):
            changed = positions[lengths > 0]
            if len(changed):
                rule = plan.rules[number - 1]
                edit = Edit(rule.name, rule.policy, layer, tuple(changed.tolist()), float(lengths.max()))
                found[b].append(edit)
    return found


def _pairs(opened: Tensor, places: Sequence[Tensor]) -> _Pairs:
    """Of rules `(B, C, R)` that were open, those that ever were; they come to the host by themselves."""
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
) -> Tensor:
    """`(N,)` on the host: lengths of what each rule added to the activations at its tokens, pair after pair."""
    device, layer = raw.device, table.layer
    which = torch.cat([torch.full_like(one, pair) for pair, one in enumerate(pairs.positions)]).to(device)
    sequences = torch.tensor(pairs.sequences, device=device)[which]
    columns = torch.cat([places[b][one] for b, one in zip(pairs.sequences, pairs.positions, strict=True)]).to(device)
    edits = [
        [
            (feature.index, formula)
            for feature, formula in plan.rules[number - 1].edits.items()
            if feature.layer == layer
        ]
        for number in pairs.numbers
    ]
    sites, mine, numbers = (part.to(device) for part in _tables(table, edits))
    rivals, rules = _rivals(plan, table, pairs, edits), torch.tensor(pairs.numbers, device=device)
    norms = []
    for some in torch.split(torch.arange(len(which), device=device), max(1, _NUMBERS_AT_ONCE // len(table.indices))):
        pair, y = which[some], raw[sequences[some], columns[some]]
        features, own, on = ops.read_features(y, table.columns), sites[pair], mine[pair]
        acting = opened[sequences[some], columns[some]] if rivals else opened[:0]
        for (one, slot), others in rivals.items():
            on[:, slot] &= ~(acting[:, others].any(dim=-1) & (pair == one))
        scale, shift, floor, ceiling = (part[pair] for part in numbers)
        change = ops.feature_change(features.gather(1, own), on, scale, shift, (floor, ceiling))
        change = torch.zeros_like(features).scatter_add_(1, own, change)
        added = change @ table.columns.W_dec
        if table.reconstructs is not None:
            whole = table.reconstructs[rules[pair]]
            dense = table.sae.encode(y).index_add(-1, table.indices, change)
            added = torch.where(whole.unsqueeze(-1), table.sae.decode(dense) - y.float(), added)
        norms.append(added.norm(dim=-1))
    return torch.cat(norms).cpu()


def _tables(table: SiteTable, edits: Sequence[Sequence[tuple[int, Formula]]]) -> tuple[Tensor, Tensor, Tensor]:
    """The edits of each pair, E at most: their sites `(P, E)`, which there are `(P, E)`, their numbers `(4, P, E)`."""
    place = table.places
    shape = (len(edits), max(map(len, edits)))
    sites, mine = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    numbers = torch.tensor(IDENTITY).repeat(*shape, 1)
    for pair, some in enumerate(edits):
        sites[pair, : len(some)] = torch.tensor([place[index] for index, _ in some])
        numbers[pair, : len(some)] = torch.tensor([formula for _, formula in some])
        mine[pair, : len(some)] = True
    return sites, mine, numbers.movedim(-1, 0)


def _rivals(
    plan: Plan, table: SiteTable, pairs: _Pairs, edits: Sequence[Sequence[tuple[int, Formula]]]
) -> dict[tuple[int, int], list[int]]:
    """By pair and edit, the rules that go before the pair's where both would edit a feature; in shadow none does."""
    editors: dict[tuple[int, int], list[int]] = {}
    for number in [] if table.editors is None else table.editors.nonzero().squeeze(-1).tolist():
        rule = plan.rules[number - 1]
        for feature in rule.edits if rule.writes else ():
            if feature.layer == table.layer:
                editors.setdefault((rule.row, feature.index), []).append(number)
    found = {}
    for pair, number in enumerate(pairs.numbers):
        rule = plan.rules[number - 1]
        for slot, (index, _) in enumerate(edits[pair] if rule.writes else ()):
            others = [one for one in editors[rule.row, index] if plan.rules[one - 1].rank < rule.rank]
            if others:
                found[pair, slot] = others
    return found
