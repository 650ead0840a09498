"""One sparse autoencoder: ReLU, JumpReLU, TopK or gated; where in a model it belongs its `Checkpoint` says.

The published FunctionGemma SAEs are plain ReLU ones. Their card calls the class JumpReLUSAE, but it has no threshold
and subtracts nothing from its input:

    features       = relu(x @ W_enc + b_enc)
    reconstruction = features @ W_dec + b_dec

The other kinds compute what SAELens computes for them; see `Sae`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.errors import SaeError

Kind: TypeAlias = Literal["relu", "jumprelu", "topk", "gated"]
"""Activation function of an SAE, between its two matrices."""

_FEW: Final = 8
_SPARSE: Final = 6
"""Features for each active one, of few tokens, from which on gathering rows of the decoder takes less time."""


class Reconstruction(NamedTuple):
    """Features of an activation, and what they decode to."""

    output: Tensor
    """`(..., d_in)` float32, the decoded features."""
    features: Tensor
    """`(..., d_sae)` float32, at least 0."""


class GateWeights(NamedTuple):
    """Parameters of a gated SAE besides its matrices."""

    b_gate: Tensor
    """`(d_sae,)` a feature is on where its pre-activation plus this is above 0."""
    b_mag: Tensor
    """`(d_sae,)`"""
    r_mag: Tensor
    """`(d_sae,)` its magnitude is `relu(exp(r_mag) * pre + b_mag)`."""


class Columns(NamedTuple):
    """The part of an SAE that some of its features need, in float32."""

    W_enc: Tensor
    """`(d_in, n)`."""
    b_enc: Tensor
    """`(n,)`, with what is subtracted from the input folded in."""
    W_dec: Tensor
    """`(n, d_in)`."""
    threshold: Tensor | None = None
    """`(n,)` of a JumpReLU SAE."""
    gate: GateWeights | None = None
    """`(n,)` each, of a gated SAE."""
    whole: Sae | None = None
    """The complete SAE, of a TopK one: a feature is on or off by all others, so that all must be read."""
    indices: Tensor | None = None
    """Features that the first columns are; with `whole`. Columns after them are plain."""

    @property
    def bytes(self) -> int:
        """Size of the features' own weights, without the whole of a TopK SAE."""
        own = [self.W_enc, self.b_enc, self.W_dec, self.threshold, *(self.gate or ()), self.indices]
        return sum(part.nbytes for part in own if part is not None)

    @property
    def width(self) -> int:
        """Width of the activations that they read."""
        return self.W_dec.shape[-1]

    def to(self, device: torch.device | str) -> Columns:
        """These columns on `device`."""
        return Columns(
            self.W_enc.to(device),
            self.b_enc.to(device),
            self.W_dec.to(device),
            None if self.threshold is None else self.threshold.to(device),
            None if self.gate is None else GateWeights(*(part.to(device) for part in self.gate)),
            None if self.whole is None else self.whole.to(device, torch.float32),
            None if self.indices is None else self.indices.to(device),
        )

    def with_plain(self, W_enc: Tensor, W_dec: Tensor) -> Columns:
        """These and m columns after them, `(d_in, m)` and `(m, d_in)`, whose features are `relu(x @ W_enc)`."""
        none = W_enc.new_zeros(W_enc.shape[1])
        pairs = zip(self.gate or (), (none, none, none), strict=False)
        return self._replace(
            W_enc=torch.cat([self.W_enc, W_enc], dim=1),
            b_enc=torch.cat([self.b_enc, none]),
            W_dec=torch.cat([self.W_dec, W_dec]),
            threshold=None if self.threshold is None else torch.cat([self.threshold, none]),
            gate=None if self.gate is None else GateWeights(*map(torch.cat, pairs)),
        )

    def in_lanes(self, places: Tensor) -> Columns:
        """Columns at places `(Q, S)` among the n, for products of Q lanes: `(Q, d_in, S)`, `(Q, S, d_in)`, `(Q, 1, S)`.

        Not of a TopK SAE, whose features need all others.
        """
        assert self.whole is None

        def gathered(part: Tensor) -> Tensor:
            return part[places].unsqueeze(1)

        return Columns(
            self.W_enc.T[places].contiguous().mT,  # by rows, as a product with few tokens reads them fastest
            gathered(self.b_enc),
            self.W_dec[places],
            None if self.threshold is None else gathered(self.threshold),
            None if self.gate is None else GateWeights(*map(gathered, self.gate)),
        )

    def of_first(self, lanes: int) -> Columns:
        """Columns of the first lanes."""
        return Columns(
            self.W_enc[:lanes],
            self.b_enc[:lanes],
            self.W_dec[:lanes],
            None if self.threshold is None else self.threshold[:lanes],
            None if self.gate is None else GateWeights(*(part[:lanes] for part in self.gate)),
        )


