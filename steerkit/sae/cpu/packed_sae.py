"""SAEs whose encoder lies in oneDNN's layout as well: on some processors all features take half the time to read."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from mmap import mmap
from typing import Final

import torch
from torch import Tensor

from steerkit.sae.cpu import onednn
from steerkit.sae.cpu.pages import release
from steerkit.sae.sae import Sae

_WINS: Final = 0.8
"""Least part of the time that must be won; far enough from 1 that the same machine always chooses the same."""
_ROWS: Final = 64


class LaidOutSae(Sae):
    """An SAE for reading features on a CPU; what needs gradients goes through the weights as they are stored."""

    def __init__(self, sae: Sae) -> None:
        super().__init__(
            *(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec),
            threshold=sae.threshold,
            k=sae.k,
            gate=sae.gate,
            subtract_b_dec=sae.subtract_b_dec,
        )
        self._packed, self._bias = _packed(sae), sae.b_enc.float()
        release(sae.W_enc)

    def pre_activations(self, x: Tensor) -> Tensor:
        """Pre-activations of an `Sae`, up to the last bits."""
        if torch.is_grad_enabled() and (x.requires_grad or self.W_enc.requires_grad):
            return super().pre_activations(x)
        return onednn.product(x, self._packed, self._bias)


def wins(saes: Collection[Sae]) -> bool:
    """True if a set's encoders are copied here: they take 32 MiB to 2 GiB, and a fifth of the time is won."""
    sizes = [4 * sae.W_enc.numel() for sae in saes]
    if not onednn.SMALLEST <= sum(sizes) <= onednn.LARGEST or not onednn.supports(torch.float32):
        return False
    sae = next(iter(saes))
    weight, x = sae.W_enc.float(), torch.ones(_ROWS, sae.d_in)
    own, other = onednn.times(partial(torch.matmul, x, weight), partial(onednn.product, x, _packed(sae), None))
    release(sae.W_enc)
    return other < _WINS * own


def _packed(sae: Sae) -> Tensor:
    """The encoder, turned in memory that goes back to the system at once: malloc would keep a hole for each."""
    encoder = sae.W_enc.T
    scratch = mmap(-1, 4 * encoder.numel())
    turned = torch.frombuffer(scratch, dtype=torch.float32).view(encoder.shape)
    return onednn.laid_out(turned.copy_(encoder))
