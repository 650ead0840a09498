"""The table of hook points, and where a model has them.

A new hook point is a row of `TABLE` (and its name in `steerkit.sites.Point`, in causal order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steerkit.errors import SteeringError
from steerkit.sites import Point, Site

_CPU: Final = torch.device("cpu")
_STRETCH: Final = ("original_max_position_embeddings", "factor")
"""By how much positions are stretched, where `max_position_embeddings` does not say it yet."""

EngineName: TypeAlias = Literal["transformers", "continuous batching", "vllm"]
"""Engines that run hooks at hook points: transformers' forward pass, its continuous batching, and vLLM."""

Steer = Callable[[Tensor], Tensor | None]
"""The work of one hook: takes activations `(..., width)`, gives what replaces them, or None where nothing does."""


class HookPoint(NamedTuple):
    """One row of the table."""

    modules: tuple[str, ...]
    """Paths below `layers.N`; the first one that a layer has is hooked, the layer itself for an empty path."""
    side: Literal["input", "output"]
    """Side of the module."""
    width: str
    """Attribute that tells the width of the activations: of the module, or of the decoder's configuration."""
    what: str
    """Name of the module in messages."""
    engines: tuple[EngineName, ...]
    """Engines that serve it."""
    missing: str
    """Reason why other engines, and some layers, do not have it; ends the error that refuses it."""

    @property
    def does(self) -> str:
        """Verb between the module and its activations, in messages."""
        return "writes" if self.side == "output" else "is given"


_ALL: Final[tuple[EngineName, ...]] = get_args(EngineName)
_TRANSFORMERS: Final[tuple[EngineName, ...]] = ("transformers", "continuous batching")
TABLE: Final[dict[Point, HookPoint]] = {
    "attn_in": HookPoint(
        modules=("self_attn.o_proj",),
        side="input",
        width="in_features",
        what="o_proj",
        engines=_TRANSFORMERS,
        missing="layers of linear attention or convolution have no o_proj, and where an engine splits o_proj over "
        "devices each holds a part of its input",
    ),
    "attn_out": HookPoint(
        modules=("self_attn.o_proj",),
        side="output",
        width="out_features",
        what="o_proj",
        engines=_ALL,
        missing="layers of linear attention or convolution have no o_proj",
    ),
    "mlp_out": HookPoint(
        # After the norm of the MLP's output, in models that have one: that is what joins the residual stream.
        modules=("post_feedforward_layernorm", "post_mlp_layernorm", "mlp"),
        side="output",
        width="hidden_size",
        what="MLP",
        engines=_ALL,
        missing="a layer whose MLP goes by another name, or an engine that adds its output to the residual stream in "
        "one kernel, has no module that returns it",
    ),
    "resid_post": HookPoint(
        modules=("",),
        side="output",
        width="hidden_size",
        what="decoder layer",
        engines=_TRANSFORMERS,
        missing="an engine that leaves the residual sum to the next layer's norm has no module that returns it",
    ),
}
"""The hook points of a decoder layer."""


class Sites(NamedTuple):
    """The hook points that a model has."""

    body: nn.Module
    """The decoder: its forward takes the attention mask and the cache, once per pass over the layers."""
    modules: dict[Site, nn.Module]
    """The module of each site that the model has."""
    generates: nn.Module | None = None
    """The innermost module around the decoder that has a `generate`."""

    def at(self, site: Site) -> nn.Module:
        """The module of a site; raises SteeringError where the model has no such layer, or the layer no such module."""
        if (found := self.modules.get(site)) is not None:
            return found
        last = max(self.modules).layer
        if not 0 <= site.layer <= last:
            raise SteeringError(f"layer {site.layer}: the model has no such layer; it has layers 0 to {last}")
        names = " or ".join(TABLE[site.point].modules)
        having = [one.layer for one in self.of(site.point)]
        raise SteeringError(
            f"{site}: the model's layer {site.layer} has no {names}; "
            + (f"layers with {site.point}: {', '.join(map(str, having))}" if having else f"no layer has {site.point}")
            + f" ({TABLE[site.point].missing})"
        )

    def of(self, point: Point) -> list[Site]:
        """The sites of one hook point, by layer."""
        return sorted(site for site in self.modules if site.point == point)

    def width(self, site: Site) -> int | None:
        """Width of a site's activations; None where the model does not say."""
        name, module = TABLE[site.point].width, self.at(site)
        holder = getattr(self.body, "config", None) if name == "hidden_size" else module
        width: int | None = getattr(holder, name, None)
        return width

    def hook(self, site: Site, steer: Steer) -> RemovableHandle:
        """Call `steer` with a site's activations in every forward pass, until the handle is removed."""
        module = self.at(site)
        if TABLE[site.point].side == "input":
            return module.register_forward_pre_hook(partial(_before, site, steer))
        return module.register_forward_hook(partial(_after, steer))


