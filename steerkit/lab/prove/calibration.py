"""Chooses the bounds of a policy for a wanted rate of false positives, from what its features showed in conversations.

A condition is taken by itself. For one conversation it comes to one value: the largest at its place, or the smallest
where a gate asks for what is below a bound. The new bound is the tightest that a new benign conversation, drawn as
those were, is beyond with a chance of at most `rate` (split conformal prediction); where nearly all positive ones lie
further, it moves a quarter of the way towards them. Copies of a conversation, and those that a row's `group` names
together, count once: by the value that is furthest beyond, in the positive ones by that which is least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.errors import PolicyError, SaeError
from steerkit.guard import windowed
from steerkit.lab.copies import copies_of, said
from steerkit.lab.corpus import Conversation
from steerkit.lab.extra import check_extra
from steerkit.lab.measured import Share
from steerkit.lab.policy_conditions import PlacedReading, placed_readings
from steerkit.lab.prove.dataset import read_conversations
from steerkit.lab.two_sample import beyond_upto, bound_between, conformal_rank, fewest_for
from steerkit.lab.workers.local import Mapper, batches, in_this_process
from steerkit.policy import Policy, Statistic, split_quantity, watch_key
from steerkit.runtime import Request
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
    """Shares of the positive ones beyond the old and the new bound; of none where there are none."""
    rank: int
    """Benign values that may lie beyond the new bound."""

    @property
    def mean_rate(self) -> float:
        """The chance, at most, that a new benign conversation is beyond the new bound."""
        return (self.rank + 1) / (self.false[1].count + 1)

    @property
    def upto(self) -> float:
        """The share of new benign conversations beyond this very bound, at most, with a confidence of 95 %."""
        return beyond_upto(self.false[1].count, self.rank)

    @property
    def condition(self) -> str:
        """Such as `asked above`."""
        return f"{self.reading.reading.reads} {self.key}"


class Calibration(NamedTuple):
    """The bounds of a policy."""

    bounds: tuple[Calibrated, ...]
    left: tuple[str, ...]
    """Conditions that were left unchanged, and why."""


Values = Callable[[PlacedReading], Sequence[float]]
"""Values of a reading, one for each conversation with a token at the place, of copies one; raises SaeError where
unknown."""


@dataclass(frozen=True)
class Answered:
    """Values of a policy's conditions in conversations, of which some are copies of others."""

    policy: Policy
    traces: Sequence[Trace]
    groups: Sequence[int]
    """Group of each trace; copies count once."""
    least: bool = False
    """A group counts by its value least beyond a bound; else by the one furthest beyond."""
    notes: tuple[str, ...] = ()
    """Notes on conversations that count once."""

    def __call__(self, one: PlacedReading) -> list[float]:
        """A value for each group with a token at the place."""
        found: dict[int, list[float]] = {}
        for group, trace in zip(self.groups, self.traces, strict=True):
            value = value_of(self.policy, one, trace)
            if value is not None:
                found.setdefault(group, []).append(value)
        pick = max if (one.reading.above is not None) is not self.least else min
        return [pick(values) for values in found.values()]


def watching(policy: Policy) -> Policy:
    """The policy in shadow mode, with everything that its conditions read kept in the trace."""
    names = dict.fromkeys([*policy.trace.watch, *(one.reading.reads for one in placed_readings(policy))])
    trace = policy.trace.model_copy(update={"watch": tuple(names), "top_k": 0})
    return policy.model_copy(update={"mode": "shadow", "trace": trace})


def value_of(policy: Policy, one: PlacedReading, trace: Trace) -> float | None:
    """Value of a reading in one turn; None where no token stood at its place.

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
    read = windowed(here, one.reading.mean_over, getattr(one.reading, "max_over", None)).values()
    return min(read) if one.gate and one.reading.above is None else max(read)


def values_in(
    runtime: Runtime,
    policy: Policy,
    path: Path,
    *,
    limit: int | None = None,
    max_new_tokens: int = 128,
    least: bool = False,
    mapper: Mapper | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Answered:
    """Values of a policy's conditions in conversations, each answered by the model with the policy in shadow mode.

    `mapper` does the batches of conversations (default: this process). For `least` see `Answered`.

    Raises:
        SaeError: the file cannot be read, or holds no conversations.
        PolicyError: the policy does not fit the model.
    """
    given = read_conversations(path, limit)
    rows = list({one.key: one for one in reversed(given)}.values())[::-1]
    groups = copies_of(
        [[one.key] for one in rows], [said(one.asked) for one in rows], [one.group for one in rows]
    ).groups
    notes = (f"{path}: {len(given)} conversations of which {len(set(groups))} differ; copies count once",)
    answered = mapper or in_this_process(lambda: runtime)
    work, traces = partial(_traces, watching(policy), Sampling(max_new_tokens)), list[Trace]()
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].key))  # the longest of a batch makes the others wait
    for some in answered(work, batches([rows[row] for row in order], _ROWS)):
        traces += some
        if report is not None:
            report(len(traces), len(rows))
    own = [groups[row] for row in order]
    return Answered(policy, traces, own, least, notes if len(set(groups)) < len(given) else ())


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
        rate: the chance that each condition may have to hold for a new benign conversation, above 0.
        statistic: for quantities in multiples of one.

    Raises:
        MissingExtraError: scipy is not installed.
        PolicyError: the policy has no bounds.
        SaeError: values that are not known, or so few everywhere that they cannot show such a rate.
    """
    check_extra("choosing bounds")
    if not 0 < rate <= 0.5:
        raise SaeError(
            f"--rate: got {rate:g}, expected above 0, as no number of conversations shows a rate of 0, to 0.5"
        )
    readings = placed_readings(policy)
    if not readings:
        raise PolicyError([f"policy '{policy.name}': it has no gates and no evidence, so there is no bound to choose"])
    bounds, left, few = [], list[str](), list[str]()
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
            if conformal_rank(len(values), rate) < 0:
                few.append(f"{said}: {len(values)} different conversations have a token there")
                continue
            bounds.append(_calibrated(policy, one, values, list(positive(one)) if positive else [], rate, statistic))
    needed = f"expected at least {fewest_for(rate)} to show a rate of {100 * rate:g} %"
    if few and not bounds:
        raise SaeError(f"too few benign conversations: {'; '.join(few)}; {needed}; give more, or a higher --rate")
    return Calibration(tuple(bounds), (*left, *(f"{line}, {needed}" for line in few)))


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
        scale = statistic(policy.features[one.reading.reads].feature, unit)
    negatives = sign * torch.tensor(benign, dtype=torch.float64)
    positives = sign * torch.tensor(positive, dtype=torch.float64)
    bound = bound_between(positives, negatives, rate)
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
        conformal_rank(len(negatives), rate),
    )
