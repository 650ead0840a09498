"""The operator that stands at every hook point of a compiled model: steering inside its graph, opaque to it."""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context

from steerkit.engine.vllm.wire import KEY
from steerkit.sites import Site


@torch.library.custom_op("steerkit::steer", mutates_args=())
def steer(y: Tensor, site: str) -> Tensor:
    """The activations `(N, d)` of a site after its edits."""
    found: Tensor | None = get_forward_context().no_compile_layers[KEY].steer(Site.of(site), y)
    return y.clone() if found is None else found  # what an operator returns may be none of its arguments


@steer.register_fake
def _(y: Tensor, site: str) -> Tensor:
    return torch.empty_like(y)
