"""Chooses the bounds of a policy for a wanted rate of false positives, from what its features showed in conversations.

A condition is taken by itself. For one conversation it comes to one value: the largest at its place, or the smallest
where a gate asks for what is below a bound. The new bound is the tightest that at most a share `rate` of the benign
conversations are beyond; where nearly all positive ones lie further, it moves a quarter of the way towards them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from steerkit.engine import Sampling
from steerkit.errors import PolicyError, SaeError
from steerkit.lab.corpus import Conversation
from steerkit.lab.finding import Share
from steerkit.lab.mapping import Mapper, batches, in_this_process
from steerkit.lab.policy_readings import PlacedReading, placed_readings
from steerkit.lab.separation import bound_between
from steerkit.lab.trials import read_conversations
from steerkit.policy import Policy, Statistic, split_quantity, watch_key
from steerkit.runtime import Request, Runtime
from steerkit.types import Trace

_ROWS: Final = 32


@dataclass(frozen=True)
class Calibrated:
    """One bound, old and new."""

    reading: PlacedReading
    key: str
    """`above` or `below`."""
    old: float
    """Raw."""
    new: float
    quantity: float | str
    """The new bound in the unit of the old one."""
    false: tuple[Share, Share]
    """Benign conversations with a value at the place that are beyond the old and the new bound."""
    recall: tuple[Share, Share]
    """The same of the positive ones; of none where there are none."""

    @property
    def condition(self) -> str:
        """Such as `asked above`."""
        return f"{self.reading.reading.reads} {self.key}"


class Calibration(NamedTuple):
    """The bounds of a policy."""

    bounds: tuple[Calibrated, ...]
    left: tuple[str, ...]
    """What was left as it is, and why."""


Values = Callable[[PlacedReading], Sequence[float]]
"""What a reading came to, a value for each conversation with a token at the place; raises SaeError where unknown."""


def watching(policy: Policy) -> Policy:
    """The policy in shadow mode, with everything that its conditions read kept in the trace."""
    names = dict.fromkeys([*policy.trace.watch, *(one.reading.reads for one in placed_readings(policy))])
    trace = policy.trace.model_copy(update={"watch": tuple(names), "top_k": 0})
    return policy.model_copy(update={"mode": "shadow", "trace": trace})


def value_of(policy: Policy, one: PlacedReading, trace: Trace) -> float | None:
    """What a reading came to in one turn; None where no token stood at its place.

    Raises:
        SaeError: it was not watched.
    """
    name = one.reading.reads
    values = trace.watched.get(watch_key(policy, name))
    if values is None:
        raise SaeError(f"'{name}' was not traced; add it to trace.watch of policy {policy.name}, and run again")
    steps = [step for span in trace.places.get(one.place, ()) for step in range(*span)]
    here = {step: values[step - trace.start] for step in steps if 0 <= step - trace.start < len(values)}
    if not here:
        return None
    read = _windowed(one, here)
    return min(read) if one.gate and one.reading.above is None else max(read)


def values_in(
    runtime: Runtime,
    policy: Policy,
    path: Path,
    *,
    limit: int | None = None,
    max_new_tokens: int = 128,
    mapper: Mapper | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Values:
    """What a policy's conditions come to in the conversations of a file: the model answers each with it in shadow mode.

    `mapper` does the batches of conversations (default: this process).

    Raises:
        SaeError: the file cannot be read, or holds no conversations.
        PolicyError: the policy does not fit the model.
    """
    rows = read_conversations(path, limit)
    answered = mapper or in_this_process(lambda: runtime)
    work, traces = partial(_traces, watching(policy), Sampling(max_new_tokens)), list[Trace]()
    for some in answered(work, batches(rows, _ROWS)):
        traces += some
        if report is not None:
            report(len(traces), len(rows))

    def values(one: PlacedReading) -> list[float]:
        return [value for trace in traces if (value := value_of(policy, one, trace)) is not None]

    return values


def _traces(policy: Policy, sampling: Sampling, runtime: Runtime, some: Sequence[Conversation]) -> list[Trace]:
    """The traces of conversations that are answered together."""
    requests = [Request(one.asked, one.tools, policy, sampling) for one in some]
    return [turn.trace for turn in runtime.run_batch(requests)]


def calibrate(
    policy: Policy, benign: Values, positive: Values | None, rate: float, statistic: Statistic | None
) -> Calibration:
    """New bounds for all conditions that have one side.

    Args:
        policy: as its file says it.
        benign: values of benign conversations.
        positive: values of those that the conditions are meant for.
        rate: share of the benign conversations that each condition may hold for.
        statistic: for quantities in multiples of one.

    Raises:
        PolicyError: the policy has no bounds.
        SaeError: values that are not known, or no benign conversation has one.
    """
    readings = placed_readings(policy)
    if not readings:
        raise PolicyError([f"policy '{policy.name}': it has no gates and no evidence, so there is no bound to choose"])
    bounds, left = [], []
    for one in readings:
        said = f"{one.rule}: {one.reading.reads} at {one.place}"
        if one.inverted:
            left.append(f"{said}: it stands inside not")
        elif one.reading.above is not None and one.reading.below is not None:
            left.append(f"{said}: it has a bound on both sides")
        else:
            values = list(benign(one))
            if not values:
                left.append(f"{said}: no benign conversation has a token there")
                continue
            bounds.append(_calibrated(policy, one, values, list(positive(one)) if positive else [], rate, statistic))
    return Calibration(tuple(bounds), tuple(left))


def with_bounds(policy: Policy, bounds: Sequence[Calibrated]) -> Policy:
    """The policy with new bounds; a hysteresis keeps its distance where that is raw, else it is kept below."""
    data: dict[str, Any] = policy.model_dump(exclude_none=True)
    for one in bounds:
        part: Any = data
        for key in one.reading.location:
            part = part[key]
        part[one.key] = one.quantity
        off = part.get("off_below")
        if off is not None:
            kept = off + one.new - one.old if not isinstance(off, str) else one.quantity
            part["off_below"] = kept
    return Policy.model_validate(data)


def _calibrated(
    policy: Policy,
    one: PlacedReading,
    benign: Sequence[float],
    positive: Sequence[float],
    rate: float,
    statistic: Statistic | None,
) -> Calibrated:
    key = "above" if one.reading.above is not None else "below"
    sign = 1.0 if key == "above" else -1.0
    said = one.reading.above if one.reading.above is not None else one.reading.below
    assert said is not None  # one of the two is given
    number, unit = split_quantity(said)
    scale = 1.0
    if unit is not None:
        if statistic is None:
            raise SaeError(f"{one.rule}: got {said!r}, a multiple of a statistic; name the SAEs with --saes")
        scale = statistic(policy.features[one.reading.reads].site, unit)
    negatives = sign * torch.tensor(benign, dtype=torch.float64)
    positives = sign * torch.tensor(positive, dtype=torch.float64)
    bound = bound_between(positives if len(positives) else negatives, negatives, rate)
    rounded = float(f"{bound:.6g}")
    new = sign * (rounded if rounded >= bound else bound)
    quantity: float | str = new if unit is None else f"{new / scale:.8g} {unit}" if scale else said

    def beyond(values: torch.Tensor, at: float) -> Share:
        return Share(int((values > sign * at).sum()), len(values))

    old = number * scale
    return Calibrated(
        one,
        key,
        old,
        new,
        quantity,
        (beyond(negatives, old), beyond(negatives, new)),
        (beyond(positives, old), beyond(positives, new)),
    )


def _windowed(one: PlacedReading, here: Mapping[int, float]) -> list[float]:
    """Each step's value, or what its window comes to where there is one; steps elsewhere do not count."""
    largest = getattr(one.reading, "max_over", None)
    size = one.reading.mean_over or largest
    if size is None:
        return list(here.values())
    found = []
    for step in here:
        some = [here[before] for before in range(step - size + 1, step + 1) if before in here]
        found.append(max(some) if largest else sum(some) / len(some))
    return found
