"""Attribution: each feature's effect on a score, estimated for all layers by one forward and one backward pass.

Attribution patching: with f the value of a feature at a token, b what it would be replaced by, and y the activation
that the SAE reads,

    effect = (f - b) * (d score / d y) @ W_dec[feature]

is, to first order, how much of the score would go if f became b. Nanda 2023, "Attribution patching: activation patching
at industrial scale"; Syed, Rager and Conmy 2023, arXiv:2310.10348; for SAE features Marks et al. 2024,
arXiv:2403.19647. It is an estimate: curvature and saturation escape it, so what it ranks high is then really edited
(`steerkit.lab.interventions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.lab.activations import Rewrite, like_lengths, padded, rewritten
from steerkit.sae import Sae
from steerkit.sites import Site

_TOKENS_AT_ONCE: Final = 512

Score = Callable[[Tensor, Sequence[int]], Tensor]
"""Scores `(n,)` of logits `(n, vocabulary)` after the steps of the sequences with these numbers."""


class LayerEffect(NamedTuple):
    """Effects of one layer's features on the score of each of n sequences, in the score's unit."""

    sums: Tensor
    """`(n, d_sae)` float32 over all tokens that count."""
    tokens: Tensor
    """`(n, k)` positions of the single effects that are largest by size, the largest first; -1 fills up."""
    features: Tensor
    """`(n, k)` their features."""
    values: Tensor
    """`(n, k)` float32 their effects."""


class Attribution(NamedTuple):
    """Attribution of n sequences."""

    scores: Tensor
    """`(n,)` float32 as they are."""
    layers: dict[Site, LayerEffect]


def log_odds(targets: Sequence[int], against: Sequence[int] | None = None) -> Score:
    """The score `log p(target) - log p(other)` of each sequence's target token; the other is the best alternative.

    `against` names the other tokens instead, such as a runner-up that must stay the same.
    """

    def score(logits: Tensor, numbers: Sequence[int]) -> Tensor:
        target = torch.tensor([targets[number] for number in numbers], device=logits.device).unsqueeze(-1)
        wanted = logits.gather(1, target).squeeze(-1)
        if against is None:
            return wanted - logits.scatter(1, target, -torch.inf).amax(dim=-1)
        other = torch.tensor([against[number] for number in numbers], device=logits.device).unsqueeze(-1)
        return wanted - logits.gather(1, other).squeeze(-1)

    return score


def attribute(
    model: PreTrainedModel,
    saes: Mapping[Site, Sae],
    ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    score: Score,
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    baseline: Mapping[Site, Tensor] | None = None,
    top_k: int = 32,
) -> Attribution:
    """The effect of every feature of all SAEs on the scores of some sequences.

    Sequences of like length run together, at most 2,048 tokens a pass. Held are the activations of a pass, the features
    of 512 tokens of one layer, and what is returned.

    Args:
        model: the model.
        saes: by site.
        ids: the tokens of each sequence.
        positions: the step of each whose logits are scored.
        score: what is explained.
        tokens: positions whose features count (default: all up to the scored one).
        baseline: by site, `(d_sae,)` what a feature would be replaced by (default: 0, ablation).
        top_k: how many single effects to keep for each sequence and layer.
    """
    texts = [sequence[: position + 1] for sequence, position in zip(ids, positions, strict=True)]
    counted = [range(len(text)) for text in texts] if tokens is None else tokens
    scores = torch.zeros(len(texts))
    placed: dict[Site, Sae] = {}
    found = {
        site: LayerEffect(
            torch.zeros(len(texts), sae.d_sae),
            torch.full((len(texts), top_k), -1),
            torch.zeros(len(texts), top_k, dtype=torch.long),
            torch.zeros(len(texts), top_k),
        )
        for site, sae in saes.items()
    }
    for part in like_lengths([len(text) for text in texts]):
        some = [texts[number] for number in part]
        scores[part], activations, gradients = _pass(model, saes, some, lambda logits, part=part: score(logits, part))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for site, y, gradient in zip(saes, activations, gradients, strict=True):
            if site not in placed:
                placed[site] = saes[site].to(y.device)
            zero = None if baseline is None else baseline[site].to(y.device)
            for row, number in enumerate(part):
                where = torch.tensor([p for p in counted[number] if p <= positions[number]], dtype=torch.long)
                _effects(placed[site], y[row], gradient[row], where, zero, found[site], number)
    return Attribution(scores, found)


def _pass(
    model: PreTrainedModel,
    saes: Mapping[Site, Sae],
    texts: Sequence[Sequence[int]],
    score: Callable[[Tensor], Tensor],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Scores `(B,)` after the last token of each text; activations and gradients `(B, T, d_in)` of every layer."""
    kept: list[Tensor] = []

    def keep(y: Tensor) -> Tensor:
        kept.append(y if y.requires_grad else y.detach().requires_grad_(True))
        return kept[-1]

    rewrites: dict[Site, Rewrite] = dict.fromkeys(saes, keep)
    ((ids, mask),) = padded(texts, max(map(len, texts)) * len(texts))
    last = mask.sum(dim=1) - 1
    steps, places = last.unique(return_inverse=True)
    with torch.inference_mode(False), torch.enable_grad(), rewritten(model, rewrites):
        output = model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=steps.to(model.device))
        logits = output.logits[torch.arange(len(texts)), places].float()
        scores = score(logits)
        gradients = torch.autograd.grad(scores.sum(), kept)
    return scores.detach().cpu(), tuple(y.detach() for y in kept), gradients


def effects_at(sae: Sae, y: Tensor, gradient: Tensor, baseline: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Every feature at some tokens, and what it does there for the score, `(tokens, d_sae)` float32 each.

    Args:
        sae: of the layer.
        y: `(tokens, d_in)` what it reads there.
        gradient: of the score by `y`, `(tokens, d_in)`.
        baseline: `(d_sae,)` what a feature would be replaced by (default: 0, ablation).
    """
    features = sae.encode(y)
    change = features if baseline is None else features - baseline
    return features, change * (gradient.float() @ sae.W_dec.float().T)


def _effects(
    sae: Sae, y: Tensor, gradient: Tensor, where: Tensor, baseline: Tensor | None, into: LayerEffect, number: int
) -> None:
    """Add the effects at the tokens `where` of one sequence, `y` and `gradient` `(T, d_in)`, to its row."""
    top_k = into.values.shape[1]
    for part in where.split(_TOKENS_AT_ONCE):
        here = part.to(y.device)
        _, effect = effects_at(sae, y[here], gradient[here], baseline)
        into.sums[number] += effect.sum(dim=0).cpu()
        flat = effect.flatten()
        best = flat.abs().topk(min(top_k, len(flat))).indices
        tokens, features = part[(best // sae.d_sae).cpu()], (best % sae.d_sae).cpu()
        values = torch.cat([into.values[number], flat[best].cpu()])
        order = values.abs().topk(top_k).indices
        into.tokens[number] = torch.cat([into.tokens[number], tokens])[order]
        into.features[number] = torch.cat([into.features[number], features])[order]
        into.values[number] = values[order]
