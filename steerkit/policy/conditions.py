"""Conditions of rules: trees whose leaves are features and probes with bounds, joined by all, any and not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, product
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from steerkit.policy.edits import Name
from steerkit.policy.frozen import FrozenModel
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


class _Node(FrozenModel):
    """A leaf (a feature or probe with its bounds), or conditions joined by all, any or not."""

    feature: Name | None = None
    probe: Name | None = None
    above: Quantity | None = None
    """Holds strictly above this."""
    below: Quantity | None = None
    """Holds strictly below this."""
    mean_over: _Tokens | None = None
    """Compare the mean of this many tokens up to this one; those outside the place do not count."""

    @property
    def reads(self) -> str:
        """Name of the feature or probe of a leaf; empty for joined conditions."""
        return self.feature or self.probe or ""

    @model_validator(mode="after")
    def _one_source_and_a_bound(self) -> _Node:
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


class Condition(_Node):
    """A part of a gate, at one token."""

    max_over: _Tokens | None = None
    """Compare the largest value of this many tokens up to this one; those outside the place do not count."""
    off_below: Quantity | None = None
    """Hysteresis: once above `above`, it holds until the value is strictly below this."""
    all: Annotated[tuple[Condition, ...], Field(min_length=1)] | None = None
    """Instead of a feature or probe: conditions that must all hold."""
    any: Annotated[tuple[Condition, ...], Field(min_length=1)] | None = None
    """Instead of a feature or probe: conditions of which one must hold."""
    not_: Annotated[Condition | None, Field(alias="not")] = None
    """Instead of a feature or probe: a condition that must not hold."""


class Gate(Condition):
    """Condition of a steering rule, evaluated while the model runs, at every token of its place."""

    at: PlaceName = "any"
    """Tokens at which it is evaluated."""


class GuardCondition(_Node):
    """Condition of a guard rule: the largest value over a place, once the reply is complete."""

    at: PlaceName | None = None
    """Place of the largest value (default: that of the condition around it, else any)."""
    all: Annotated[tuple[GuardCondition, ...], Field(min_length=1)] | None = None
    """Instead of a feature or probe: conditions that must all hold."""
    any: Annotated[tuple[GuardCondition, ...], Field(min_length=1)] | None = None
    """Instead of a feature or probe: conditions of which one must hold."""
    not_: Annotated[GuardCondition | None, Field(alias="not")] = None
    """Instead of a feature or probe: a condition that must not hold."""


def children_of(condition: Any) -> tuple[Any, ...]:
    """The conditions that a condition joins; none for a leaf."""
    inner = (condition.not_,) if condition.not_ is not None else ()
    return (*(condition.all or ()), *(condition.any or ()), *inner)


def leaves_of(condition: Any) -> Iterator[Any]:
    """The leaves of a condition, in order."""
    if condition.reads:
        yield condition
    for part in children_of(condition):
        yield from leaves_of(part)


Literals: TypeAlias = tuple[tuple[Any, str, bool], ...]
"""Leaves that decide together: each with its place, and True if it must hold, False if it must not."""


def alternatives(condition: Any, at: str, most: int, wanted: bool = True) -> Iterator[Literals]:
    """The disjunctive normal form of a condition: it is `wanted` exactly where all literals of an alternative are.

    Args:
        condition: any node.
        at: its place, where it says none.
        most: more alternatives of one part than this are not multiplied out; take no more than `most + 1` of all.
        wanted: False for the form of its negation.
    """
    at = getattr(condition, "at", None) or at
    if condition.reads:
        yield ((condition, at, wanted),)
    elif condition.not_ is not None:
        yield from alternatives(condition.not_, at, most, not wanted)
    elif (condition.all is not None) == wanted:  # De Morgan's laws
        parts = [list(islice(alternatives(part, at, most, wanted), most + 1)) for part in children_of(condition)]
        yield from (sum(choice, ()) for choice in product(*parts))
    else:
        for part in children_of(condition):
            yield from alternatives(part, at, most, wanted)


def _in_order(low: float | str, high: float | str, *, strict: bool) -> bool:
    """True if two quantities are in order, or may be, as they have different units."""
    (one, one_unit), (other, other_unit) = split_quantity(low), split_quantity(high)
    return one_unit != other_unit or (one < other if strict else one <= other)
