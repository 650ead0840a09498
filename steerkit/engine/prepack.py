"""Linear weights laid out once more as oneDNN reads them fastest: decoding on a CPU is bound by reading weights.

The copies stand beside the model's own weights, which stay what they are, and are used only while steerkit generates.
They hold the same numbers; products are summed in another order, so logits differ in their last bits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from steerkit.errors import ModelError

Prepack = bool | Literal["auto"]
"""Whether to lay linear weights out anew; `auto`: where it is faster."""

SMALLEST: Final = 32 << 20
"""Bytes of linear weights from which on `auto` looks: below, weights lie in the processor's caches anyway."""
LARGEST: Final = 2 << 30
"""Bytes up to which `auto` doubles the linear weights."""
_WINS: Final = 0.95
_ROWS: Final = (1, 8)
_TRIES: Final = 5


class Prepacked:
    """Copies of a model's linear weights, and the way to use them."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Lay out the weights of these layers; all on the CPU and in one dtype that is supported."""
        self._layers = [_Layer(layer) for layer in layers]
        self._entered = 0
        self.bytes = sum(_bytes(layer) for layer in layers)
        """Of memory that the copies take."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model's linear layers through the copies; afterwards nothing of it is left on the model.

        Hooks stay and run as ever. Weights that were changed since are laid out anew. No gradients flow through a copy.
        """
        if self._entered == 0:
            for layer in self._layers:
                layer.refresh()
                layer.module.forward = layer  # type: ignore[method-assign]  # nn.Module calls whatever stands there
        self._entered += 1
        try:
            yield
        finally:
            self._entered -= 1
            if self._entered == 0:
                for layer in self._layers:
                    vars(layer.module).pop("forward", None)

    def times(self) -> tuple[float, float]:
        """Seconds that one product of every layer takes: with the layers' own weights, and with the copies."""
        alike: dict[torch.Size, list[_Layer]] = {}
        for layer in self._layers:
            alike.setdefault(layer.module.weight.shape, []).append(layer)
        own = copies = 0.0
        for same in alike.values():
            layer, weight = same[0], same[0].module.weight
            for rows in _ROWS:
                x = torch.ones(rows, weight.shape[1], dtype=weight.dtype)
                plain, packed = _timed(partial(linear, x, weight, layer.module.bias), partial(layer, x))
                own, copies = own + plain * len(same), copies + packed * len(same)
        return own, copies


class _Layer:
    """One linear layer's copy, which stands in for its `forward`."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        self.refresh()

    def refresh(self) -> None:
        """Lay the weight out anew where it is not what it was."""
        state = _state(self.module.weight)
        if getattr(self, "_seen", None) != state:
            self._seen, self._packed = state, _laid_out(self.module.weight)

    @torch.inference_mode()
    def __call__(self, input: Tensor) -> Tensor:
        return _product(input, self._packed, self.module.bias)


def prepacked(model: nn.Module, wanted: Prepack = "auto") -> Prepacked | None:
    """Copies of the model's linear weights in oneDNN's layout, or None where its own are used.

    `auto` makes them where all linear weights take 32 MiB to 2 GiB and a product of each with 1 and with 8 tokens is
    faster by a twentieth with the copies.

    Raises:
        ModelError: they are wanted and cannot be made.
    """
    if wanted is False:
        return None
    layers, reason = _linears(model), obstacle(model)
    if wanted == "auto":
        size = sum(map(_bytes, layers))
        if reason or not SMALLEST <= size <= LARGEST:
            return None
        made = Prepacked(layers)
        own, copies = made.times()
        return made if copies < _WINS * own else None
    if reason:
        raise ModelError(f"prepack: {reason}; expected a model on the CPU and a PyTorch with oneDNN, or prepack='auto'")
    return Prepacked(layers)


def obstacle(model: nn.Module) -> str:
    """Why the model's linear weights cannot be laid out anew here; empty where they can."""
    layers = _linears(model)
    if not layers:
        return "the model has no linear layers"
    for layer in layers:
        if layer.weight.device.type != "cpu":
            return f"linear weights lie on {layer.weight.device}"
        if "forward" in vars(layer):
            return "another library has replaced the forward of linear layers"
        if not _supported(layer.weight.dtype):
            return f"this machine has no oneDNN products in {str(layer.weight.dtype).removeprefix('torch.')}"
    return ""


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def _supported(dtype: torch.dtype) -> bool:
    """Whether the operators, which torch's compiler emits and no page documents, are there and right for a dtype."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if dtype != torch.float32:
        name = "bf16" if dtype == torch.bfloat16 else "fp16"
        if not getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")():
            return False
    weight, x = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4), torch.linspace(0, 1, 8, dtype=dtype).view(2, 4)
    try:
        found = _product(x, _laid_out(weight), None)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool(torch.allclose(found.float(), x.float() @ weight.float().T, atol=0.02))


def _laid_out(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


def _state(weight: Tensor) -> tuple[int, int]:
    """What changes when a weight is replaced or changed in place; tensors made for inference cannot be asked."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version


def _bytes(layer: nn.Linear) -> int:
    return layer.weight.numel() * layer.weight.element_size()


def _timed(*runs: Callable[[], Tensor]) -> list[float]:
    """Median seconds of each, the runs taking turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        for number in range(_TRIES + 1):
            for run, found in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run()
                if number:  # the first warms up
                    found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in seconds]
