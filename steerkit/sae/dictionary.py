"""One sparse autoencoder, with the arithmetic of the published FunctionGemma SAEs.

Their card calls the class JumpReLUSAE, but it has no threshold and subtracts nothing from its input:

    features       = relu(x @ W_enc + b_enc)
    reconstruction = features @ W_dec + b_dec
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Reconstruction(NamedTuple):
    """What an SAE makes of an activation."""

    output: Tensor
    """`(..., d_in)` float32, the decoded features."""
    features: Tensor
    """`(..., d_sae)` float32, at least 0."""


class Columns(NamedTuple):
    """The part of an SAE that some of its features need, in float32."""

    W_enc: Tensor
    """`(d_in, n)`."""
    b_enc: Tensor
    """`(n,)`."""
    W_dec: Tensor
    """`(n, d_in)`."""


class Sae:
    """A ReLU SAE on one layer's `self_attn.o_proj` output.

    Weights stay as stored (possibly memory-mapped); every product runs in float32, because thousandths matter.
    """

    def __init__(self, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor) -> None:
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = W_enc, b_enc, W_dec, b_dec

    @property
    def d_in(self) -> int:
        """Width of the activation it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Features `(..., d_sae)` in float32 of activations `x` `(..., d_in)` of any dtype and leading shape."""
        return torch.relu(x.float() @ self.W_enc.float() + self.b_enc.float())

    def decode(self, features: Tensor) -> Tensor:
        """Activations `(..., d_in)` in float32 of `features` `(..., d_sae)`."""
        return features.float() @ self.W_dec.float() + self.b_dec.float()

    def __call__(self, x: Tensor) -> Reconstruction:
        """Encode, then decode."""
        features = self.encode(x)
        return Reconstruction(self.decode(features), features)

    def columns(self, indices: Tensor) -> Columns:
        """Weights of the features `indices` `(n,)` alone: what reading and writing just those costs."""
        return Columns(self.W_enc[:, indices].float(), self.b_enc[indices].float(), self.W_dec[indices].float())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sae:
        """A copy on `device`; the same object's tensors where nothing changes."""
        parts = (self.W_enc, self.b_enc, self.W_dec, self.b_dec)
        return Sae(*(part.to(device=device, dtype=dtype) for part in parts))
