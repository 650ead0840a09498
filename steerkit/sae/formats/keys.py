"""Keys and tensors that change what an SAE computes or where it sits, and that steerkit does not honour.

A format lists them with the values that change nothing. One with another value is refused by its name: read past, the
numbers would be those of another SAE. A key that is on no list is harmless, and let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import Tensor

from steerkit.errors import SaeError
from steerkit.files import shown


class Neutral(NamedTuple):
    """The values of a key with which an SAE is what it would be without the key."""

    values: tuple[object, ...]
    """None and the empty text are always among them."""
    otherwise: str
    """Meaning of another value."""


OFF: Final = (False, 0, "none")
"""Values of a switch that is off."""


def check_keys(path: Path, config: Mapping[str, Any], table: Mapping[str, Neutral], prefix: str = "") -> None:
    """Refuse a key that changes what is computed or where.

    Args:
        path: the config's file, for the error.
        config: an object of it.
        table: by key, what changes nothing.
        prefix: where the object lies in the file, such as `metadata.`.

    Raises:
        SaeError: a key of the table has another value.
    """
    for key, neutral in table.items():
        value = config.get(key)
        plain = value.lower() if isinstance(value, str) else value
        if value is None or plain == "" or any(plain == one for one in neutral.values):
            continue
        told = neutral.values[:1] if neutral.values == OFF else neutral.values[:2]
        expected = " or ".join(map(shown, told)) or "no such key"
        raise SaeError(f"{path}: {prefix}{key}: got {shown(value)}, expected {expected}: {neutral.otherwise}")


def check_tensors(path: Path, content: Mapping[str, Any], table: Mapping[str, float]) -> None:
    """Refuse tensors that a formula of steerkit has no place for, unless every number is the one that changes nothing.

    Raises:
        SaeError: one of the table is there, and has other numbers.
    """
    for key, neutral in table.items():
        value = content.get(key)
        if value is None or (isinstance(value, Tensor) and not value.is_meta and bool((value == neutral).all())):
            continue
        raise SaeError(f"{path}: {key}: got a tensor that an SAE of this kind has no place for, expected none")
