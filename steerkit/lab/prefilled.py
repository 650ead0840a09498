"""Conversations up to their decisions, prefilled once, so that each edit of the deciding step costs that step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor
from transformers import DynamicCache

from steerkit.chat import dialect_of
from steerkit.engine import Batch, LoadedModel, cache_name, can_be_cut, last_logits
from steerkit.lab.activations import Rewrite, like_lengths, rewritten
from steerkit.lab.attribution import Score, log_odds
from steerkit.lab.cases import Case
from steerkit.sites import Site
from steerkit.steer import find_sites
from steerkit.types import Place

MOST_KEPT: Final = 1 << 29
"""Bytes of KV caches that are kept of a set of conversations; those that do not fit are prefilled for each way anew."""


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


class Outcome(NamedTuple):
    """The decisions of n conversations."""

    scores: Tensor
    """`(n,)` float32 log-odds of each decision's token: above 0 it is the likeliest."""
    tokens: Tensor
    """`(n,)` the likeliest token."""


class Readings(NamedTuple):
    """Activations at the deciding steps of n conversations, and how the scores move with them."""

    activations: dict[Site, Tensor]
    """By site, `(n, width)` float32 on the CPU."""
    gradients: dict[Site, Tensor]
    """Of each conversation's score, shaped alike."""


@dataclass(frozen=True, eq=False)
class Part:
    """Conversations that run together, padded on the left so that all decisions stand in the last column."""

    numbers: tuple[int, ...]
    batch: Batch
    at: Tensor
    """`(B, W)` float, 1 at the steps of the place."""
    cache: DynamicCache | None
    """KV cache of all columns but the last, where only the last is edited and where it fits into `MOST_KEPT`."""


Way: TypeAlias = Callable[[Part], AbstractContextManager[Any]]
"""Opens what stands in the model's way while the deciding steps of a part run."""


class Prefilled:
    """Some conversations at their decisions, ready to be decided in one way after another.

    At a place in the reply the decision's own step is the only one that an edit can touch in time: what comes before it
    is read once and kept, as far as `MOST_KEPT` bytes reach, and each way costs one step. At a place in the prompt each
    needs a prefill of its own.
    """

    def __init__(self, loaded: LoadedModel, cases: Sequence[Case], place: Place) -> None:
        self.loaded, self.place, self.cases = loaded, place, tuple(cases)
        self.decided = Decided.of(loaded, cases)
        self.last_only = all(
            [step for step in case.steps if step <= position] == [position]
            for case, position in zip(cases, self.decided.positions, strict=True)
        )
        self._shared = can_be_cut(loaded.model)
        self._left = MOST_KEPT
        self.parts = [self._part(part) for part in like_lengths([len(text) for text in self.decided.texts])]

    def outcome(self, way: Way = lambda part: nullcontext()) -> Outcome:
        """The decisions as they fall with `way` open around each part."""
        scores = torch.zeros(len(self.cases))
        tokens = torch.zeros(len(self.cases), dtype=torch.long)
        for part in self.parts:
            numbers, cache = list(part.numbers), self._cache(part)
            with torch.inference_mode(), way(part):
                logits = self._logits(part, cache)
                scores[numbers] = self.decided.score(logits, numbers).cpu()
                tokens[numbers] = logits.argmax(dim=-1).cpu()
        return Outcome(scores, tokens)

    def readings(self, sites: Sequence[Site]) -> Readings:
        """Activations and gradients of the scores at the decisions: one step forward and back, where the cache holds
        the rest."""
        sites = sorted(sites)  # as the model runs them
        found = Readings(*({site: torch.empty(0) for site in sites} for _ in range(2)))
        for part, activations, gradients in self._read(sites):
            numbers = list(part.numbers)
            for into, values in zip(found, (activations, gradients), strict=True):
                for site, value in zip(sites, values, strict=True):
                    if not len(into[site]):
                        into[site] = torch.zeros(len(self.cases), value.shape[-1])
                    into[site][numbers] = value[:, -1].detach().float().cpu()
        return found

    def _read(self, sites: Sequence[Site]) -> Iterator[tuple[Part, list[Tensor], Sequence[Tensor]]]:
        kept: list[Tensor] = []

        def keep(y: Tensor) -> Tensor:
            kept.append(y if y.requires_grad else y.detach().requires_grad_(True))
            return kept[-1]

        keepers: dict[Site, Rewrite] = dict.fromkeys(sites, keep)
        for part in self.parts:
            kept.clear()
            cache = self._cache(part)
            with torch.enable_grad(), rewritten(self.loaded.model, keepers):
                scores = self.decided.score(self._logits(part, cache), part.numbers)
                gradients = torch.autograd.grad(scores.sum(), kept)
            yield part, kept, gradients

    def _part(self, numbers: Sequence[int]) -> Part:
        texts = [self.decided.texts[number] for number in numbers]
        batch = Batch.of(texts, dialect_of(self.loaded.tokenizer).pad, self.loaded.device)
        at = torch.zeros(batch.ids.shape)
        for row, (text, number) in enumerate(zip(texts, numbers, strict=True)):
            start = at.shape[1] - len(text)
            at[row, [start + step for step in self.cases[number].steps if step < len(text)]] = 1
        cache = self._prefix(batch) if self._left > 0 else None
        self._left -= 0 if cache is None else _bytes(cache)
        return Part(tuple(numbers), batch, at, cache if self._left >= 0 else None)

    def _prefix(self, batch: Batch) -> DynamicCache | None:
        """All columns but the last, read; None where more than the last is edited, or there is no other."""
        if not self.last_only or batch.ids.shape[1] == 1:
            return None
        cache = DynamicCache(config=self.loaded.model.config)
        with torch.no_grad():  # tensors of the inference mode could not be read again for a gradient
            self._run(find_sites(self.loaded.model).body, batch, slice(0, -1), cache)
        return cache

    def _cache(self, part: Part) -> DynamicCache | None:
        """A cache for the deciding step to go on from, which leaves the one that is kept as it is.

        transformers' growing layers put what is new behind the old in new tensors, so their old ones may be shared.
        """
        if part.cache is None:
            return self._prefix(part.batch)
        if not self._shared:
            return deepcopy(part.cache)
        again = copy(part.cache)
        again.layers = [copy(layer) for layer in part.cache.layers]
        return again

    def _logits(self, part: Part, cache: DynamicCache | None) -> Tensor:
        """`(B, vocabulary)` float32 after the deciding steps."""
        columns = slice(None) if cache is None else slice(-1, None)
        last = {"logits_to_keep": last_logits(part.batch.ids[:, columns])}
        logits: Tensor = self._run(self.loaded.model, part.batch, columns, cache, **last).logits[:, -1].float()
        return logits

    def _run(self, model: Any, batch: Batch, columns: slice, cache: DynamicCache | None, **more: Any) -> Any:
        """A pass of the model, or of its decoder alone, over some columns; a cache takes what they leave."""
        return model(
            input_ids=batch.ids[:, columns],
            attention_mask=batch.mask[:, : columns.stop],
            position_ids=(batch.mask.cumsum(dim=-1) - 1).clamp(min=0)[:, columns],
            use_cache=cache is not None,
            **({} if cache is None else {cache_name(model): cache}),
            **more,
        )


def _bytes(cache: DynamicCache) -> int:
    """Size of all that a cache holds."""
    pairs = [pair for layer in cache.layers for pair in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    return sum(one.numel() * one.element_size() for one in pairs if one is not None)
