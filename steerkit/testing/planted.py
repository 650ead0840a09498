"""SAEs that are planted, not trained: each feature reads one known direction, and decoding gives back the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from steerkit.policy import Policy
from steerkit.sae import Checkpoint, GateWeights, Kind, Sae, SaeSet
from steerkit.sites import Point, Site
from steerkit.steer import find_sites
from steerkit.testing.random_models import SMALL, random_model

_HALF_SPREADS: Final[dict[Point, float]] = {"attn_in": 0.005, "attn_out": 0.005}
"""Half the standard deviation of `small_model`'s activations by hook point, roughly."""


def small_model(seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> nn.Module:
    """A Gemma-3 text model of three layers with random weights: fast, and good for anything but behaviour."""
    return random_model({**SMALL, **config}, seed=seed, dtype=dtype)


def planted_saes(
    model: nn.Module,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    kind: Kind = "relu",
    points: Sequence[Point] = ("attn_out",),
    subtract_b_dec: bool = False,
    directions: Mapping[Site | int, tuple[Tensor, float]] | None = None,
) -> SaeSet:
    """An SAE for every site of these hook points with `2 * d_in` features, of an orthonormal basis q.

    The features are `relu(q_j · x)` and `relu(-q_j · x)`.

    Decoding adds `f_j q_j` and subtracts the mirrored feature, so `decode(encode(x)) == x` up to rounding, for the
    plain kind. Every feature's statistics are 1, so that `"2 max"` means 2. The other kinds have the same directions,
    with thresholds and gates at half the spread of `small_model`'s outputs, or an eighth of the features; with
    `subtract_b_dec` the decoder's bias is not 0.

    `directions` plants feature 0 of some sites: a unit vector q `(d_in,)` and the point t beyond which it fires, so
    that it is `relu(q · x - t)` and its mirror `relu(t - q · x)`; the decoder's bias holds `t q`.
    """
    generator = torch.Generator().manual_seed(seed)
    checkpoints, statistics, sites = [], {}, find_sites(model)
    planted = {Site.of(site): direction for site, direction in (directions or {}).items()}
    for site in sorted(site for site in sites.modules if site.point in points):
        width = sites.width(site)
        assert width is not None  # these models say it
        first, beyond = planted.get(site, (None, 0.0))
        basis = _basis(torch.randn(width, width, generator=generator), first)
        encoder, bias = torch.cat([basis, -basis], dim=1), torch.full((width,), 0.003 if subtract_b_dec else 0.0)
        thresholds = torch.zeros(2 * width)
        thresholds[0], thresholds[width] = -beyond, beyond
        parts = _parts_of(kind, 2 * width, _HALF_SPREADS.get(site.point, 0.5))
        sae = Sae(
            encoder,
            thresholds,
            encoder.T.contiguous(),
            bias + beyond * basis[:, 0],
            subtract_b_dec=subtract_b_dec,
            **parts,
        ).to("cpu", dtype)
        checkpoints.append(Checkpoint(Path(f"sae_{site.stem}.pt"), "planted", site, sae))
        for unit in ("max", "mean", "std", "density", "q50", "q90", "q99", "q999"):
            statistics[f"{site.stem}.{unit}"] = torch.ones(2 * width)
    return SaeSet("planted", checkpoints, statistics)


def unread(model: nn.Module, layer: int) -> None:
    """Make a layer's attention output irrelevant to all later layers: its features can be read and change nothing.

    The norm after the attention scales by 1 + its weight, which becomes 0.
    """
    norm = model.get_submodule(f"model.layers.{layer}.post_attention_layernorm")
    torch.nn.init.constant_(cast(nn.Parameter, norm.weight), -1.0)


def written_for(model: nn.Module, token: int, direction: Tensor) -> None:
    """Make a token the more likely the more of `direction` `(d,)` the residual stream holds: its unembedding row.

    Embeddings are tied, so the token's own embedding changes too.
    """
    rows = cast(nn.Parameter, model.get_submodule("lm_head").weight)
    with torch.no_grad():
        rows[token] = direction.to(rows)


def _basis(columns: Tensor, first: Tensor | None) -> Tensor:
    """An orthonormal basis of random columns `(d, d)`, its first column along `first` where it is given."""
    if first is not None:
        columns[:, 0] = first
    basis: Tensor
    basis, upper = torch.linalg.qr(columns)
    return basis if first is None else basis * upper[0, 0].sign()


def _parts_of(kind: Kind, d_sae: int, half_spread: float) -> dict[str, Any]:
    """Parameters of an SAE of a kind besides its matrices."""
    if kind == "jumprelu":
        return {"threshold": torch.full((d_sae,), half_spread)}
    if kind == "topk":
        return {"k": d_sae // 8}
    if kind == "gated":
        full = [torch.full((d_sae,), number) for number in (-half_spread, 0.002, 0.3)]
        return {"gate": GateWeights(*full)}
    return {}


def planted_policy(
    name: str = "planted", features: Mapping[str, tuple[Site | int | str, int]] | None = None, **parts: Any
) -> Policy:
    """A policy from plain dicts: `features` as name → (layer or site, index), the rest as in a policy file."""
    sites = {key: (Site.of(site).compact, index) for key, (site, index) in (features or {}).items()}
    named = {
        key: {"layer" if isinstance(site, int) else "site": site, "index": index}
        for key, (site, index) in sites.items()
    }
    return Policy.model_validate({"steerkit": 1, "name": name, "features": named, **parts})
