"""Finds the hook sites of a model: `self_attn.o_proj` of each decoder layer, and the module that runs the layers."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from steerkit.errors import SteeringError
from steerkit.sae import Site

_CPU: Final = torch.device("cpu")
_STRETCH: Final = ("original_max_position_embeddings", "factor")
"""By how much positions are stretched, where `max_position_embeddings` does not say it yet."""
_SITE = re.compile(r"(?P<body>(?:.*\.)?)layers\.(?P<layer>\d+)\.self_attn\.o_proj")


class Sites(NamedTuple):
    """Where a model is hooked."""

    body: nn.Module
    """The decoder: its forward takes the attention mask and the cache, once per pass over the layers."""
    outputs: dict[int, nn.Module]
    """By layer, the output projection of its self-attention; an SAE sits on what it writes, or on what it is given."""
    generates: nn.Module | None = None
    """The innermost module around the decoder that has a `generate`."""


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
    around = [model]
    for part in body.rstrip(".").split(".") if body else ():
        around.append(around[-1].get_submodule(part))
    generates = [module for module in around if callable(getattr(module, "generate", None))]
    return Sites(around[-1], dict(sorted(outputs.items())), generates[-1] if generates else None)


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module computes: where its weights are, or where accelerate brings them for that; None if it has none."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False) and one.execution_device is not None:
            return torch.device(one.execution_device)
    kept = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in kept if tensor.device.type != "meta"), None)


def devices_of(sites: Sites) -> dict[int, torch.device]:
    """By layer, where its hook runs."""
    other = device_of(sites.body) or _CPU
    return {layer: device_of(site) or other for layer, site in sites.outputs.items()}


def context_of(model: nn.Module) -> int | None:
    """Tokens that a model was made for; None where its configuration does not say."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    if not isinstance(found, int) or found <= 0:
        return None
    ways = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for way in (ways, *ways.values()):
        before, factor = (way.get(key) for key in _STRETCH) if isinstance(way, dict) else (None, None)
        if before and factor:
            found = max(found, int(before * factor))
    return found


def width_of(projection: nn.Module, site: Site) -> int | None:
    """Width of the activations on one side of an output projection; None where the module does not say."""
    width: int | None = getattr(projection, "out_features" if site == "output" else "in_features", None)
    return width
