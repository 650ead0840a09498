"""The budget of a validation, counted in steps and not in time, so that a verdict is the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

STEPS: Final = 500_000
"""Steps of one validation, about a second at most; each value costs one."""
KEYWORD: Final = 10
"""Steps of a keyword at a value; more if either is large."""
MAX_DEPTH: Final = 64
"""Most levels of a value."""
MAX_APPLIED: Final = 150
"""Most schemas applied inside each other; checking a schema takes six a level and is allowed more."""
MAX_DIGITS: Final = 4_300
"""Most digits of an integer, as Python's own limit."""


class BudgetError(ValueError):
    """A value or a schema that takes more work than the budget, or that is not JSON."""


class Budget:
    """Steps that are left, and the depth."""

    def __init__(self, value: Any, steps: int = STEPS, deepest: int = MAX_APPLIED) -> None:
        self.left, self.depth, self.deepest = steps, 0, deepest
        self._sizes: dict[int, int] = {}
        self._weigh(value, 0)

    def spend(self, steps: int) -> None:
        """Take steps before they run. Raises BudgetError."""
        self.left -= steps
        if self.left < 0:
            raise BudgetError("it takes more than the steps that a validation may have; expected something simpler")

    def size(self, value: Any) -> int:
        """Rough length of a value in characters: the cost of writing it into a message."""
        return len(value) if isinstance(value, str) else self._sizes.get(id(value), 8)

    def _weigh(self, value: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise BudgetError(f"a value that is too deep, with more than {MAX_DEPTH} levels")
        self.spend(1)
        if isinstance(value, str):
            return len(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise BudgetError(f"{value}, which is no JSON")
        if isinstance(value, int) and value.bit_length() > MAX_DIGITS * math.log2(10):
            raise BudgetError(f"an integer of more than {MAX_DIGITS} digits")
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                raise BudgetError("a key that is no text")
            size = sum(len(key) + self._weigh(item, depth + 1) for key, item in value.items())
        elif isinstance(value, list | tuple):
            size = sum(self._weigh(item, depth + 1) for item in value)
        else:
            return 8
        self._sizes[id(value)] = size
        return size


CURRENT: ContextVar[Budget] = ContextVar("steerkit_schemas_budget")
"""Budget of the running validation."""
