"""Measured effects of features on a decision: they are edited as a policy would, and the score is taken again.

The control is a random direction at the same sites and tokens, as long as what the edit writes there: a model moves a
little whatever is done to it, and only what goes beyond that is the features' doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.chat import place_machine
from steerkit.engine import LoadedModel
from steerkit.lab.activations import Rewrite, rewritten
from steerkit.lab.attribution import attribute, effects_at
from steerkit.lab.cases import Case
from steerkit.lab.prefilled import Decided, Outcome, Part, Prefilled, Readings
from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import attach, compile_plan, read_features
from steerkit.types import Place

DIRECTIONS: Final = 3
"""Random directions that each edit is compared with."""

Edits: TypeAlias = Mapping[Feature, Mapping[str, float]]
"""By feature, its edit as a policy says it: `{"clamp": 0.5}` or `{"shift": -0.2}`, in raw values."""


class Effect(NamedTuple):
    """Loss of each of n conversations' scores when a feature is edited, `(n,)` float32 in log-odds."""

    ablated: Tensor
    """Set to 0."""
    clamped: Tensor
    """Set to the value that replaces it."""
    random: Tensor
    """Under random directions as long as what the clamp writes: the mean size of the change."""


class Interventions:
    """Some conversations at their decisions, ready to be scored under one edit after another (see `Prefilled`)."""

    def __init__(self, loaded: LoadedModel, saes: SaeSet, cases: Sequence[Case], place: Place) -> None:
        self.loaded, self.saes, self.place = loaded, saes, place
        self.prefilled = Prefilled(loaded, cases, place)
        self.unedited = self.prefilled.outcome()
        self.plain = self.unedited.scores
        self._readings: Readings | None = None

    @property
    def decided(self) -> Decided:
        """The conversations up to their decisions."""
        return self.prefilled.decided

    @property
    def last_only(self) -> bool:
        """True if the deciding step is the only one that an edit can touch in time."""
        return self.prefilled.last_only

    def effect(self, feature: Feature, value: float, generator: torch.Generator) -> Effect:
        """Loss when a feature is ablated, is set to `value`, and under random directions of the same length."""
        ablated, clamped = (self.outcome({feature: edit}).scores for edit in ({"clamp": 0.0}, {"clamp": value}))
        moved = (self.plain - self.random_scores({feature: {"clamp": value}}, generator)).abs().mean(dim=0)
        return Effect(self.plain - ablated, self.plain - clamped, moved)

    def outcome(self, edits: Edits) -> Outcome:
        """The decisions while features are edited at the place, as a policy does it."""
        plan = compile_plan([[self._policy(edits)]], self.saes, self.loaded.site_devices)
        machine = place_machine(self.loaded.tokenizer)

        def way(part: Part) -> AbstractContextManager[Any]:
            rows = [len(plan.rows)] * len(part.numbers)
            return attach(self.loaded.model, plan, rows=rows, places=machine)

        return self.prefilled.outcome(way)

    def turned(self, after: Outcome) -> Tensor:
        """`(c,)` bool: of the c conversations that open a call, those that no longer do."""
        return after.scores[self.plain > 0] <= 0

    def along(self, vectors: Mapping[Site, Tensor]) -> Outcome:
        """The decisions while constant vectors are added at the place: `(width,)` by site, or `(n, width)`."""

        def way(part: Part) -> AbstractContextManager[Any]:
            def adding(vector: Tensor) -> Rewrite:
                added = (vector[list(part.numbers)] if vector.ndim == 2 else vector.unsqueeze(0)).unsqueeze(1)
                return self._writing(part, lambda y: added.to(y.device))

            return rewritten(self.loaded.model, {site: adding(vector) for site, vector in vectors.items()})

        return self.prefilled.outcome(way)

    def random_scores(self, edits: Edits, generator: torch.Generator) -> Tensor:
        """`(DIRECTIONS, n)` the scores under random directions as long as what the edits write at each site."""
        drawn = self.drawn(sorted({feature.site for feature in edits}), generator)
        return torch.stack([self.control(edits, one).scores for one in drawn])

    def drawn(self, sites: Sequence[Site], generator: torch.Generator) -> Iterator[dict[Site, Tensor]]:
        """`DIRECTIONS` random directions `(width,)` of any length, at each of some sites."""
        for _ in range(DIRECTIONS):
            yield {site: torch.randn(self.saes[site].d_in, generator=generator) for site in sites}

    def control(self, edits: Edits, directions: Mapping[Site, Tensor] | None = None) -> Outcome:
        """The decisions under directions of any length `(width,)`, made as long as what the edits write at each token
        of a site; without directions under the opposite sign of what they write."""
        sites = {feature.site for feature in edits}
        writes = {site: self._written({f: edit for f, edit in edits.items() if f.site == site}) for site in sites}

        def way(part: Part) -> AbstractContextManager[Any]:
            def turned(site: Site) -> Rewrite:
                unit = None if directions is None else torch.nn.functional.normalize(directions[site], dim=0)

                def delta(y: Tensor) -> Tensor:
                    written = writes[site](y)
                    return -written if unit is None else written.norm(dim=-1, keepdim=True) * unit.to(y.device)

                return self._writing(part, delta)

            return rewritten(self.loaded.model, {site: turned(site) for site in sites})

        return self.prefilled.outcome(way)

    def readings(self) -> Readings:
        """Activations and gradients of all sites of the SAEs at the deciding steps; read once."""
        if self._readings is None:
            self._readings = self.prefilled.readings(list(self.saes))
        return self._readings

    def estimate(self, baseline: Mapping[Site, Tensor] | None = None) -> dict[Site, Tensor]:
        """By site, `(n, d_sae)` the effect of replacing each feature at the place by its baseline `(d_sae,)`, or by 0.

        By gradients, see `attribute`. Where the deciding step is the only one, one step forward and back is enough.
        """
        if not self.last_only:
            texts, cases = self.decided.texts, self.prefilled.cases
            tokens = [case.steps for case in cases]
            found = attribute(
                self.loaded.model,
                self.saes,
                texts,
                self.decided.positions,
                self.decided.score,
                tokens=tokens,
                baseline=baseline,
                top_k=1,
            )
            return {site: effect.sums for site, effect in found.layers.items()}
        readings, effects = self.readings(), {}
        for site, sae in self.saes.items():
            usual = None if baseline is None else baseline[site]
            effects[site] = effects_at(sae, readings.activations[site], readings.gradients[site], usual)[1]
        return effects

    def _written(self, edits: Edits) -> Callable[[Tensor], Tensor]:
        """What edits of one site write, `(B, T, width)` float32 of its activations."""
        (site,) = {feature.site for feature in edits}
        device = self.loaded.site_devices[site]
        columns = self.saes[site].columns(torch.tensor([feature.index for feature in edits])).to(device)
        clamped = torch.tensor(["clamp" in edit for edit in edits.values()], device=device)
        values = torch.tensor([value for edit in edits.values() for value in edit.values()], device=device)

        def written(y: Tensor) -> Tensor:
            features = read_features(y.flatten(0, 1), columns).view(*y.shape[:2], len(values))
            change = torch.where(clamped, values - features, values)
            return change @ columns.W_dec.float()

        return written

    def _writing(self, part: Part, delta: Callable[[Tensor], Tensor]) -> Rewrite:
        def write(y: Tensor) -> Tensor:
            at = part.at[:, -y.shape[1] :, None].to(y.device)
            moved: Tensor = y.float() + at * delta(y)
            return moved.to(y.dtype)

        return write

    def _policy(self, edits: Edits) -> Policy:
        """A policy with edits at the place; where only the last step is read, that is every step there is."""
        where = "any" if self.last_only else self.place
        return Policy.model_validate(
            {
                "steerkit": 1,
                "name": "edit",
                "features": {one.handle: {**one.site.content, "index": one.index} for one in edits},
                "steer": [
                    {"name": "edit", "where": where, "edit": {one.handle: dict(edit) for one, edit in edits.items()}}
                ],
            }
        )
