"""Activations of a model at its `o_proj` sites, collected for SAE training and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Rewrite = Callable[[Tensor], Tensor]
"""Takes a site's output `(rows, length, width)` and returns what the model reads in its place."""


class _Rewritten(nn.Module):
    """A site with its output rewritten. It stands in the site's place: hooks are steer's alone."""

    def __init__(self, site: nn.Module, rewrite: Rewrite) -> None:
        super().__init__()
        self.site, self.rewrite = site, rewrite

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.rewrite(self.site(x))
        return output


@contextmanager
def rewritten(model: PreTrainedModel, rewrites: dict[int, Rewrite]) -> Iterator[None]:
    """Within the block, each named layer's o_proj output passes through its rewrite; the model is restored after."""
    with ExitStack() as stack:
        for layer, rewrite in rewrites.items():
            attention = model.get_decoder().layers[layer].self_attn
            site = attention.o_proj
            stack.callback(setattr, attention, "o_proj", site)
            attention.o_proj = _Rewritten(site, rewrite)
        yield


@torch.inference_mode()
def collect(model: PreTrainedModel, texts: Sequence[Sequence[int]], rows: int = 16) -> list[Tensor]:
    """The o_proj outputs of every layer over all tokens of `texts`, each `(tokens, width)` float32.

    Texts of like length run together, padded on the right, where causal attention keeps the padding out of sight;
    the padding's own activations are dropped.
    """
    kept: list[list[Tensor]] = [[] for _ in model.get_decoder().layers]
    state: dict[str, Tensor] = {}

    def keep(layer: int) -> Rewrite:
        def rewrite(output: Tensor) -> Tensor:
            kept[layer].append(output[state["mask"]].float().cpu())
            return output

        return rewrite

    with rewritten(model, {layer: keep(layer) for layer in range(len(kept))}):
        for ids, mask in padded(texts, rows):
            state["mask"] = mask
            model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=1)
    return [torch.cat(parts) for parts in kept]


def padded(texts: Sequence[Sequence[int]], rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of token ids `(rows, length)`, padded on the right with 0, and the bool mask of real tokens."""
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), rows):
        part = ordered[start : start + rows]
        length = len(part[-1])
        ids = torch.zeros((len(part), length), dtype=torch.long)
        mask = torch.zeros((len(part), length), dtype=torch.bool)
        for row, tokens in enumerate(part):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        yield ids, mask
