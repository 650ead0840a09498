"""Names of hook points, as the formats write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sites import Point, Site

_LAYER: Final = r"(?:.*\.)?layers\.(?P<layer>[0-9]{1,6})"
_BLOCK: Final = r"blocks\.(?P<layer>[0-9]{1,6})"
_NAMES: Final[dict[Point, tuple[re.Pattern[str], ...]]] = {
    "attn_in": (re.compile(rf"{_LAYER}\.self_attn\.o_proj\.input"), re.compile(rf"{_BLOCK}\.attn\.hook_z")),
    "attn_out": (re.compile(rf"{_LAYER}\.self_attn(?:\.o_proj)?(?:\.output)?"),),
    "mlp_out": (
        re.compile(rf"{_LAYER}\.(?:mlp|post_feedforward_layernorm)(?:\.output)?"),
        re.compile(rf"{_BLOCK}\.hook_mlp_out"),
    ),
    "resid_post": (re.compile(rf"{_LAYER}(?:\.output)?"), re.compile(rf"{_BLOCK}\.hook_resid_post")),
}
"""By hook point, its names in Hugging Face models and in TransformerLens."""

_BEFORE_A_NORM: Final = re.compile(rf"{_LAYER}\.mlp(?:\.output)?")
_NORMED: Final = ("gemma", "olmo-2", "olmo2")
"""Families whose MLP's output passes a norm before it joins the residual stream."""


def read_hook(path: Path, key: str, name: object, model: str = "") -> Site:
    """The site that a hook's name stands for, in a model of this name.

    Raises:
        SaeError: it is no hook point that steerkit has, such as the embedding or single heads.
    """
    plain = name if isinstance(name, str) else ""
    if _BEFORE_A_NORM.fullmatch(plain) and any(family in model.lower() for family in _NORMED):
        raise SaeError(
            f"{path}: {key}: got {shown(name)}, expected post_feedforward_layernorm: what the MLP of {model} writes "
            f"passes a norm, and mlp_out is what comes behind it"
        )
    for point, patterns in _NAMES.items():
        for pattern in patterns:
            if match := pattern.fullmatch(plain):
                return Site(int(match["layer"]), point)
    raise SaeError(
        f"{path}: {key}: got {shown(name)}, expected model.layers.L.output (resid_post), "
        f"model.layers.L.self_attn.o_proj.output (attn_out) or .input (attn_in), or model.layers.L.mlp.output (mlp_out)"
    )


def hook_name(site: Site) -> str:
    """The name of a site, as Hugging Face models have it; TransformerLens' where models differ."""
    layer = f"model.layers.{site.layer}"
    names: dict[Point, str] = {
        "attn_in": f"{layer}.self_attn.o_proj.input",
        "attn_out": f"{layer}.self_attn.o_proj.output",
        "mlp_out": lens_name(site),
        "resid_post": f"{layer}.output",
    }
    return names[site.point]


def lens_name(site: Site) -> str:
    """The name of a site in TransformerLens; of `attn_out` the module's, as its own may lie behind a norm."""
    names: dict[Point, str] = {
        "attn_in": f"blocks.{site.layer}.attn.hook_z",
        "attn_out": f"model.layers.{site.layer}.self_attn.o_proj",
        "mlp_out": f"blocks.{site.layer}.hook_mlp_out",
        "resid_post": f"blocks.{site.layer}.hook_resid_post",
    }
    return names[site.point]
