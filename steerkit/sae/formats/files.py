"""Reads the files that SAE formats are made of, checks what they hold, and says exactly what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from safetensors import safe_open
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.files import read_json, shown
from steerkit.sae.cpu.pages import release
from steerkit.sae.formats.pickles import NumpyValue

Shape = tuple[int, ...]
_COMPUTED: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FLOATS: Final = "float32, bfloat16, float16 or float64"


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, memory-mapped.

    Raises:
        SaeError: the file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise SaeError(f"{path}: no such file; expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  no dict
    except Exception as error:  # its library raises what its reader and torch raise
        raise SaeError(f"{path}: truncated or not a safetensors file ({shown(error, 160)}); fetch it again") from None


def load_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        SaeError: the file is missing, or does not hold a JSON object.
    """
    found = read_json(path, SaeError, "a JSON object")
    if not isinstance(found, dict):
        raise SaeError(f"{path}: got a {type(found).__name__}, expected a JSON object")
    return found


def required(path: Path, content: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raise SaeError unless all keys are there."""
    if missing := [key for key in keys if key not in content]:
        found = ", ".join(sorted(shown(str(key))[1:-1] for key in content)[:20]) or "nothing"
        more = f" and {len(content) - 20} more" if len(content) > 20 else ""
        raise SaeError(f"{path}: got keys {found}{more}; missing {', '.join(missing)}")


def checked(path: Path, content: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The tensors that `shapes` names, in its order.

    Raises:
        SaeError: one is missing, no floating-point tensor, of another shape, or not finite.
    """
    required(path, content, tuple(shapes))
    found = {}
    for key, shape in shapes.items():
        tensor = _dense(path, key, content[key])
        if tuple(tensor.shape) != shape:
            raise SaeError(f"{path}: {key}: got shape {tuple(tensor.shape)}, expected {shape}")
        _check_stored(path, key, tensor)
        if tensor.numel() and not all(map(math.isfinite, map(float, tensor.aminmax()))):  # copies nothing
            raise SaeError(f"{path}: {key}: got NaN or infinity, expected finite numbers; download or train it again")
        release(tensor)
        found[key] = tensor
    return found


def _dense(path: Path, key: str, value: object) -> Tensor:
    """The tensor itself, of numbers that steerkit computes with; raises SaeError."""
    if not isinstance(value, Tensor):
        raise SaeError(f"{path}: {key}: got {_describe(value)}, expected a floating-point tensor")
    if what := _unusual(value):
        raise SaeError(f"{path}: {key}: got a {what} tensor, expected a dense one of {_FLOATS}; convert and save it")
    if value.dtype not in _COMPUTED:
        expected = f"one of {_FLOATS}; convert and save it" if value.is_floating_point() else "a floating-point tensor"
        raise SaeError(f"{path}: {key}: got {_describe(value)}, expected {expected}")
    return value.detach()


def _unusual(value: Tensor) -> str:
    """Name of a layout that does not store a tensor number by number; else empty."""
    if value.is_nested:
        return "nested"
    if value.layout is not torch.strided:
        return str(value.layout).removeprefix("torch.").replace("_", " ")
    if value.is_quantized:
        return "quantized"
    if value.device.type != "cpu":
        return value.device.type
    return "" if type(value) in (Tensor, torch.nn.Parameter) else type(value).__name__


def _check_stored(path: Path, key: str, tensor: Tensor) -> None:
    """Refuse a tensor that says it is larger than what is stored of it: as soon as it is copied it would be.

    Raises:
        SaeError: it repeats one stored number at many places (strides of 0).
    """
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise SaeError(
            f"{path}: {key}: got {tensor.numel():,} numbers of which {stored:,} are stored, expected all; save what "
            f"its .contiguous() gives"
        )


def matrix(path: Path, content: Mapping[str, Any], key: str) -> Shape:
    """Shape of a matrix from which the others follow; raises SaeError if it is none."""
    required(path, content, (key,))
    found = content[key]
    if not isinstance(found, Tensor) or found.ndim != 2 or 0 in found.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise SaeError(f"{path}: {key}: got {shape}, expected a matrix")
    return tuple(found.shape)


def positive(path: Path, content: Mapping[str, Any], key: str) -> int:
    """A whole number of at least 1; raises SaeError."""
    value = whole(content.get(key))
    if value is None or value < 1:
        raise SaeError(f"{path}: {key}: got {shown(content.get(key))}, expected a positive integer")
    return value


def whole(value: object) -> int | None:
    """A whole number, also as NumPy or a tensor has it; None if it is none."""
    if isinstance(value, NumpyValue):
        value = value.array()
    if isinstance(value, (Tensor, numpy.ndarray, numpy.generic)) and value.ndim == 0:
        value = None if isinstance(value, Tensor) and _unusual(value) else value.item()
    return value if type(value) is int and value < 1 << 62 else None


def text(path: Path, content: Mapping[str, Any], key: str, what: str) -> str:
    """A string that is not empty; raises SaeError."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise SaeError(f"{path}: {key}: got {shown(value)}, expected {what}")
    return value


def _describe(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
