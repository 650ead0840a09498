"""Training curves in whatever form a script left them: Python's numbers, NumPy's, tensors, by name or by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.sae.checkpoint import History
from steerkit.sae.formats.pickles import NumpyValue

_DEEPEST: Final = 8
"""Containers in containers."""
_WRAPPERS: Final = ("train", "training", "history")


def history(path: Path, raw: object) -> History:
    """Training curves of a checkpoint: what it says of `loss`, `mse` and `l0`, and nothing where it says nothing.

    Read are a dict of curves, a list or a dict of one such dict per epoch, and a dict of either under `train`. A curve
    is a number, or a sequence of numbers or of sequences; None in it is NaN. Other keys are passed over.

    Raises:
        SaeError: a curve that is no number, or one that holds more numbers than the file has bytes.
    """
    curves: dict[str, list[float]] = {name: [] for name in History.__dataclass_fields__}
    _Reader(path, path.stat().st_size).read(raw, curves, 0)
    return History(**{name: tuple(values) for name, values in curves.items()})


def curves(record: History) -> dict[str, list[float]]:
    """Training curves as plain lists."""
    return {"loss": list(record.loss), "mse": list(record.mse), "l0": list(record.l0)}


class _Reader:
    """Reader of one file, with a budget of numbers: a pickle can name one list a million times."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most

    def read(self, raw: object, curves: dict[str, list[float]], depth: int) -> None:
        """Add what `raw` says to the curves."""
        if depth > _DEEPEST or (depth == 0 and not isinstance(raw, _CONTAINERS)):
            raise SaeError(f"{self._path}: history: got {_kind(raw)}, expected a dict with loss, mse and l0")
        if isinstance(raw, Mapping):
            named = {key.lower(): value for key, value in raw.items() if isinstance(key, str)}
            for name in [name for name in curves if name in named]:
                curves[name].extend(self._numbers(name, named[name], 0))
            if not named.keys() & curves.keys():
                for value in _inner(raw):
                    self.read(value, curves, depth + 1)
        elif isinstance(raw, (list, tuple)):
            for value in raw:
                self._count(1)
                if isinstance(value, Mapping):
                    self.read(value, curves, depth + 1)

    def _numbers(self, name: str, value: object, depth: int) -> Iterator[float]:
        if value is None:
            value = float("nan")
        if isinstance(value, NumpyValue) and (array := value.array()) is not None:
            value = array
        if isinstance(value, (Tensor, numpy.ndarray, numpy.generic)):
            yield from self._many(name, value)
        elif isinstance(value, (int, float)):
            self._count(1)
            try:
                yield float(value)
            except OverflowError:
                raise SaeError(f"{self._path}: history.{name}: got a number beyond the range of floats") from None
        elif isinstance(value, (Mapping, Sequence)) and not isinstance(value, (str, bytes)) and depth < _DEEPEST:
            for one in value.values() if isinstance(value, Mapping) else value:
                self._count(1)
                yield from self._numbers(name, one, depth + 1)
        else:
            raise SaeError(f"{self._path}: history.{name}: got {_kind(value)}, expected a list of numbers")

    def _many(self, name: str, value: Any) -> list[float]:
        if isinstance(value, Tensor):
            usable = value.layout is torch.strided and value.device.type == "cpu" and not value.is_complex()
            if not usable or value.is_nested or value.is_quantized or type(value) not in (Tensor, torch.nn.Parameter):
                raise SaeError(f"{self._path}: history.{name}: got a tensor without numbers in it, expected numbers")
        elif value.dtype.kind not in "fiub":
            raise SaeError(f"{self._path}: history.{name}: got an array of {value.dtype}, expected a list of numbers")
        self._count(value.numel() if isinstance(value, Tensor) else value.size)
        flat = value.detach().double().reshape(-1) if isinstance(value, Tensor) else value.astype(float).reshape(-1)
        found: list[float] = flat.tolist()
        return found

    def _count(self, number: int) -> None:
        self._most -= number
        if self._most < 0:
            raise SaeError(f"{self._path}: history: got more numbers than the file has bytes, expected curves")


_CONTAINERS: Final = (Mapping, list, tuple, Tensor, NumpyValue, numpy.ndarray, numpy.generic, int, float, type(None))


def _inner(raw: Mapping[Any, Any]) -> list[object]:
    """The dicts in a dict that names no curve: one per epoch, or that of the training."""
    for key in _WRAPPERS:
        if isinstance(raw.get(key), (Mapping, list, tuple)):
            return [raw[key]]
    return [value for value in raw.values() if isinstance(value, Mapping)] if _epochs(raw) else []


def _epochs(raw: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, int) or (isinstance(key, str) and key[-1:].isdecimal()) for key in raw)


def _kind(value: object) -> str:
    return "a NumPy value that is no real number" if isinstance(value, NumpyValue) else type(value).__name__
