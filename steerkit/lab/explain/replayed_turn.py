"""A recorded turn, replayed on its model: its logits, gradients and edits while its own steering acts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from steerkit.agent import Runtime
from steerkit.audit import RecordedTurn, RunOpenedRecord, changes
from steerkit.chat import dialect_of, place_machine
from steerkit.engine import LoadedModel, cache_name
from steerkit.errors import AuditError, SaeError
from steerkit.guard import policies_in
from steerkit.lab.activations import Rewrite, rewritten, values_rewritten
from steerkit.policy import Policy
from steerkit.runtime import opening_of
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import Plan, attach, compile_plan, find_sites

_SHAPING = ("model.fingerprint", "model.tokenizer", "saes", "policies")
"""Parts of a record that must be unchanged: with others, another turn would be explained."""


class Gradients(NamedTuple):
    """Activations that the SAEs read in one pass, and the gradients of a score with respect to them."""

    score: float
    activations: dict[Site, Tensor]
    """By layer, `(T, d_in)` after the turn's own steering."""
    gradients: dict[Site, Tensor]
    """By layer, `(T, d_in)` of the score."""
    carried: Callable[[Feature, int], Tensor | None]
    """Parts `(T,)` of a feature at a token that attention carried there from each token's values in its layer, so
    that with the encoder's bias they add up to what the encoder reads; None where values have no projection of their
    own. Only while the pass is kept."""


