"""Measured effects of features on a decision: each is edited as a policy would, and the score is taken again.

The control is a random direction in the same layer at the same tokens, as long as what the edit writes: a model moves a
little whatever is done to it, and only what goes beyond that is the feature's doing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from steerkit.chat import dialect_of, place_machine
from steerkit.engine import Batch, LoadedModel, cache_name
from steerkit.lab.activations import like_lengths, rewritten
from steerkit.lab.attribution import Score, log_odds
from steerkit.lab.cases import Case
from steerkit.policy import Policy
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.steer import attach, compile_plan, read_features
from steerkit.types import Place

DIRECTIONS: Final = 3
"""Random directions that each edit is compared with."""


class Decision(NamedTuple):
    """The step of a conversation whose next token is what features are held to account for."""

    position: int
    target: int
    """The token that is scored against its best alternative."""


def decision_of(case: Case, call: int) -> Decision:
    """The first step of the place that makes a token of the reply; of a place in the prompt the step after it.

    At the prompt's last token the decision is whether to open a call (`call`, the opening token); later it is what the
    conversation has next: at `call.open` the first token of the tool's name.
    """
    start = len(case.prompt) - 1
    position = next((step for step in case.steps if step >= start), start)
    return Decision(position, call if position == start else (case.prompt + case.reply)[position + 1])


class Decided(NamedTuple):
    """Some conversations up to their decisions, and how these are scored."""

    positions: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]
    """The tokens up to the decision."""
    score: Score

    @classmethod
    def of(cls, loaded: LoadedModel, cases: Sequence[Case]) -> Decided:
        """By `decision_of`; the score is the log-odds of the decision's token against its best alternative."""
        found = [decision_of(case, dialect_of(loaded.tokenizer).call) for case in cases]
        texts = tuple(case.read[: one.position + 1] for case, one in zip(cases, found, strict=True))
        return cls(tuple(one.position for one in found), texts, log_odds([one.target for one in found]))


class Effect(NamedTuple):
    """Loss of each of n conversations' scores when a feature is edited, `(n,)` float32 in log-odds."""

    ablated: Tensor
    """Set to 0."""
    clamped: Tensor
    """Set to the value that replaces it."""
    random: Tensor
    """Under random directions as long as what the clamp writes: the mean size of the change."""


@dataclass(frozen=True)
class _Forced:
    """Conversations up to their decisions, padded on the left so that all decisions stand in the last column."""

    numbers: tuple[int, ...]
    batch: Batch
    at: Tensor
    """`(B, W)` float, 1 at the steps of the place."""
    cache: DynamicCache | None
    """KV cache of all columns but the last, where only the last is edited."""


