"""Numbers of a policy: raw activations, or multiples of a feature's own statistic such as `"1.5 max"`."""

from __future__ import annotations

import math
import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

UNITS = ("max", "mean", "std", "q50", "q90", "q99", "q999")
"""Statistics of a feature that a quantity may be a multiple of."""

_QUANTITY = rf"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?) ({'|'.join(UNITS)})"


def split_quantity(quantity: float | str) -> tuple[float, str | None]:
    """Number and unit of a quantity; a raw value has the unit None.

    Raises:
        ValueError: the text is no number and unit.
    """
    if not isinstance(quantity, str):
        return quantity, None
    match = re.fullmatch(_QUANTITY, quantity)
    if match is None:
        raise ValueError(f"expected a number, or a number and a unit such as '1.5 max' (units: {', '.join(UNITS)})")
    return float(match[1]), match[2]


def _checked(quantity: object) -> float | str:
    if isinstance(quantity, bool) or not isinstance(quantity, (int, float, str)):
        raise ValueError("expected a number, or a number and a unit such as '1.5 max'")
    try:
        finite = math.isfinite(split_quantity(quantity)[0])
    except OverflowError:  # an integer that no float can hold
        finite = False
    if not finite:
        raise ValueError("expected a finite number")
    return quantity if isinstance(quantity, str) else float(quantity) + 0.0


Finite: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False), AfterValidator(lambda value: value + 0.0)]
"""A finite number; there is one zero, as equal policies have equal fingerprints."""
Quantity: TypeAlias = Annotated[
    float | str,
    BeforeValidator(_checked),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_QUANTITY}$"}]}),
]
"""A raw activation, or a multiple of the feature's own statistic such as `"1.5 max"` or `"3 std"`."""
