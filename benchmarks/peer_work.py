"""The work that steerkit, hand-written hooks and other tools do side by side, as functions of one layer's activations.

Clamp four features at every token of some layers, or record the strongest features of every new token of all layers. A
clamp is written back as the sparse delta, which is also what a full reconstruction plus the SAE's error gives, or as
the full reconstruction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from arms import TOP_K, Run
from torch import Tensor, nn

from steerkit.policy import Policy
from steerkit.sae import Sae

Write = Literal["delta", "reconstruction", "vector", "nothing", "record"]
"""What an arm does to the activations, or that it keeps their strongest features."""

Site = Callable[[Tensor], Tensor | None]
"""What to do with one layer's activations `(B, T, d)`; None leaves them alone."""


class Arm(NamedTuple):
    """One way of doing the work."""

    run: Run
    write: Write
    head: nn.Module
    """The unembedding of the model that it runs; what it is given tells arms apart."""


class Work(NamedTuple):
    """What all arms of one table do."""

    layers: tuple[int, ...]
    """That are clamped, or recorded."""
    features: tuple[int, ...] = ()
    """Clamped in each layer; none: record."""
    value: float = 0.0
    """That they are clamped to."""

    def policy(self, write_back: str) -> Policy:
        """The same as a policy."""
        names = {(layer, index): f"l{layer}_{index}" for layer in self.layers for index in self.features}
        rules = [
            {
                "name": f"layer-{layer}",
                "where": "any",
                "edit": {name: {"clamp": self.value} for (place, _), name in names.items() if place == layer},
            }
            for layer in self.layers
        ]
        body = {
            "name": "clamps",
            "model": "random",
            "features": {name: {"layer": layer, "index": index} for (layer, index), name in names.items()},
            "steer": rules,
            "write_back": write_back,
            "guard": {"default": "allow"},
        }
        return Policy.model_validate({"steerkit": 1, **body})


class Codec(NamedTuple):
    """An SAE as two functions."""

    encode: Callable[[Tensor], Tensor]
    """`(..., d)` to `(..., d_sae)`."""
    decode: Callable[[Tensor], Tensor]
    """`(..., d_sae)` to `(..., d)`."""


def by_hand(sae: Sae) -> Codec:
    """The published usage code, in float32."""
    return Codec(
        lambda y: torch.relu(y.float() @ sae.W_enc + sae.b_enc), lambda features: features @ sae.W_dec + sae.b_dec
    )


def reconstruct(codec: Codec, work: Work, *, error: bool) -> Site:
    """Encode all, set some, decode all; with `error` plus what the SAE missed, which takes a second decode."""
    chosen = list(work.features)

    def site(y: Tensor) -> Tensor:
        features = codec.encode(y)
        missed = y - codec.decode(features) if error else 0.0
        features[..., chosen] = work.value
        return (codec.decode(features) + missed).to(y.dtype)

    return site


def delta(sae: Sae, work: Work) -> Site:
    """`y + (f' - f) @ W_dec` of the clamped features alone, as somebody would write it by hand."""
    part = sae.columns(torch.tensor(work.features))

    def site(y: Tensor) -> Tensor:
        features = torch.relu(y.float() @ part.W_enc + part.b_enc)
        return (y.float() + (work.value - features) @ part.W_dec).to(y.dtype)

    return site


class Records(dict[int, list[Any]]):
    """By layer, for each pass the values and indices of the strongest features of its last token."""

    def site(self, layer: int, encode: Callable[[Tensor], Tensor]) -> Site:
        """Keeps them and changes nothing."""

        def site(y: Tensor) -> None:
            self.setdefault(layer, []).append(encode(y[:, -1:]).topk(TOP_K))

        return site


def twin(model: Any) -> Any:
    """Other modules around the same tensors."""
    return copy.deepcopy(model, {id(part): part for part in [*model.parameters(), *model.buffers()]})


def tokenizer() -> Any:
    """Two tools ask for one, though they are given token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", pad_token="?", eos_token="?")
