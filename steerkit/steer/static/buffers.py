"""Steers decode steps over buffers of fixed capacity that are refilled where policies change.

A step is one token of each of B sequences and pure tensor work: nothing asks a tensor for its value, nothing changes
its shape, and no table is a constant. So `torch.compile` traces one graph, and a CUDA graph that was captured once
steers under any policies that fit. What a step does equals what `attach` does with the same token.

Shapes: B requests, S features read at a site, R rules, L readings, M terms, K edits of one feature, W tokens of a
window, C columns of the recorder; each request has its own, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn

from steerkit.errors import SteeringError
from steerkit.sae import Columns
from steerkit.sites import Site
from steerkit.steer.gates import NEVER, GateMemory, Gates, Windows, held_open, open_gates
from steerkit.steer.gather import Gathered, edits_of
from steerkit.steer.points import Steer, described, find_sites
from steerkit.steer.static.capacity import Capacity


class StaticSite:
    """The buffers of one site; the identity until they are filled."""

    def __init__(
        self,
        site: Site,
        capacity: Capacity,
        rows: int,
        columns: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.site = site
        self.number = site.order
        """The site in tables."""
        self.reads, self.edits, self.gates = site in capacity.read, site in capacity.edited, site in capacity.gated
        self.fired = torch.zeros((), dtype=torch.long, device=device)
        """Passes in which the hook ran."""
        self.raw = self.opened = torch.empty(0)
        if site in capacity.kept:
            self.raw = torch.zeros(rows, columns, width, dtype=dtype, device=device)
            """`(B, C, d_in)` activations before any edit."""
        if self.edits:
            self.opened = torch.zeros(rows, columns, capacity.rules, dtype=torch.bool, device=device)
            """`(B, C, R)` which rules acted."""
        S, K = (capacity.features, capacity.depth) if self.reads else (0, 0)
        self.count = torch.zeros(rows, dtype=torch.long, device=device)
        """`(B,)` how many of the S are used, the first ones."""
        self.W_enc = torch.zeros(rows, S, width, device=device)
        self.W_dec = torch.zeros(rows, S, width, device=device)
        self.units = torch.zeros(4, rows, S, device=device)
        """`(4, B, S)` with `pre = x @ W_enc + units[0]`, a feature is `relu(units[1] * pre + units[2])` where `pre` is
        above `units[3]`; every kind of SAE whose features depend on themselves alone is of this form."""
        self.weights = torch.zeros(rows, S, capacity.readings, device=device)
        """`(B, S, L)` weights of the features in each reading's sum."""
        self.owner = torch.zeros(K, rows, S, dtype=torch.long, device=device)
        """`(K, B, S)` the rule that edits the feature, the one that goes first first; 0 where none does."""
        self.numbers = torch.zeros(4, K, rows, S, device=device)
        """`(4, K, B, S)` scale, shift, floor and ceiling of the edit."""
        self.editors = torch.zeros(rows, capacity.rules, dtype=torch.bool, device=device)
        """`(B, R)` rules that edit here."""
        own = Columns(self.W_enc.mT, self.units[0].unsqueeze(1), self.W_dec)
        edits = edits_of(self.owner, self.numbers)
        self.tables = Gathered(own, self.weights, slice(0, capacity.readings), edits, rows, rows)
        """Views of these buffers: each request is a group with columns of its own."""


