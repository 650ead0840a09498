"""Activations of a model at its sites, read for SAEs, and rewritten to see what follows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerkit.sites import Site
from steerkit.steer import find_sites

Rewrite = Callable[[Tensor], Tensor]
"""Takes the activations at a site, `(rows, length, width)`, and returns what the model reads in their place."""


@contextmanager
def rewritten(model: PreTrainedModel, rewrites: Mapping[Any, Rewrite]) -> Iterator[None]:
    """Within the block, the activations of each site (or of a layer's `attn_out`) pass through its rewrite."""
    sites = find_sites(model)
    with ExitStack() as stack:
        for site, rewrite in rewrites.items():
            stack.callback(sites.hook(Site.of(site), rewrite).remove)
        yield


class _Rewritten(nn.Module):
    """A projection whose output is rewritten. It stands in the module's place: hooks are steer's alone."""

    def __init__(self, inner: nn.Module, rewrite: Rewrite) -> None:
        super().__init__()
        self.inner, self.rewrite = inner, rewrite

    def forward(self, x: Tensor) -> Tensor:
        return self.rewrite(self.inner(x))


@contextmanager
def values_rewritten(model: PreTrainedModel, rewrites: Mapping[int, Rewrite]) -> Iterator[None]:
    """Within the block, the values of each layer's attention pass through its rewrite. The model is restored after."""
    body: Any = find_sites(model).body
    with ExitStack() as stack:
        for layer, rewrite in rewrites.items():
            attention = body.layers[layer].self_attn
            stack.callback(setattr, attention, "v_proj", attention.v_proj)
            attention.v_proj = _Rewritten(attention.v_proj, rewrite)
        yield


class _EnoughError(Exception):
    """The last site that is wanted has run."""


@torch.inference_mode()
def read_into(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    into: Tensor,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Write the activations of `sites` over all tokens of `texts` into `into` `(sites, tokens, width)`, in order.

    Texts of like length run together, padded on the right, where causal attention keeps the padding out of sight; the
    padding's own activations are dropped. The decoder runs alone, without the unembedding, and no further than the last
    site. `share` is (which, of how many): every so-manieth batch is read, and the rest of `into` is left as it is.
    """
    starts = [0, *itertools.accumulate(map(len, texts))]
    rows = torch.empty(0, dtype=torch.long)
    mask = torch.empty(0, dtype=torch.bool)

    def keep(number: int) -> Rewrite:
        def rewrite(output: Tensor) -> Tensor:
            into[number, rows] = output[mask].to(into)
            if number == len(sites) - 1:
                raise _EnoughError
            return output

        return rewrite

    body = find_sites(model).body
    with rewritten(model, {site: keep(number) for number, site in enumerate(sites)}):
        for turn, part in enumerate(like_lengths([len(text) for text in texts])):
            if turn % share[1] == share[0]:
                ids, mask = _rectangle([texts[index] for index in part])
                mask = mask.to(model.device)
                rows = torch.cat([torch.arange(starts[index], starts[index + 1]) for index in part]).to(into.device)
                with suppress(_EnoughError):
                    body(input_ids=ids.to(model.device), use_cache=False)


def collect(model: PreTrainedModel, texts: Sequence[Sequence[int]], layers: Sequence[int] | None = None) -> Tensor:
    """The `attn_out` of `layers` (default: all) over all tokens of `texts`, `(layers, tokens, width)` float32."""
    sites = find_sites(model)
    wanted = [Site(layer) for layer in layers] if layers is not None else sites.of("attn_out")
    into = torch.empty(len(wanted), sum(map(len, texts)), sites.width(wanted[0]) or 0)
    read_into(model, texts, wanted, into)
    return into


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