class Interventions:
    """Some conversations at their decisions, ready to be scored under one edit after another.

    At a place in the reply the decision's own step is the only one that an edit can touch in time: what comes before it
    is read once and kept, and each edit costs one step. At a place in the prompt each edit needs a prefill of its own.
    """

    def __init__(self, loaded: LoadedModel, saes: SaeSet, cases: Sequence[Case], place: Place) -> None:
        self.loaded, self.saes, self.place = loaded, saes, place
        self.decided = Decided.of(loaded, cases)
        self.last_only = all(
            [step for step in case.steps if step <= position] == [position]
            for case, position in zip(cases, self.decided.positions, strict=True)
        )
        pad = dialect_of(loaded.tokenizer).pad
        self._forced = [
            self._force([cases[number] for number in part], part, pad)
            for part in like_lengths([len(text) for text in self.decided.texts])
        ]
        self.plain = self._scores()

    def effect(self, feature: Feature, value: float, generator: torch.Generator) -> Effect:
        """Loss when a feature is ablated, is set to `value`, and under random directions of the same length."""
        ablated = self.plain - self._scores(self._edited({feature: {"ablate": True}}))
        moved = (self.plain - self.random_scores({feature: value}, generator)).abs().mean(dim=0)
        return Effect(ablated, self.plain - self.scores({feature: value}), moved)

    def scores(self, clamps: Mapping[Feature, float]) -> Tensor:
        """`(n,)` the scores while features are clamped at the place."""
        return self._scores(self._edited({feature: {"clamp": value} for feature, value in clamps.items()}))

    def random_scores(self, clamps: Mapping[Feature, float], generator: torch.Generator) -> Tensor:
        """`(DIRECTIONS, n)` the same under random directions that are as long as what the clamps of a layer write."""
        return torch.stack([self._random(clamps, generator) for _ in range(DIRECTIONS)])

    def _force(self, cases: Sequence[Case], numbers: Sequence[int], pad: int) -> _Forced:
        texts = [self.decided.texts[number] for number in numbers]
        batch = Batch.of(texts, pad, self.loaded.device)
        at = torch.zeros(batch.ids.shape)
        for row, (text, case) in enumerate(zip(texts, cases, strict=True)):
            start = at.shape[1] - len(text)
            at[row, [start + step for step in case.steps if step < len(text)]] = 1
        cache = None
        if self.last_only and at.shape[1] > 1:
            cache = DynamicCache(config=self.loaded.model.config)
            with torch.inference_mode():
                self._run(batch, slice(0, -1), cache)
        return _Forced(tuple(numbers), batch, at, cache)

    def _edited(self, edits: Mapping[Feature, Mapping[str, Any]]) -> Policy:
        """A policy with edits at the place; where only the last step is read, that is every step there is."""
        where = "any" if self.last_only else self.place
        names = {feature: feature.handle for feature in edits}
        return Policy.model_validate(
            {
                "steerkit": 1,
                "name": "edit",
                "features": {name: {**one.site.content, "index": one.index} for one, name in names.items()},
                "steer": [{"name": "edit", "where": where, "edit": {names[one]: edit for one, edit in edits.items()}}],
            }
        )

    def _scores(self, policy: Policy | None = None) -> Tensor:
        plan = compile_plan([] if policy is None else [[policy]], self.saes, self.loaded.site_devices)
        machine = place_machine(self.loaded.tokenizer)
        found = torch.zeros(len(self.decided.texts))
        for forced in self._forced:
            steering = attach(self.loaded.model, plan, rows=[len(plan.rows)] * len(forced.numbers), places=machine)
            found[list(forced.numbers)] = self._score(forced, steering)
        return found

    def _random(self, clamps: Mapping[Feature, float], generator: torch.Generator) -> Tensor:
        (site,) = {feature.site for feature in clamps}
        sae, device = self.saes[site], self.loaded.site_devices[site]
        columns = sae.columns(torch.tensor([feature.index for feature in clamps])).to(device)
        values = torch.tensor(list(clamps.values()), device=device)
        direction = torch.nn.functional.normalize(torch.randn(sae.d_in, generator=generator), dim=0).to(device)
        found = torch.zeros(len(self.decided.texts))
        for forced in self._forced:

            def write(y: Tensor, at: Tensor = forced.at) -> Tensor:
                change = values - read_features(y.flatten(0, 1), columns).view(*y.shape[:2], len(values))
                length = (change @ columns.W_dec).norm(dim=-1, keepdim=True)
                moved: Tensor = y.float() + length * at[:, -y.shape[1] :, None].to(y.device) * direction
                return moved.to(y.dtype)

            random = rewritten(self.loaded.model, {site: write})
            found[list(forced.numbers)] = self._score(forced, random)
        return found

    def _score(self, forced: _Forced, way: AbstractContextManager[Any]) -> Tensor:
        columns = slice(None) if forced.cache is None else slice(-1, None)
        with torch.inference_mode(), way:
            logits = self._run(forced.batch, columns, deepcopy(forced.cache))
            return self.decided.score(logits, forced.numbers).cpu()

    def _run(self, batch: Batch, columns: slice, cache: DynamicCache | None) -> Tensor:
        """Logits `(B, vocabulary)` float32 after the last of some columns; a cache takes what they leave."""
        model = self.loaded.model
        upto = batch.mask[:, : columns.stop]
        output = model(
            input_ids=batch.ids[:, columns],
            attention_mask=upto,
            position_ids=(batch.mask.cumsum(dim=-1) - 1).clamp(min=0)[:, columns],
            use_cache=cache is not None,
            logits_to_keep=1,
            **({} if cache is None else {cache_name(model): cache}),
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits
