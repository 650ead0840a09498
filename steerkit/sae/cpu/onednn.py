"""Products with weights that oneDNN has packed, by the operators that torch's compiler emits.

No page documents them, so whether they are there and right is tried before they are used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

SMALLEST: Final = 32 << 20
"""Bytes of weights from which on it is looked whether copies are faster: less lies in the processor's caches anyway."""
LARGEST: Final = 2 << 30
"""Bytes of weights that are copied at most, unless it was asked for."""
_TRIES: Final = 5


def supports(dtype: torch.dtype) -> bool:
    """True if this machine and this PyTorch have such products for a dtype."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    weight, x = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4), torch.linspace(0, 1, 8, dtype=dtype).view(2, 4)
    try:
        if dtype != torch.float32:
            name = "bf16" if dtype == torch.bfloat16 else "fp16"
            if not getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")():
                return False
        with torch.no_grad():
            found = product(x, laid_out(weight), None)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool(torch.allclose(found.float(), x.float() @ weight.float().T, atol=0.02))


def laid_out(weight: Tensor) -> Tensor:
    """A copy of a weight `(out, in)` in a layout of oneDNN's own, for `product` alone."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
    return packed


def product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` of activations `(..., in)` and a packed weight; `bias` `(out,)`."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found


def onednn_version() -> str | None:
    """Version of the oneDNN that torch was built with."""
    found = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", torch.__config__.show())
    return found and found[1]


def times(*runs: Callable[[], Tensor]) -> list[float]:
    """The least seconds of each, the runs taking turns: what else the machine does only adds."""
    seconds: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        for number in range(_TRIES + 1):
            for run, found in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run()
                if number:  # the first warms up
                    found.append(time.perf_counter() - start)
    return [min(found) for found in seconds]
