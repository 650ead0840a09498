"""Where an SAE belongs, from the hook's name as its format writes it: a layer, and a side of its o_proj."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sae.sae import Site

_PROJECTION = re.compile(r"(?:.*\.)?layers\.(?P<layer>[0-9]{1,6})\.self_attn(?:\.o_proj)?(?:\.(?P<side>input|output))?")
_HEADS = re.compile(r"blocks\.(?P<layer>[0-9]{1,6})\.attn\.hook_z")

PLACES: Final = "steerkit reads and writes on either side of an attention's output projection, nowhere else"


class Hook(NamedTuple):
    """A place in a model."""

    layer: int
    site: Site


def read_hook(path: Path, key: str, name: object) -> Hook:
    """The place that a hook's name stands for.

    `model.layers.L.self_attn.o_proj` is the projection's output, unless `.input` says otherwise; so is what the
    attention writes as a whole. TransformerLens' `blocks.L.attn.hook_z` is its input.

    Raises:
        SaeError: it is another place, such as the residual stream or an MLP.
    """
    plain = name if isinstance(name, str) else ""
    if match := _PROJECTION.fullmatch(plain):
        inner = match["side"] == "input"
        if not inner or "o_proj" in plain:
            return Hook(int(match["layer"]), "input" if inner else "output")
    if match := _HEADS.fullmatch(plain):
        return Hook(int(match["layer"]), "input")
    raise SaeError(
        f"{path}: {key}: got {shown(name)}, expected model.layers.L.self_attn.o_proj.output or .input; {PLACES}"
    )


def hook_name(layer: int, site: Site) -> str:
    """The name of a place, as Hugging Face models have it."""
    return f"model.layers.{layer}.self_attn.o_proj.{site}"