@dataclass(frozen=True)
class ReplayedTurn:
    """One turn of one record."""

    runtime: Runtime
    saes: SaeSet
    plan: Plan
    """Plan of its own policies."""
    row: int
    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @classmethod
    def of(cls, runtime: Runtime, recorded: RecordedTurn) -> ReplayedTurn:
        """Set up a recorded turn.

        Raises:
            AuditError: the model, its tokenizer, the SAEs or a policy is not what the turn was made with.
            SaeError: there are no SAEs.
        """
        record, loaded = recorded.record, runtime.loaded
        if runtime.saes is None:
            raise SaeError(f"record {recorded.id}: {loaded.name} brings no SAEs; name a set of this model with --saes")
        policies = policies_in(record)
        _refuse_changes(recorded, opening_of(runtime.engine, policies))
        plan = compile_plan([policies], runtime.saes, loaded.site_devices)
        return cls(runtime, runtime.saes, plan, plan.row(policies), record.prompt_ids, record.reply_ids)

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self.runtime.loaded

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and reply."""
        return self.prompt + self.reply

    def reply_logits(self) -> Tensor:
        """`(len(reply), vocabulary)` float32 on the CPU: what each token of the reply was chosen from."""
        with torch.inference_mode(), self.loaded.alone(), self._own(1):
            feed = _Feed(self.loaded, self._cuts())
            return feed(self.ids[:-1], 1, keep=len(self.reply))[0].float().cpu()

    @contextmanager
    def differentiated(self, position: int, score: Callable[[Tensor], Tensor]) -> Iterator[Gradients]:
        """One pass up to the step `position`, whose logits `(1, vocabulary)` are scored, and one back."""
        read: dict[Site, list[Tensor]] = {site: [] for site in self.saes}
        layers = sorted({site.layer for site in self.saes})
        values: dict[int, list[Tensor]] = {layer: [] for layer in layers if _has_values(self.loaded, layer)}
        with torch.inference_mode(False), torch.enable_grad():
            with self.loaded.alone(), ExitStack() as stack:
                stack.enter_context(self._own(1))  # first: what is kept is what the turn's own steering leaves
                stack.enter_context(rewritten(self.loaded.model, {site: _keep(some) for site, some in read.items()}))
                keeps = {layer: _keep(parts) for layer, parts in values.items()}
                stack.enter_context(values_rewritten(self.loaded.model, keeps))
                logits = _Feed(self.loaded, self._cuts())(self.ids[: position + 1], 1)
                scored = score(logits[:, -1].float())
            wanted = [part for parts in read.values() for part in parts]
            found = iter(torch.autograd.grad(scored.sum(), wanted, retain_graph=True, materialize_grads=True))
            gradients = {site: torch.cat([next(found)[0] for _ in parts]) for site, parts in read.items()}
            activations = {site: torch.cat([part[0] for part in parts]) for site, parts in read.items()}
            plain = {site: y.detach() for site, y in activations.items()}

            def carried(feature: Feature, token: int) -> Tensor | None:
                return self._carried(feature, activations[feature.site][token], values.get(feature.layer))

            yield Gradients(float(scored.detach()), plain, gradients, carried)

    def _carried(self, feature: Feature, y: Tensor, values: Sequence[Tensor] | None) -> Tensor | None:
        if values is None:
            return None
        with torch.inference_mode(False), torch.enable_grad():
            sae = self.saes[feature.site].to(y.device)
            strength = sae.encode(y)[feature.index]
            slopes = torch.autograd.grad(strength, values, retain_graph=True, materialize_grads=True)
            parts = [
                (slope * value.detach())[0].float().sum(dim=-1) for slope, value in zip(slopes, values, strict=True)
            ]
            return torch.cat(parts).cpu()

    @torch.inference_mode()
    def ablated(self, sets: Sequence[Sequence[Feature]], position: int, *, everywhere: bool) -> Tensor:
        """`(len(sets), vocabulary)` float32 logits of the step `position` with each set of features set to 0.

        `everywhere` sets them to 0 at every token up to that step, else at that step alone.
        """
        found = []
        for part in _parts(sets):
            with self.loaded.alone(), self._own(len(part)):
                feed = _Feed(self.loaded, self._cuts())
                found.append(self._decide(feed, part, position, everywhere)[:, -1].float().cpu())
        return torch.cat(found) if found else torch.zeros(0, self.loaded.model.config.get_text_config().vocab_size)

    @torch.inference_mode()
    def replies(
        self, sets: Sequence[Sequence[Feature]], position: int, *, everywhere: bool, most: int = 64
    ) -> list[tuple[int, ...]]:
        """Greedy replies with each set of features set to 0, the stop token included.

        `everywhere` sets them to 0 at every token of prompt and reply, so that all of the reply is decoded again. Else
        they are 0 at the step `position` alone, and the reply's tokens before it stay as they are. `most` bounds the
        length of the reply.
        """
        found: list[tuple[int, ...]] = []
        begun = () if everywhere else self.ids[len(self.prompt) : position + 1]
        for part in _parts(sets):
            with self.loaded.alone(), self._own(len(part)), ExitStack() as stack:
                feed = _Feed(self.loaded, self._cuts())
                if everywhere:
                    stack.enter_context(self._without(part))
                    logits = feed(self.prompt, len(part))
                else:
                    logits = self._decide(feed, part, position, everywhere)
                found += self._written(feed, logits[:, -1], [list(begun) for _ in part], most)
        return found

    def _written(self, feed: _Feed, logits: Tensor, texts: list[list[int]], most: int) -> list[tuple[int, ...]]:
        """Go on greedily until all have stopped."""
        dialect = dialect_of(self.loaded.tokenizer)
        ended = [False] * len(texts)
        while True:
            tokens = logits.argmax(dim=-1).tolist()
            for row, token in enumerate(tokens):
                if not ended[row]:
                    texts[row].append(token)
                    ended[row] = token in dialect.stops or len(texts[row]) >= most
            if all(ended):
                return [tuple(text) for text in texts]
            logits = feed.step([dialect.pad if end else token for end, token in zip(ended, tokens, strict=True)])

    def _decide(self, feed: _Feed, part: Sequence[Sequence[Feature]], position: int, everywhere: bool) -> Tensor:
        """Logits of the step; the features are 0 up to it, or at it."""
        count = len(part)
        if everywhere:
            with self._without(part):
                return feed(self.ids[: position + 1], count)
        if position and self.plan.rules:
            feed(self.ids[:position], count)
        elif position:  # with no steering of its own, all copies are one up to here
            feed(self.ids[:position], 1)
            feed.repeat(count)
        with self._without(part):
            return feed(self.ids[position : position + 1], count)

    def _own(self, count: int) -> AbstractContextManager[Any]:
        """The turn's own steering, over so many copies of it."""
        places = place_machine(self.loaded.tokenizer)
        rows = [self.row] * (count if self.plan.rules else 1)  # where there is none, any number of copies is fine
        return attach(self.loaded.model, self.plan, rows=rows, prompt_length=len(self.prompt), places=places)

    def _without(self, sets: Sequence[Sequence[Feature]]) -> AbstractContextManager[Any]:
        """Each copy without its set of features: an edit as a policy makes it, after the turn's own."""
        policies = [[_ablation(features)] if features else [] for features in sets]
        plan = compile_plan(policies, self.saes, self.loaded.site_devices)
        return attach(self.loaded.model, plan, rows=[plan.row(one) for one in policies], prompt_length=len(self.prompt))

    def _cuts(self) -> Sequence[int]:
        """Positions at which the input is split: one by one from the prompt's last on, for gates that act later."""
        return range(len(self.prompt) - 1, len(self.ids)) if self.plan.has_late_rules else ()


