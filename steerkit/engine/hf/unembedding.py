"""A model's last product, which is its widest: piece by piece, into memory that is kept from token to token.

In float32, torch multiplies rows by a weight of hundreds of megabytes a quarter to a third slower than by the weight in
pieces that fit in a processor's caches, to the same bits. And 32 rows of 262,144 logits are more than malloc keeps: at
every token they would be mapped, faulted in page by page and given back (`benchmarks/parts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerkit.engine.hf.prepack import StandIn, unusual
from steerkit.sae.cpu import onednn

_PIECE: Final = 2 << 20
"""Bytes of a float32 weight that each thread multiplies at once; products of other dtypes gain nothing by it."""


class Unembedding:
    """Blocked product by a wide linear unembedding on a CPU, for one generation; any other layer stays as it is."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = model.get_output_embeddings()
        self._model = model
        self._pieces = _PiecewiseLinear(head) if _is_wide(head) else None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model through it once; the logits are overwritten the next time, but where hooks could keep them.

        Not where copies of the weights are in place or another library has been.
        """
        pieces = self._pieces
        if pieces is None or unusual(pieces.module) or not pieces.place():
            yield
            return
        pieces.keeps = not (self._model._forward_hooks or pieces.module._forward_hooks)
        try:
            yield
        finally:
            pieces.leave()


def _is_wide(head: nn.Module | None) -> bool:
    """True if it is a plain linear layer whose weight does not fit in a processor's caches."""
    weight = getattr(head, "weight", None)
    if type(head) is not nn.Linear or not isinstance(weight, Tensor) or weight.nbytes < onednn.SMALLEST:
        return False
    return not unusual(head)


class _PiecewiseLinear(StandIn):
    """Multiplies by pieces of the layer's weight."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__(module)
        self.keeps = False
        """True if the next logits overwrite the last."""
        self._kept: Tensor | None = None
        self._thread = 0

    def place(self) -> bool:
        """Stand there for this thread."""
        self._thread = get_ident()
        return super().place()

    def product(self, input: Tensor) -> Tensor:
        """Logits `(B, 1, vocabulary)` of the states `(B, 1, d)` of a token of each sequence.

        As ever for more tokens, and for another thread, which may run the model meanwhile.
        """
        if input.ndim != 3 or input.shape[1] != 1 or get_ident() != self._thread:
            return nn.Linear.forward(self.module, input)
        x, weights, bias = input[:, 0], self._weights(len(input)), self.module.bias
        logits, end = self._buffer(x), 0
        for weight in weights:
            start, end = end, end + len(weight)
            if bias is None:
                torch.mm(x, weight.T, out=logits[:, start:end])
            else:
                torch.addmm(bias[start:end], x, weight.T, out=logits[:, start:end])
        return logits.unsqueeze(1)

    def _weights(self, rows: int) -> Sequence[Tensor]:
        """The weight `(out, in)`, whole or in pieces of so many rows."""
        weight = self.module.weight.detach()
        if rows == 1 or weight.dtype != torch.float32:
            return [weight]
        fitting = torch.get_num_threads() * _PIECE // (weight.shape[1] * weight.element_size())
        return list(weight.split(max(64, fitting - fitting % 64)))

    def _buffer(self, x: Tensor) -> Tensor:
        shape = (len(x), self.module.out_features)
        kept = self._kept
        if kept is None or not self.keeps or kept.shape != shape or kept.dtype != x.dtype:
            kept = self._kept = x.new_empty(shape)
        return kept
