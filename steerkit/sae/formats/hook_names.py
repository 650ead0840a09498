"""Names of hook points, as the formats write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sites import Point, Site

_LAYER: Final = r"(?:.*\.)?layers\.(?P<layer>[0-9]{1,6})"
_BLOCK: Final = r"blocks\.(?P<layer>[0-9]{1,6})"


class _Names(NamedTuple):
    """The names of one hook point; `{}` stands for the layer."""

    read: str
    """Pattern of its names below a layer of Hugging Face's models; the side may follow."""
    written: str
    """Its name there; TransformerLens' where models differ."""
    lens: str
    """Its name in TransformerLens; of `attn_out` the module's, as its own may lie behind a norm."""
    block: str | None = None
    """Pattern of its name below a block of TransformerLens."""

    def match(self, name: str) -> re.Match[str] | None:
        """The match of a name, with its `layer`."""
        found = re.fullmatch(_LAYER + self.read, name)
        return found if found or self.block is None else re.fullmatch(_BLOCK + self.block, name)


_NAMES: Final[dict[Point, _Names]] = {
    "attn_in": _Names(
        read=r"\.self_attn\.o_proj\.input",
        written="model.layers.{}.self_attn.o_proj.input",
        lens="blocks.{}.attn.hook_z",
        block=r"\.attn\.hook_z",
    ),
    "attn_out": _Names(
        read=r"\.self_attn(?:\.o_proj)?(?:\.output)?",
        written="model.layers.{}.self_attn.o_proj.output",
        lens="model.layers.{}.self_attn.o_proj",
    ),
    "mlp_out": _Names(
        read=r"\.(?:mlp|post_feedforward_layernorm)(?:\.output)?",
        written="blocks.{}.hook_mlp_out",
        lens="blocks.{}.hook_mlp_out",
        block=r"\.hook_mlp_out",
    ),
    "resid_post": _Names(
        read=r"(?:\.output)?",
        written="model.layers.{}.output",
        lens="blocks.{}.hook_resid_post",
        block=r"\.hook_resid_post",
    ),
}
"""By hook point; a new one has its row here where published files name it."""

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
    for point, names in _NAMES.items():
        if match := names.match(plain):
            return Site(int(match["layer"]), point)
    raise SaeError(
        f"{path}: {key}: got {shown(name)}, expected model.layers.L.output (resid_post), "
        f"model.layers.L.self_attn.o_proj.output (attn_out) or .input (attn_in), or model.layers.L.mlp.output (mlp_out)"
    )


def hook_name(site: Site) -> str:
    """The name of a site, as Hugging Face models have it; TransformerLens' where models differ."""
    return _NAMES[site.point].written.format(site.layer)


def lens_name(site: Site) -> str:
    """The name of a site in TransformerLens; of `attn_out` the module's, as its own may lie behind a norm."""
    return _NAMES[site.point].lens.format(site.layer)
