"""Finds the hook sites of a model: `self_attn.o_proj` of each decoder layer, and the module that runs the layers."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from steerkit.errors import SteeringError
from steerkit.sae import Site

_SITE = re.compile(r"(?P<body>(?:.*\.)?)layers\.(?P<layer>\d+)\.self_attn\.o_proj")


class Sites(NamedTuple):
    """Where a model is hooked."""

    body: nn.Module
    """The decoder: its forward takes the attention mask and the cache, once per pass over the layers."""
    outputs: dict[int, nn.Module]
    """By layer, the output projection of its self-attention; an SAE sits on what it writes, or on what it is given."""


def find_sites(model: nn.Module) -> Sites:
    """The model's sites.

    Raises:
        SteeringError: the model has no `layers.N.self_attn.o_proj`, or more than one stack of them.
    """
    found: dict[str, dict[int, nn.Module]] = {}
    for name, module in model.named_modules():
        if match := _SITE.fullmatch(name):
            found.setdefault(match["body"], {})[int(match["layer"])] = module
    if len(found) != 1:
        what = "no" if not found else f"{len(found)} stacks of"
        raise SteeringError(
            f"{type(model).__name__}: found {what} modules named layers.N.self_attn.o_proj; expected one decoder"
        )
    ((body, outputs),) = found.items()
    return Sites(model.get_submodule(body.rstrip(".")), dict(sorted(outputs.items())))


def width_of(projection: nn.Module, site: Site) -> int | None:
    """Width of the activations on one side of an output projection; None where the module does not say."""
    width: int | None = getattr(projection, "out_features" if site == "output" else "in_features", None)
    return width
