"""When a rule applies: bounds on features and probes, joined by all, any and not, read at a place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from steerkit.policy.edits import FrozenModel, Name
from steerkit.policy.quantities import Quantity, split_quantity
from steerkit.types import PLACES

_ARGUMENT = r"call\.arguments\.[A-Za-z0-9_.-]+"
_HOLD = r"token|turn|[1-9][0-9]{0,5} tokens"


def _checked_place(place: object) -> str:
    if not isinstance(place, str) or (place not in PLACES and not re.fullmatch(_ARGUMENT, place)):
        raise ValueError(f"expected one of {', '.join(PLACES)} or call.arguments.NAME")
    return place


def _checked_hold(hold: object) -> str:
    if not isinstance(hold, str) or not re.fullmatch(_HOLD, hold):
        raise ValueError("expected token, turn, or a number of tokens such as '5 tokens'")
    return hold


PlaceName: TypeAlias = Annotated[
    str,
    BeforeValidator(_checked_place),
    WithJsonSchema({"anyOf": [{"enum": list(PLACES)}, {"type": "string", "pattern": f"^{_ARGUMENT}$"}]}),
]
Hold: TypeAlias = Annotated[
    str, BeforeValidator(_checked_hold), WithJsonSchema({"type": "string", "pattern": f"^({_HOLD})$"})
]
_Tokens: TypeAlias = Annotated[int, Field(strict=True, ge=2, le=4096)]


class _Reading(FrozenModel):
    """What is read and its bounds; or conditions joined by all, any or not."""

    feature: Name | None = None
    probe: Name | None = None
    above: Quantity | None = None
    """Holds strictly above this."""
    below: Quantity | None = None
    """Holds strictly below this."""
    mean_over: _Tokens | None = None
    """Read the mean of this many tokens up to this one; those outside the place do not count."""

    @property
    def reads(self) -> str:
        """Name of the feature or probe; empty for joined conditions."""
        return self.feature or self.probe or ""

    @model_validator(mode="after")
    def _one_source_and_a_bound(self) -> _Reading:
        fields = type(self).model_fields
        kinds = ("feature", "probe", "all", "any", "not_")
        given = [fields[kind].alias or kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            got = f"{' and '.join(given)}; " if given else ""
            raise ValueError(f"{got}expected exactly one of feature, probe, all, any and not")
        off_below, max_over = (getattr(self, key, None) for key in ("off_below", "max_over"))
        bounds = [self.above, self.below, off_below]
        if given[0] not in ("feature", "probe"):
            if any(value is not None for value in (*bounds, max_over, self.mean_over)):
                raise ValueError(f"expected bounds and windows inside '{given[0]}', beside a feature or probe")
            return self
        if self.above is None and self.below is None:
            raise ValueError("expected above, below or both")
        if self.probe is not None and any(isinstance(value, str) for value in bounds):
            raise ValueError("expected raw numbers: a probe is a sum and has no unit")
        if max_over is not None and self.mean_over is not None:
            raise ValueError("expected max_over or mean_over, not both")
        if off_below is not None and self.above is None:
            raise ValueError("expected above beside off_below: it opens above the one and closes below the other")
        if self.above is not None and self.below is not None and not _in_order(self.above, self.below, strict=True):
            raise ValueError(f"expected above ({self.above}) to be less than below ({self.below})")
        if self.above is not None and off_below is not None and not _in_order(off_below, self.above, strict=False):
            raise ValueError(f"expected off_below ({off_below}) to be at most above ({self.above})")
        if self.feature is not None and self.below is not None and split_quantity(self.below)[0] <= 0:
            raise ValueError(f"got below {self.below}: a feature is never less than 0, so this can never hold")
        return self


class Condition(_Reading):
    """A part of a gate, at one token."""

    max_over: _Tokens | None = None
    """Read the largest value of this many tokens up to this one; those outside the place do not count."""
    off_below: Quantity | None = None
    """Hysteresis: once above `above`, it holds until the value is strictly below this."""
    all: Annotated[tuple[Condition, ...], Field(min_length=1)] | None = None
    """Instead of a reading: conditions that must all hold."""
    any: Annotated[tuple[Condition, ...], Field(min_length=1)] | None = None
    """Instead of a reading: conditions of which one must hold."""
    not_: Annotated[Condition | None, Field(alias="not")] = None
    """Instead of a reading: a condition that must not hold."""


class Gate(Condition):
    """When a steering rule acts. It is read while the model runs, at every token of its place."""

    at: PlaceName = "any"
    """Tokens at which it is read."""


class GuardCondition(_Reading):
    """When a guard rule matches: the largest value over a place, once the reply is there."""

    at: PlaceName | None = None
    """Where the largest value is looked for (default: what the condition around it says, else any)."""
    all: Annotated[tuple[GuardCondition, ...], Field(min_length=1)] | None = None
    """Instead of a reading: conditions that must all hold."""
    any: Annotated[tuple[GuardCondition, ...], Field(min_length=1)] | None = None
    """Instead of a reading: conditions of which one must hold."""
    not_: Annotated[GuardCondition | None, Field(alias="not")] = None
    """Instead of a reading: a condition that must not hold."""


When: TypeAlias = "Gate | Literal['retry']"


def children_of(condition: Any) -> tuple[Any, ...]:
    """The conditions that a condition joins; none for a reading."""
    inner = (condition.not_,) if condition.not_ is not None else ()
    return (*(condition.all or ()), *(condition.any or ()), *inner)


def leaves_of(condition: Any) -> Iterator[Any]:
    """The readings in a condition, in order."""
    if condition.reads:
        yield condition
    for part in children_of(condition):
        yield from leaves_of(part)


def _in_order(low: float | str, high: float | str, *, strict: bool) -> bool:
    """Whether two quantities are in order; those of different units may be."""
    (one, one_unit), (other, other_unit) = split_quantity(low), split_quantity(high)
    return one_unit != other_unit or (one < other if strict else one <= other)