def _before(site: Site, steer: Steer, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not args:
        raise SteeringError(f"{described(site)} was given no activations by position; expected one tensor")
    found = steer(args[0])
    return None if found is None else (found, *args[1:])


def _after(steer: Steer, module: nn.Module, args: object, output: Any) -> Any:
    if not isinstance(output, tuple):
        return steer(output)
    found = steer(output[0])
    return None if found is None else (found, *output[1:])


def check_engine(engine: EngineName, sites: Iterable[Site]) -> None:
    """Raise SteeringError for a site that an engine does not serve, with those it serves and the reason."""
    for site in sites:
        row = TABLE[site.point]
        if engine not in row.engines:
            served = ", ".join(point for point, one in TABLE.items() if engine in one.engines) or "none"
            raise SteeringError(
                f"{site}: {engine} does not serve {site.point}, expected one of {served}, or "
                f"{' or '.join(row.engines)} ({row.missing})"
            )


def described(site: Site) -> str:
    """A site's module, as messages name it."""
    return f"layer {site.layer}: its {TABLE[site.point].what}"


def find_sites(model: nn.Module) -> Sites:
    """The sites of a model's decoder: of the language stack, where it has others beside it.

    Raises:
        SteeringError: the model has no stack of decoder layers, or several and does not say which is the decoder.
    """
    body = _decoder(model)
    modules: dict[Site, nn.Module] = {}
    for number, layer in enumerate(body.layers):  # type: ignore[arg-type]  # a list of modules
        for point, row in TABLE.items():
            found = next((module for path in row.modules if (module := _below(layer, path)) is not None), None)
            if found is not None:
                modules[Site(number, point)] = found
    generates = [module for module in _around(model, body) if callable(getattr(module, "generate", None))]
    return Sites(body, modules, generates[-1] if generates else None)


def _decoder(model: nn.Module) -> nn.Module:
    """The module that runs the decoder layers, as `get_decoder` says it or as the only one that has such layers."""
    found: Any = model
    while callable(getattr(found, "get_decoder", None)) and not _runs_layers(found):
        inner = found.get_decoder()
        if inner is found:
            break
        found = inner
    if _runs_layers(found):
        return found  # type: ignore[no-any-return]  # a module
    stacks = [module for module in model.modules() if _runs_layers(module)]
    if len(stacks) != 1:
        what = "no" if not stacks else f"{len(stacks)} stacks of"
        raise SteeringError(
            f"{type(model).__name__}: found {what} modules named layers.N.self_attn.o_proj; expected one decoder"
        )
    return stacks[0]


def _runs_layers(module: Any) -> bool:
    layers = getattr(module, "layers", None)
    return isinstance(layers, nn.ModuleList) and any(_below(one, "self_attn.o_proj") is not None for one in layers)


def _below(layer: nn.Module, path: str) -> nn.Module | None:
    found: Any = layer
    for name in path.split(".") if path else ():
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None


def _around(model: nn.Module, body: nn.Module) -> Iterator[nn.Module]:
    """The modules from a model down to its decoder."""
    path = next((name for name, module in model.named_modules() if module is body), "")
    yield model
    module = model
    for name in path.split(".") if path else ():
        module = module.get_submodule(name)
        yield module


def device_of(module: nn.Module) -> torch.device | None:
    """The device that a module computes on: of its weights, or where accelerate moves them; None without any."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False) and one.execution_device is not None:
            return torch.device(one.execution_device)
    kept = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in kept if tensor.device.type != "meta"), None)


def devices_of(sites: Sites) -> dict[Site, torch.device]:
    """By site, where its hook runs."""
    other = device_of(sites.body) or _CPU
    return {site: _device_below(module) or other for site, module in sites.modules.items()}


def _device_below(module: nn.Module) -> torch.device | None:
    """A module's device; where all of its weights are offloaded, that of the first of its parts that is brought in."""
    return next((device for device in map(device_of, module.modules()) if device is not None), None)


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
