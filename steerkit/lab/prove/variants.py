"""Which arms a policy is proved by: the policy, its parts, its controls, and its edit in several doses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Final, Literal, NamedTuple, TypeAlias

from torch import Tensor

from steerkit.lab.prove import baselines as controls
from steerkit.lab.prove.baselines import Setup
from steerkit.lab.prove.scoring import Outcome
from steerkit.policy import Policy, fingerprint
from steerkit.sae import SaeSet
from steerkit.types import Site

PLAIN: Final = "unsteered"
WHOLE: Final = "policy"
DOSES: Final = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Multiples of the policy's edit."""

Kind: TypeAlias = Literal["policy", "control", "rule", "dose", "ungated"]
"""`dose`: the edit times a factor, `ungated`: the same without the rules' gates."""
Done: TypeAlias = Mapping[str, Sequence[Outcome]]
"""The outcomes of the arms that are finished, by their key."""
Directions: TypeAlias = Callable[[], Sequence[Mapping[tuple[str, Site], Tensor]]]
"""By rule and layer, the difference of the means; one for each half of the conversations, taken from the other."""


class Arm(NamedTuple):
    """One way to run all conversations."""

    key: str
    """Equal keys are the same arm: it is run once."""
    title: str
    kind: Kind
    make: Callable[[Done], Sequence[Setup]]
    """One setup for all conversations, or one for each half of them; none where it cannot be made."""
    guarded: bool = False
    """Whether a guard judges its calls."""
    dose: float | None = None
    late: bool = False
    """Whether it is made of what others came to, so that it is run after them."""


def arms_of(
    policy: Policy, saes: SaeSet | None, *, ask: str, seeds: int, doses: Sequence[float], directions: Directions
) -> list[Arm]:
    """All arms of a policy, in the order in which they are run, but for the late ones.

    Args:
        policy: raw, and enforcing.
        saes: the set; None for a policy that names no feature.
        ask: what the developer's text says in the prompt-only arm.
        seeds: how many random controls.
        doses: multiples of the edit.
        directions: makes the differences of the means, once they are needed.
    """
    guarded = policy.guard is not None
    arms = [
        Arm(PLAIN, "unsteered", "control", _always(Setup())),
        Arm(WHOLE, "whole policy", "policy", _always(Setup(policy)), guarded),
        Arm("asking", "prompt only: the developer's text asks for it", "control", _always(Setup(ask=ask))),
    ]
    steering = bool(controls.acting_rules(policy)) and saes is not None
    if steering and guarded:
        arms.append(Arm("guard", "guard only", "policy", _always(Setup(controls.guard_only(policy))), True))
    if steering and saes is not None:
        arms += _steering(controls.steering_only(policy), saes, seeds, doses, directions)
    return arms + _rules(policy, saes, steering)


def ungated_key(factor: float) -> str:
    """The key of the edit times a factor without gates."""
    return f"ungated{factor:+g}"


def dose_key(factor: float) -> str:
    """The key of the edit times a factor, without the guard."""
    return f"dose{factor:+g}"


def _steering(policy: Policy, saes: SaeSet, seeds: int, doses: Sequence[float], directions: Directions) -> list[Arm]:
    """Steering alone, its controls and its doses."""

    def scaled(factor: float) -> Callable[[Done], Sequence[Setup]]:
        return partial(_scaled, saes, policy, factor)

    def random(seed: int) -> Callable[[Done], Sequence[Setup]]:
        return lambda _: [Setup(policy, controls.random_features(saes, policy, seed))]

    def means(done: Done) -> Sequence[Setup]:
        norms = written_norms(done[dose_key(1)])
        setups = [controls.along(saes, policy, one, norms) for one in directions()] if norms else []
        return setups if all(setup.policy is not None and setup.policy.steer for setup in setups) else []

    found = [
        Arm(dose_key(1), "steering only", "policy", _always(Setup(policy)), dose=1.0),
        *(
            Arm(f"random{seed}", f"random features, same norm (seed {seed})", "control", random(seed))
            for seed in range(seeds)
        ),
        Arm(dose_key(-1), "opposite sign", "control", scaled(-1)),
        Arm("means", "difference of means, same norm", "control", means, late=True),
    ]
    for dose in sorted(doses):
        make = scaled(dose) if dose != 1 else _always(Setup(policy))
        found.append(Arm(dose_key(dose), f"{dose:g} x the edit", "dose", make, dose=dose))
    open_always = controls.without_gates(policy)
    for dose in sorted(doses) if open_always != policy else ():
        setup = partial(_scaled, saes, open_always, dose)
        found.append(Arm(ungated_key(dose), f"{dose:g} x the edit, no gate", "ungated", setup, dose=dose))
    return found


def _scaled(saes: SaeSet, policy: Policy, factor: float, _: Done) -> Sequence[Setup]:
    return [Setup(policy, controls.scaled(saes, policy, factor))]


def _rules(policy: Policy, saes: SaeSet | None, steering: bool) -> list[Arm]:
    """Each rule by itself; where it is all the steering there is, that arm."""
    only = fingerprint(controls.steering_only(policy)) if steering and policy.write_back == "delta" else ""
    found = []
    for name, alone in controls.single_rules(policy).items():
        same = fingerprint(controls.steering_only(alone)) == only
        key = dose_key(1) if same and alone.guard is None else f"rule-{name}"
        found.append(Arm(key, name, "rule", _always(Setup(alone)), alone.guard is not None))
    return found


def written_norms(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], float]:
    """By rule and layer, the mean over conversations of the largest norm that steering wrote, where it wrote."""
    found: dict[tuple[str, int], list[float]] = {}
    for outcome in outcomes:
        for rule, site, norm in outcome.edits:
            found.setdefault((rule, Site.of(site)), []).append(norm)
    return {key: fmean(norms) for key, norms in found.items()}


def _always(setup: Setup) -> Callable[[Done], Sequence[Setup]]:
    return lambda _: [setup]
