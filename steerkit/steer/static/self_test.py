"""Tries kernels on the very device before they steer: on made-up tables they must do what `StaticSteering` does itself.

All numbers are small and whole, or bounds between such, so that both are exact in any order of summing, and must agree
to the last bit. A kernel that a compiler or a device gets wrong is found here, not by a gate that stays shut.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Final

import torch
from torch import Tensor, nn

from steerkit.sites import Site
from steerkit.steer.points import find_sites
from steerkit.steer.static.buffers import StaticSite, StaticSteering
from steerkit.steer.static.capacity import Capacity

_TABLES: Final = 3
_TOKENS: Final = 6
"""Under each of the tables, one after the other."""
_COLUMNS: Final = 32
"""Columns of the recorder; a multiple of 16, like a real one's and like the rows, as Triton compiles for that."""
_BETWEEN: Final = 0.37
"""No mean of less than a hundred whole numbers is this far from one."""
_STATE: Final = ("sums", "opened", "latched", "last_open", "number", "column", "tail", "tail_counts")


def disagreement(model: nn.Module, capacity: Capacity, rows: int, kernels: ModuleType) -> str | None:
    """The first difference between kernels and the same steps without them, in words; None where they agree.

    Args:
        model: what will be steered.
        capacity: of each request, as it will be.
        rows: how many requests there will be; fewer are tried.
        kernels: the kernels.
    """
    tried = 1 if rows == 1 else 16 if rows % 16 == 0 else 3
    draw, dtype = _Draw(tried), next(find_sites(model).body.parameters()).dtype
    own, other = (StaticSteering(model, capacity, tried, _COLUMNS, fused=fused) for fused in (None, kernels))
    for token in range(_TABLES * _TOKENS):
        if token % _TOKENS == 0:
            draw.tables(own)
            for mine, its in zip(_buffers(own), _buffers(other), strict=True):
                its.copy_(mine)
        draw.masks(own)
        other.masks.copy_(own.masks)
        own.begin()
        other.begin()
        for key, site in own.sites.items():
            y = draw.activations(site.W_enc.shape[-1]).to(own.device, dtype)
            found = own.step(site, y), other.step(other.sites[key], y)
            if (what := _differs(own, other, site, other.sites[key], found)) is not None:
                return f"{key.name}: kernels and torch give different {what}"
    return None


def _differs(
    own: StaticSteering,
    other: StaticSteering,
    site: StaticSite,
    its: StaticSite,
    out: tuple[Tensor | None, Tensor | None],
) -> str | None:
    """The first that is not equal after a step, by its name."""
    parts: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "activations": out,
        "recorder": (site.raw, its.raw),
        "open rules on the recorder": (site.opened, its.opened),
        "hook counts": (site.fired, its.fired),
        **{name: (getattr(own, name), getattr(other, name)) for name in _STATE},
    }
    for name, (mine, found) in parts.items():
        if mine is None or found is None:
            if mine is not found:
                return name
        elif not torch.equal(mine, found):
            return name
    return None


def _buffers(steering: StaticSteering) -> list[Tensor]:
    """All tensors of a steering and its sites, in one order."""
    held = [vars(steering), *(vars(site) for site in steering.sites.values())]
    return [part for one in held for part in one.values() if isinstance(part, Tensor)]


class _Draw:
    """Draws tables and activations for some requests; always the same."""

    def __init__(self, rows: int) -> None:
        self._rows, self._draw = rows, torch.Generator().manual_seed(0)

    def _whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self._draw)

    def _flags(self, part: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._draw) < part

    def _between(self, low: int, high: int, never: float, *shape: int) -> Tensor:
        """Numbers between whole ones, some of which are `never`."""
        return torch.where(self._flags(0.3, *shape), never, self._whole(low, high, *shape) + _BETWEEN)

    def _one_of(self, sites: frozenset[Site], *shape: int) -> Tensor:
        """Numbers of sites, or -1 for none."""
        some = torch.tensor([-1, *(site.order for site in sorted(sites))])
        return some[self._whole(0, len(sites), *shape)]

    def activations(self, width: int) -> Tensor:
        """`(B, 1, d_in)`, one in eight not 0."""
        return self._whole(-2, 2, self._rows, 1, width) * self._flags(0.125, self._rows, 1, width)

    def masks(self, steering: StaticSteering) -> None:
        """Masks that the places of a token allow; never rule 0, which is none."""
        masks = self._flags(0.8, *steering.masks.shape)
        masks[:, :1] = False
        steering.masks.copy_(masks)

    def tables(self, steering: StaticSteering) -> None:
        """Fill every table."""
        s, capacity, B = steering, steering.capacity, self._rows
        R, L, M, W = capacity.rules, capacity.readings, capacity.terms, capacity.window
        known = self._one_of(capacity.gated, B, R)
        s.known.copy_(known)
        s.late.copy_(self._flags(0.2, B, R) & (known >= 0))
        s.writes.copy_(self._flags(0.8, B, R))
        s.hold.copy_(self._whole(1, 3, B, R))
        low = self._between(-6, 3, -math.inf, B, L)
        off = torch.where(low.isfinite(), low - self._whole(0, 3, B, L), math.nan)
        s.bounds.copy_(torch.stack([self._whole(-2, 2, B, L), low, self._between(3, 9, math.inf, B, L), off]))
        s.bounds[3].masked_fill_(self._flags(0.3, B, L).to(s.device), math.nan)
        s.read_at.copy_(self._one_of(capacity.gated, B, L))
        windows = self._whole(1, max(1, W), B, L)
        s.spans.copy_(torch.arange(W - 1, -1, -1) < windows.unsqueeze(-1))
        s.windowed.copy_(windows > 1)
        s.means.copy_(self._flags(0.5, B, L))
        wanted = self._whole(-1, 1, B, L, M)
        s.wanted.copy_(wanted)
        s.wants.copy_((wanted > 0).sum(dim=1).masked_fill(self._flags(0.2, B, M), -1))
        s.terms.copy_(self._flags(0.4, B, M, R))
        for site in s.sites.values():
            if site.reads:
                self._site(site, capacity)

    def _site(self, site: StaticSite, capacity: Capacity) -> None:
        """Fill the tables of one site; features beyond a request's count are zeros."""
        B, S, D = site.W_enc.shape
        count = self._whole(1, S, B)
        used = torch.arange(S) < count.unsqueeze(-1)
        site.count.copy_(count)
        for weight in (site.W_enc, site.W_dec):
            weight.copy_(self._whole(-1, 1, B, S, D) * self._flags(0.25, B, S, D) * used.unsqueeze(-1))
        units = [self._whole(-2, 2, B, S), self._whole(1, 2, B, S), self._whole(-1, 1, B, S)]
        site.units.copy_(torch.where(used, torch.stack([*units, self._between(-2, 1, -math.inf, B, S)]), 0))
        site.weights.copy_(self._whole(-1, 1, *site.weights.shape) * used.unsqueeze(-1))
        K = len(site.owner)
        site.owner.copy_(self._whole(0, max(0, capacity.rules - 1), K, B, S) * used)
        scale, shift = self._whole(0, 2, K, B, S), self._whole(-3, 3, K, B, S)
        floor, ceiling = self._between(-8, -1, -math.inf, K, B, S), self._between(0, 8, math.inf, K, B, S)
        site.numbers.copy_(torch.stack([scale, shift, floor.floor(), ceiling.floor()]))
        site.editors.copy_(self._flags(0.8, *site.editors.shape))
