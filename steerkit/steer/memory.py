"""The memory of gates moved from the tables of one plan to those of another, as rows of policies come and go."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch

from steerkit.sites import Site
from steerkit.steer.compile.gates import own_leaves
from steerkit.steer.compile.plan import Plan
from steerkit.steer.gates import GateMemory

_Pairs: TypeAlias = tuple[list[int], list[int]]
"""Columns of one table, and those of the same things in another."""


class Shared(NamedTuple):
    """What two plans both have in their tables of one site."""

    readings: _Pairs
    windows: _Pairs
    """Readings over several tokens, numbered among themselves."""
    rules: _Pairs


class Moved(NamedTuple):
    """Slots of a memory, and where they go."""

    memory: GateMemory
    source: Sequence[int]
    target: Sequence[int]
    shared: Shared


def shared(old: Plan, new: Plan, site: Site, rows: Mapping[int, int]) -> Shared:
    """What two plans share at a site; `rows` are table rows of the old one that the new one has, and theirs there."""
    before = _named(old, site, rows)
    after = _named(new, site, {row: row for row in range(len(new.rows) + 1)})
    return Shared(*(_pairs(one, other) for one, other in zip(before, after, strict=True)))


def moved(empty: GateMemory, parts: Sequence[Moved]) -> GateMemory:
    """A memory of empty slots with those of others in their places, filled in place."""
    for memory, source, target, columns in parts:
        pairs = ((0, columns.readings), (1, columns.windows), (2, columns.windows), (3, columns.rules))
        for number, (here, there) in pairs:
            own, given = empty[number], memory[number]
            if not here:
                continue
            at = torch.tensor(target, device=own.device).unsqueeze(-1), torch.tensor(there, device=own.device)
            taken = given[torch.tensor(source, device=own.device).unsqueeze(-1), torch.tensor(here, device=own.device)]
            if own.ndim == 2:
                own[at] = taken
            elif width := min(own.shape[2], given.shape[2]):  # the newest tokens stand last
                own[(*at, slice(own.shape[2] - width, None))] = taken[..., given.shape[2] - width :]
    return empty


def _named(plan: Plan, site: Site, rows: Mapping[int, int]) -> tuple[list[Hashable], list[Hashable], list[Hashable]]:
    """Readings, those over windows and rules of a site, by what they are; None for rules of rows that do not count."""
    rules = plan.rules[plan.gates[site].rules.start - 1 : plan.gates[site].rules.stop - 1]
    leaves = own_leaves([rule.gate for rule in rules if rule.gate is not None])
    seen: dict[int, int] = {}
    names: list[Hashable] = []
    for rule in rules:  # those of a row keep their order in every plan
        seen[rule.row] = seen.get(rule.row, 0) + 1
        names.append((rows[rule.row], seen[rule.row]) if rule.row in rows else None)
    return list(leaves), [leaf for leaf in leaves if leaf.window > 1], names


def _pairs(one: Sequence[Hashable], other: Sequence[Hashable]) -> _Pairs:
    place = {name: number for number, name in enumerate(other)}
    both = [(number, place[name]) for number, name in enumerate(one) if name is not None and name in place]
    return [here for here, _ in both], [there for _, there in both]
