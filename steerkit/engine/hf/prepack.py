"""Linear weights packed for oneDNN: decoding on a CPU is bound by reading weights.

The copies stand beside the model's own weights, which stay what they are, and are used only while steerkit generates.
They hold the same numbers; products are summed in another order, so logits differ in their last bits.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from steerkit.errors import ModelError
from steerkit.sae.cpu import onednn

Prepack = bool | Literal["auto"]
"""Pack linear weights; `auto`: where it is faster."""

_WINS: Final = 0.95
_ROWS: Final = (1, 8)
_TIMED: Final = 64 << 20
"""Bytes of a weight that are timed at most: a part for the whole, more than caches hold."""


class Prepacked:
    """Copies of a model's linear weights, and the way to use them; they are made when they are first used."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [_PackedLinear(module) for module in _linears(model)]
        self._dtypes = {layer.module.weight.dtype for layer in self._layers}

    @property
    def bytes(self) -> int:
        """Memory that the copies take, once they are made."""
        weights = {id(layer.module.weight): layer.module.weight for layer in self._layers}
        return sum(weight.numel() * weight.element_size() for weight in weights.values())

    @property
    def obstacle(self) -> str:
        """Why the model's own weights are used all the same; empty where the copies are.

        The model may have been moved, cast or given to another library since.
        """
        for layer in self._layers:
            if reason := unusual(layer.module):
                return reason
            if layer.module.weight.dtype not in self._dtypes:
                return f"linear weights were cast to {_name(layer.module.weight.dtype)}"
        return ""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model's linear layers through the copies; afterwards nothing of it is left on the model.

        Hooks stay and run as ever, and what needs gradients, is autocast or compiled runs through the model's own
        weights. Weights that were changed since are packed again. With an obstacle, this does nothing.
        """
        layers = [] if self.obstacle else self._layers
        made: dict[int, _Copy] = {}
        for layer in layers:
            layer.refresh(made)
        placed = [layer for layer in layers if layer.place()]
        try:
            yield
        finally:
            for layer in placed:
                layer.leave()

    def times(self) -> tuple[float, float]:
        """Seconds that one product of every layer takes with 1 and with 8 tokens: with its own weight, with a copy."""
        alike: dict[torch.Size, list[nn.Linear]] = {}
        for layer in self._layers:
            alike.setdefault(layer.module.weight.shape, []).append(layer.module)
        own = copies = 0.0
        for same in alike.values():
            whole = same[0].weight.detach()
            weight = whole[: max(1, _TIMED // (whole.shape[1] * whole.element_size()))]
            packed, times = onednn.laid_out(weight), len(same) * len(whole) / len(weight)
            for rows in _ROWS:
                x = torch.ones(rows, weight.shape[1], dtype=weight.dtype)
                plain, other = onednn.times(partial(linear, x, weight), partial(onednn.product, x, packed, None))
                own, copies = own + plain * times, copies + other * times
        return own, copies


class _Copy:
    """One weight, packed."""

    def __init__(self, weight: Tensor) -> None:
        self._of, self._seen = weakref.ref(weight), _state(weight)
        self.packed = onednn.laid_out(weight)

    def is_of(self, weight: Tensor) -> bool:
        """True if the weight is the one that was copied, unchanged."""
        return self._of() is weight and self._seen == _state(weight)


class StandIn(ABC):
    """Stands in for a linear layer's `forward`."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module

    def place(self) -> bool:
        """Stand there; False where another does already, and nothing is to be done."""
        if "forward" in vars(self.module):
            return False
        vars(self.module)["forward"] = self  # nn.Module calls whatever stands there
        return True

    def leave(self) -> None:
        """Leave the layer as it was, or as another library has made it meanwhile."""
        if vars(self.module).get("forward") is self:
            del vars(self.module)["forward"]

    def __call__(self, input: Tensor) -> Tensor:
        """The layer's output; what needs gradients, is autocast or compiled goes through the layer's own product."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return nn.Linear.forward(self.module, input)
        return self.product(input)

    @abstractmethod
    def product(self, input: Tensor) -> Tensor:
        """The layer's, made another way."""


class _PackedLinear(StandIn):
    """Multiplies by a copy of the weight."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__(module)
        self._copy: _Copy | None = None

    def refresh(self, made: dict[int, _Copy]) -> None:
        """Copy the weight if it is not what it was; `made` holds this time's copies, for layers that share a weight."""
        weight = self.module.weight
        if self._copy is None or not self._copy.is_of(weight):
            self._copy = None  # so that the older one is not held beside it
            self._copy = made.get(id(weight)) or _Copy(weight)
        made[id(weight)] = self._copy

    def product(self, input: Tensor) -> Tensor:
        """The layer's, by the copy."""
        assert self._copy is not None  # it is made before it stands there
        return onednn.product(input, self._copy.packed, self.module.bias)


def prepacked(model: nn.Module, wanted: Prepack = "auto") -> Prepacked | None:
    """Copies of the model's linear weights in oneDNN's layout, or None where its own are used.

    `auto` makes them where all linear weights take 32 MiB to 2 GiB and a product of each with 1 and with 8 tokens is
    faster by a twentieth with the copies.

    Raises:
        ModelError: they are wanted and cannot be made.
    """
    if wanted is False:
        return None
    reason = obstacle(model)
    if wanted is True and reason:
        raise ModelError(f"prepack: {reason}; expected a model on the CPU and a PyTorch with oneDNN, or prepack='auto'")
    if reason:
        return None
    copies = Prepacked(model)
    if wanted is True:
        return copies
    if not onednn.SMALLEST <= copies.bytes <= onednn.LARGEST:
        return None
    own, other = copies.times()
    return copies if other < _WINS * own else None


def obstacle(model: nn.Module) -> str:
    """Why the model's linear weights cannot be packed here; empty where they can."""
    layers = _linears(model)
    if not layers:
        return "the model has no linear layers"
    for reason in map(unusual, layers):
        if reason:
            return reason
    for dtype in {layer.weight.dtype for layer in layers}:
        if not onednn.supports(dtype):
            return f"this machine has no oneDNN products in {_name(dtype)}"
    return ""


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def unusual(layer: nn.Linear) -> str:
    """Why one layer must run its own way; empty where a product with a copy of its weight is the same."""
    weight = layer._parameters.get("weight")
    if type(layer) is not nn.Linear or type(weight) is not nn.Parameter:
        return "another library has replaced the weights of linear layers"
    if weight.device.type != "cpu":
        return f"linear weights lie on {weight.device}"
    if not isinstance(vars(layer).get("forward", None), StandIn | None):
        return "another library has replaced the forward of linear layers"
    return ""


def _state(weight: Tensor) -> tuple[int, int]:
    """State that changes with a weight in place; inference tensors do not count their changes."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