class StaticSteering:
    """All buffers of B requests and their state, and the arithmetic of a step over them.

    Args:
        model: what is steered; all of its layers on one device.
        capacity: of each request.
        rows: B.
        columns: C, padding and prompts included.
        fused: kernels that do the same in one launch per site, see `fused_kernels`.
    """

    def __init__(
        self, model: nn.Module, capacity: Capacity, rows: int, columns: int, *, fused: ModuleType | None = None
    ) -> None:
        sites = find_sites(model)
        weight = next(sites.body.parameters())
        self._fused = fused
        self.device, self.capacity, self.rows, self.columns = weight.device, capacity, rows, columns
        self.sites = {}
        for site in capacity.sites:
            width = sites.width(site)
            if width is None:
                raise SteeringError(f"{described(site)} does not say its width; use attach")
            self.sites[site] = StaticSite(site, capacity, rows, columns, width, weight.dtype, self.device)
        self._make_tables(capacity)
        self._make_state(capacity)
        self.clear()

    def _make_tables(self, capacity: Capacity) -> None:
        R, L, M = capacity.rules, capacity.readings, capacity.terms
        self.masks = self._flags(2 * R + L)
        """`(B, R + R + L)` which rules the token's places allow, which gates may be read there, and which readings'
        windows and latches it counts for."""
        self.allowed, self.reads, self.counts = self.masks.split([R, R, L], dim=1)
        self.known, self.late = self._integers(R), self._flags(R)
        """`(B, R)` number of the site at which each rule's gate is known, -1 without one; whether it acts from the next
        token on."""
        self.hold, self.writes = self._integers(R), self._flags(R)
        self.bounds = torch.zeros(4, self.rows, L, device=self.device)
        """`(4, B, L)` bias, low, high and off of each reading; off is NaN without hysteresis."""
        self.read_at = self._integers(L)
        """`(B, L)` number of the site at which the gates are known that read each reading."""
        self.spans, self.windowed, self.means = self._flags(L, capacity.window), self._flags(L), self._flags(L)
        """`(B, L, W)` which of the last W tokens a reading goes over, the last of them last; `(B, L)` whether it goes
        over more than one, and whether it is their mean."""
        self.wanted, self.wants, self.terms = self._numbers(L, M), self._numbers(M), self._numbers(M, R)
        """The terms of `Gates`, with a first dimension of B."""

        remembers, (_, low, high, off) = capacity.remembers, self.bounds.unbind()
        windows = Windows(None, self.spans, self.means, self.windowed) if remembers and capacity.window > 1 else None
        self.gates = Gates(
            low,
            high,
            True,
            off if remembers else None,
            windows,
            self.wanted,
            self.wants,
            self.terms,
            self.hold if remembers else None,
            remembers,
        )
        """The gates' tables, as views of these buffers."""

    def _make_state(self, capacity: Capacity) -> None:
        R, L = capacity.rules, capacity.readings
        self.column = torch.zeros(1, dtype=torch.long, device=self.device)
        """`(1,)` column of the last token read."""
        self.number = self._integers(1)
        """`(B, 1)` its number in its sequence, padding not counted."""
        self.sums, self.opened = self._numbers(L), self._flags(R)
        """`(B, L)` sums of readings so far, `(B, R)` rules that are open."""
        self.latched, self.last_open = self._flags(L), self._integers(R)
        self.tail, self.tail_counts = self._numbers(L, capacity.window), self._flags(L, capacity.window)

    def _numbers(self, *shape: int) -> Tensor:
        return torch.zeros(self.rows, *shape, device=self.device)

    def _integers(self, *shape: int) -> Tensor:
        return torch.zeros(self.rows, *shape, dtype=torch.long, device=self.device)

    def _flags(self, *shape: int) -> Tensor:
        return torch.zeros(self.rows, *shape, dtype=torch.bool, device=self.device)

    def clear(self) -> None:
        """Make every table the identity, and forget all that is remembered."""
        for site in self.sites.values():
            site.fired.zero_()
            if site.reads:
                parts = (site.count, site.W_enc, site.W_dec, site.units, site.weights, site.owner, site.editors)
                for part in parts:
                    part.zero_()
                site.numbers.copy_(site.numbers.new_tensor([1.0, 0.0, -math.inf, math.inf]).view(4, 1, 1, 1))
        for part in (self.masks, self.late, self.writes, self.bounds, self.spans, self.windowed, self.means):
            part.zero_()
        for part in (self.wanted, self.terms, self.read_at):
            part.zero_()
        self.wants.fill_(-1)  # no count of readings is
        self.known.fill_(-1)
        self.hold.fill_(1)
        self.forget()

    def forget(self) -> None:
        """Forget what gates remember, and where the sequences stand."""
        for part in (self.column, self.number, self.latched, self.tail, self.tail_counts):
            part.zero_()
        self.last_open.fill_(NEVER)

    def begin(self) -> None:
        """Advance to the next token, and open the rules that are open before any site has run."""
        if self._fused is not None and self.capacity.rules:
            self._fused.begin(self)
            return
        self.column.add_(1)
        if not self.capacity.rules:
            return
        opened = self.known < 0
        if self.capacity.remembers:
            self.number.add_(1)
            opened = opened | (self.late & held_open(self.gates, self._memory(), self.number.squeeze(1), None))
        self.opened.copy_(opened & self.allowed)
        self.sums.copy_(self.bounds[0])

    def step(self, site: StaticSite, y: Tensor) -> Tensor | None:
        """The activations `(B, 1, d_in)` of a site with their edits, or None where it is only read."""
        if self._fused is not None:
            found: Tensor | None = self._fused.step(self, site, y)
            return found
        site.fired.add_(1)
        if site.raw.numel():
            site.raw.index_copy_(1, self.column, y)
        if not site.reads:
            return None
        x = y.float()
        bias, gain, lift, threshold = site.units.unsqueeze(2).unbind()
        pre = torch.baddbmm(bias, x, site.W_enc.mT)
        features = torch.relu(gain * pre + lift) * (pre > threshold)
        if self.capacity.readings:
            site.tables.weigh(features, self.sums)
        if site.gates:
            self._open(site.number)
        if not site.edits:
            return None
        opened = self.opened & site.editors
        site.opened.index_copy_(1, self.column, opened.unsqueeze(1))
        return site.tables.write(y, x, features, site.tables.open(opened & self.writes))

    def _memory(self) -> GateMemory:
        return GateMemory(self.latched, self.tail[..., 1:], self.tail_counts[..., 1:], self.last_open)

    def _open(self, site: int) -> None:
        """Read the gates that are complete at a site, and open their rules."""
        number, before = self.number.squeeze(1), self._memory()
        opened, memory = open_gates(self.gates, before, self.sums, self.counts, self.reads, number, None)
        here = self.known == site
        if self.capacity.remembers:
            self._keep(memory, here, self.read_at == site)
            here = here & ~self.late  # those were opened before the step, by what earlier tokens showed
        self.opened.copy_(torch.where(here, opened & self.allowed, self.opened))

    def _keep(self, memory: GateMemory, rules: Tensor, readings: Tensor) -> None:
        """Keep the memory of some rules and readings; those of other sites are not complete yet."""
        self.last_open.copy_(torch.where(rules, memory.last_open, self.last_open))
        self.latched.copy_(torch.where(readings, memory.latched, self.latched))
        if self.gates.windows is not None:
            for tail, new in ((self.tail, memory.values), (self.tail_counts, memory.counted)):
                tail.copy_(torch.where(readings.unsqueeze(-1), torch.cat([tail[..., 1:2], new], dim=-1), tail))


def fused_kernels(device: torch.device) -> ModuleType | None:
    """Kernels for a device; None where there are none, as on a CPU."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    kernels = import_module("steerkit.steer.static.triton_step")
    return kernels if kernels.works(device) else None


@contextmanager
def attach_static(model: nn.Module, steering: StaticSteering) -> Iterator[None]:
    """Steer every decode step of `model` inside the `with`: one token of each of the B sequences a pass."""
    sites = find_sites(model)

    def before(module: nn.Module, args: object, kwargs: object) -> None:
        steering.begin()

    def hook(site: StaticSite) -> Steer:
        return lambda y: steering.step(site, y)

    with ExitStack() as stack:
        stack.callback(sites.body.register_forward_pre_hook(before, with_kwargs=True).remove)
        for site, own in steering.sites.items():
            stack.callback(sites.hook(site, hook(own)).remove)
        yield