class Sae:
    """An SAE; with `pre = (x - b_dec if subtract_b_dec else x) @ W_enc + b_enc`:

        ReLU       relu(pre)
        JumpReLU   relu(pre) * (pre > threshold), strict
        TopK       the k largest of relu(pre) and 0 for the rest; of features that tie for the last place those that
                   `torch.topk` takes, never more than k
        gated      relu(exp(r_mag) * pre + b_mag) * (pre + b_gate > 0), with a `b_enc` of zeros

    Weights stay as stored (possibly memory-mapped); every product runs in float32, because thousandths matter. The
    formulas are those of SAELens 6 (`sae_lens/saes`), whose `apply_b_dec_to_input` is `subtract_b_dec` here.

    Args:
        W_enc: `(d_in, d_sae)`.
        b_enc: `(d_sae,)`.
        W_dec: `(d_sae, d_in)`.
        b_dec: `(d_in,)`.
        threshold: `(d_sae,)`; makes it a JumpReLU SAE.
        k: how many features are on at most; makes it a TopK SAE.
        gate: makes it a gated SAE.
        subtract_b_dec: whether `b_dec` is taken from the input before it is encoded.

    Raises:
        SaeError: it is of more than one kind, or k is not among 1 to d_sae.
    """

    def __init__(
        self,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        *,
        threshold: Tensor | None = None,
        k: int | None = None,
        gate: GateWeights | None = None,
        subtract_b_dec: bool = False,
    ) -> None:
        if sum(part is not None for part in (threshold, k, gate)) > 1:
            raise SaeError("an SAE: got more than one of threshold, k and gate; expected the one that says its kind")
        if k is not None and not 1 <= k <= W_enc.shape[1]:
            raise SaeError(f"an SAE: k: got {k}, expected 1 to {W_enc.shape[1]}, its number of features")
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = W_enc, b_enc, W_dec, b_dec
        self.threshold, self.k, self.gate = threshold, k, gate
        self.subtract_b_dec = subtract_b_dec

    @property
    def kind(self) -> Kind:
        """Its activation function."""
        if self.gate is not None:
            return "gated"
        if self.k is not None:
            return "topk"
        return "relu" if self.threshold is None else "jumprelu"

    @property
    def d_in(self) -> int:
        """Width of the activation it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def numbers(self, index: int) -> dict[str, float]:
        """Single numbers of a feature's weights: the norm of its decoder row, its encoder bias, and its threshold."""
        found = {"decoder norm": float(self.W_dec[index].float().norm()), "encoder bias": float(self.b_enc[index])}
        return found if self.threshold is None else {**found, "threshold": float(self.threshold[index])}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All its weights by name, as stored; `b_gate`, `b_mag` and `r_mag` of a gated SAE among them."""
        found = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        if self.threshold is not None:
            found["threshold"] = self.threshold
        return found if self.gate is None else {**found, **self.gate._asdict()}

    def encode(self, x: Tensor) -> Tensor:
        """Features `(..., d_sae)` in float32 of activations `x` `(..., d_in)` of any dtype and leading shape."""
        x = x.float() - self.b_dec.float() if self.subtract_b_dec else x.float()
        pre = self.pre_activations(x)
        if self.k is not None:
            largest = torch.relu(pre).topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter(-1, largest.indices, largest.values)
        return activate(pre, self.threshold, self.gate)

    def pre_activations(self, x: Tensor) -> Tensor:
        """`x @ W_enc + b_enc` `(..., d_sae)` of `x` `(..., d_in)` in float32, with nothing subtracted."""
        return x @ self.W_enc.float() + self.b_enc.float()

    def decode(self, features: Tensor) -> Tensor:
        """Activations `(..., d_in)` in float32 of `features` `(..., d_sae)`.

        Of a few tokens on a CPU only the rows of active features are read; what needs gradients reads all.
        """
        weights, bias = self.W_dec, self.b_dec.float()
        few = features.numel() <= _FEW * self.d_sae
        if few and features.device.type == "cpu" and not features.requires_grad:
            active = features.reshape(-1, self.d_sae).any(dim=0).nonzero().squeeze(-1)
            if _SPARSE * len(active) < self.d_sae:
                features, weights = features[..., active], weights[active]
        return features.float() @ weights.float() + bias

    def __call__(self, x: Tensor) -> Reconstruction:
        """Encode, then decode."""
        features = self.encode(x)
        return Reconstruction(self.decode(features), features)

    def columns(self, indices: Tensor) -> Columns:
        """Weights of the features `indices` `(n,)` alone: what reading and writing just those costs.

        Of a TopK SAE they bring the whole along, because a feature is on only where few others are stronger.
        """
        encoder, bias = self.W_enc[:, indices].float(), self.b_enc[indices].float()
        if self.subtract_b_dec:
            bias = (bias.double() - self.b_dec.double() @ encoder.double()).float()
        return Columns(
            encoder,
            bias,
            self.W_dec[indices].float(),
            None if self.threshold is None else self.threshold[indices].float(),
            None if self.gate is None else GateWeights(*(part[indices].float() for part in self.gate)),
            None if self.k is None else self,
            None if self.k is None else indices,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sae:
        """A copy on `device`; the same object's tensors where nothing changes."""
        return self.having(**{name: part.to(device=device, dtype=dtype) for name, part in self.tensors.items()})

    def having(self, **tensors: Tensor) -> Sae:
        """An SAE of the same kind with other weights, by their names in `tensors`; the rest are this one's."""
        parts = {**self.tensors, **tensors}
        return Sae(
            *(parts[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")),
            threshold=parts.get("threshold"),
            k=self.k,
            gate=None if self.gate is None else GateWeights(*(parts[name] for name in GateWeights._fields)),
            subtract_b_dec=self.subtract_b_dec,
        )


def activate(pre: Tensor, threshold: Tensor | None = None, gate: GateWeights | None = None) -> Tensor:
    """Features of pre-activations `(..., n)`, for every kind in which a feature depends on itself alone.

    `threshold` and the gate's weights are `(n,)`.
    """
    if gate is not None:
        magnitudes = torch.relu(gate.r_mag.float().exp() * pre + gate.b_mag.float())
        return magnitudes * (pre + gate.b_gate.float() > 0)
    features = torch.relu(pre)
    return features if threshold is None else features * (pre > threshold.float())
