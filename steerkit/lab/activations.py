"""Activations of a model at its `o_proj` sites, collected for SAE training and statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerkit.steer import find_sites

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
    body: Any = find_sites(model).body
    with ExitStack() as stack:
        for layer, rewrite in rewrites.items():
            attention = body.layers[layer].self_attn
            site = attention.o_proj
            stack.callback(setattr, attention, "o_proj", site)
            attention.o_proj = _Rewritten(site, rewrite)
        yield


class _EnoughError(Exception):
    """The last site that is wanted has run."""


@torch.inference_mode()
def read_into(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], layers: Sequence[int], into: Tensor, share: tuple[int, int]
) -> None:
    """Write the o_proj outputs of `layers` over all tokens of `texts` into `into` `(layers, tokens, width)`, in order.

    Texts of like length run together, padded on the right, where causal attention keeps the padding out of sight; the
    padding's own activations are dropped. The decoder runs alone, without the unembedding, and no further than the last
    site. `share` is (which, of how many): of the batches every so-manieth is read, and the rest of `into` is left as is.
    """
    starts = [0, *itertools.accumulate(map(len, texts))]
    rows = torch.empty(0, dtype=torch.long)
    mask = torch.empty(0, dtype=torch.bool)

    def keep(number: int) -> Rewrite:
        def rewrite(output: Tensor) -> Tensor:
            into[number, rows] = output[mask].to(into)
            if number == len(layers) - 1:
                raise _EnoughError
            return output

        return rewrite

    body = find_sites(model).body
    with rewritten(model, {layer: keep(number) for number, layer in enumerate(layers)}):
        for turn, part in enumerate(like_lengths([len(text) for text in texts])):
            if turn % share[1] == share[0]:
                ids, mask = _rectangle([texts[index] for index in part])
                mask = mask.to(model.device)
                rows = torch.cat([torch.arange(starts[index], starts[index + 1]) for index in part]).to(into.device)
                with suppress(_EnoughError):
                    body(input_ids=ids.to(model.device), use_cache=False)


def collect(model: PreTrainedModel, texts: Sequence[Sequence[int]], layers: Sequence[int] | None = None) -> Tensor:
    """The o_proj outputs of `layers` (default: all) over all tokens of `texts`, `(layers, tokens, width)` float32."""
    outputs = find_sites(model).outputs
    wanted = sorted(outputs) if layers is None else list(layers)
    into = torch.empty(len(wanted), sum(map(len, texts)), width_of(outputs[wanted[0]]))
    read_into(model, texts, wanted, into, (0, 1))
    return into


def width_of(site: nn.Module) -> int:
    """The width of a site's output."""
    return int(site.out_features)  # type: ignore[arg-type]  # o_proj is a linear layer


def like_lengths(lengths: Sequence[int], tokens: int = 2_048) -> Iterator[list[int]]:
    """Indices of texts that run together: of like length, at most `tokens` tokens with padding, or one long text."""
    part: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if part and (len(part) + 1) * lengths[index] > tokens:
            yield part
            part = []
        part.append(index)
    if part:
        yield part


def padded(texts: Sequence[Sequence[int]], tokens: int = 2_048) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of token ids `(rows, length)`, padded on the right with 0, and the bool mask of real tokens."""
    for part in like_lengths([len(text) for text in texts], tokens):
        yield _rectangle([texts[index] for index in part])


def _rectangle(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, texts))
    ids = torch.zeros((len(texts), length), dtype=torch.long)
    mask = torch.zeros((len(texts), length), dtype=torch.bool)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = True
    return ids, mask