class _Feed:
    """Feeds tokens to a model and keeps what it remembers of them."""

    def __init__(self, loaded: LoadedModel, cuts: Sequence[int]) -> None:
        self._model, self._device, self._cuts = loaded.model, loaded.device, cuts
        self._cache = DynamicCache(config=loaded.model.config)
        self._read = 0

    def __call__(self, tokens: Sequence[int], count: int, keep: int = 1) -> Tensor:
        """Logits `(count, keep, vocabulary)` of the last steps, of tokens that all copies read."""
        end = self._read + len(tokens)
        cuts = [cut - self._read for cut in self._cuts if self._read < cut < end]
        found = []
        for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
            wanted = max(0, min(stop - start, keep - (len(tokens) - stop)))
            part = self._run(torch.tensor([tokens[start:stop]]).expand(count, -1), max(1, wanted))
            if wanted:
                found.append(part)
        return torch.cat(found, dim=1) if found else torch.zeros(count, 0, 1)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits `(B, vocabulary)` after one more token of each copy."""
        return self._run(torch.tensor(tokens).unsqueeze(-1), 1)[:, -1]

    def repeat(self, count: int) -> None:
        """Make so many copies of the one that was read."""
        self._cache.batch_repeat_interleave(count)

    def _run(self, ids: Tensor, keep: int) -> Tensor:
        self._read += ids.shape[1]
        ids = ids.contiguous().to(self._device)
        memory = {cache_name(self._model): self._cache}
        output = self._model(input_ids=ids, use_cache=True, logits_to_keep=keep, **memory)
        logits: Tensor = output.logits
        return logits


def _keep(parts: list[Tensor]) -> Rewrite:
    """Remember what passes, as something to differentiate by."""

    def keep(y: Tensor) -> Tensor:
        parts.append(y if y.requires_grad else y.detach().requires_grad_(True))
        return parts[-1]

    return keep


def _has_values(loaded: LoadedModel, layer: int) -> bool:
    body: Any = find_sites(loaded.model).body
    return hasattr(body.layers[layer].self_attn, "v_proj")


def _ablation(features: Sequence[Feature]) -> Policy:
    """A policy that sets features to 0 at every token."""
    names = {feature.handle: feature for feature in features}
    return Policy.model_validate(
        {
            "steerkit": 1,
            "name": "ablation",
            "features": {name: {**one.site.content, "index": one.index} for name, one in names.items()},
            "steer": [{"name": "ablate", "where": "any", "edit": {name: {"ablate": True} for name in names}}],
        }
    )


_ROWS: Final = 16


def _parts(sets: Sequence[Sequence[Feature]]) -> Iterator[Sequence[Sequence[Feature]]]:
    """Some at a time."""
    for start in range(0, len(sets), _ROWS):
        yield sets[start : start + _ROWS]


def _refuse_changes(recorded: RecordedTurn, now: RunOpenedRecord) -> None:
    for path, then, found in changes(recorded.record, now):
        if path.startswith(_SHAPING):
            raise AuditError(
                f"record {recorded.id}: {path} was {str(then)[:19]} and is now {str(found)[:19]}; only the model, SAEs "
                f"and policies that it was made with can explain it (name them with --model and --saes)"
            )
