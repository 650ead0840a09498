"""Variants of a policy: the policy, its parts, its controls, and its edit in several doses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Final, Literal, NamedTuple, TypeAlias

from torch import Tensor

from steerkit.lab.prove import baselines
from steerkit.lab.prove.baselines import Setup
from steerkit.lab.prove.scoring import Outcome
from steerkit.policy import Policy, fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Site

PLAIN: Final = "unsteered"
WHOLE: Final = "policy"
DOSES: Final = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Multiples of the policy's edit."""

Kind: TypeAlias = Literal["policy", "control", "beside", "rule", "dose", "ungated"]
"""`beside`: another policy; `dose`: the edit times a factor, `ungated`: the same without the rules' gates."""
Done: TypeAlias = Mapping[str, Sequence[Outcome]]
"""The outcomes of the variants that are finished, by their key."""
Directions: TypeAlias = Callable[[], Sequence[Mapping[tuple[str, Site], Tensor]]]
"""By rule and layer, the difference of the means; one for each half of the conversations, taken from the other."""


class Variant(NamedTuple):
    """One way to run all conversations."""

    key: str
    """Equal keys are the same variant: it is run once."""
    title: str
    kind: Kind
    make: Callable[[Done], Sequence[Setup]]
    """One setup for all conversations, or one for each half of them; none where it cannot be made."""
    guarded: bool = False
    """A guard judges its calls."""
    dose: float | None = None
    late: bool = False
    """Made of other variants' outcomes, so it is run after them."""
    like: str | None = None
    """Key of a variant with the same gates and the same lengths up to a factor, which is run first: in a conversation
    in which that wrote nothing this one writes nothing either, so that its outcome there is that one's."""


def variants_of(
    policy: Policy,
    saes: SaeSet | None,
    *,
    ask: str,
    seeds: int,
    doses: Sequence[float],
    directions: Directions,
    beside: Sequence[Policy] = (),
) -> list[Variant]:
    """All variants of a policy, in the order in which they are run, but for those that are late or like another.

    Args:
        policy: raw, and enforcing.
        saes: the set; None for a policy that names no feature.
        ask: what the developer's text says in the prompt-only variant.
        seeds: how many random controls.
        doses: multiples of the edit.
        directions: makes the differences of the means, once they are needed.
        beside: other policies, raw and enforcing.
    """
    guarded = policy.guard is not None
    variants = [
        Variant(PLAIN, "unsteered", "control", _always(Setup())),
        Variant(WHOLE, "whole policy", "policy", _always(Setup(policy)), guarded),
        Variant("asking", "prompt only: the developer's text asks for it", "control", _always(Setup(ask=ask))),
    ]
    steering = bool(baselines.acting_rules(policy)) and (saes is not None or not policy.features)
    if steering and guarded:
        variants.append(Variant("guard", "guard only", "policy", _always(Setup(baselines.guard_only(policy))), True))
    if steering:
        variants += _steering(baselines.steering_only(policy), saes, seeds, doses, directions)
    for other in beside:
        key, judged = f"beside-{other.name}-{fingerprint(other)[-8:]}", other.guard is not None
        variants.append(Variant(key, other.name, "beside", _always(Setup(other)), judged))
    return variants + _rules(policy, saes, steering)


def ungated_key(factor: float) -> str:
    """The key of the edit times a factor without gates."""
    return f"ungated{factor:+g}"


def dose_key(factor: float) -> str:
    """The key of the edit times a factor, without the guard."""
    return f"dose{factor:+g}"


def _steering(
    policy: Policy, saes: SaeSet | None, seeds: int, doses: Sequence[float], directions: Directions
) -> list[Variant]:
    """Steering alone, its controls and its doses."""

    def scaled(factor: float) -> Callable[[Done], Sequence[Setup]]:
        return partial(_scaled, saes, policy, factor)

    def random(seed: int) -> Callable[[Done], Sequence[Setup]]:
        turned = baselines.random_directions(policy, seed)
        return lambda _: [Setup(turned, None if saes is None else baselines.random_features(saes, policy, seed))]

    def means(done: Done) -> Sequence[Setup]:
        norms = written_norms(done[dose_key(1)])
        if saes is None or not norms or not baselines.edited_features(policy):
            return []
        setups = [baselines.along(saes, policy, one, norms) for one in directions()]
        return setups if all(setup.policy is not None and setup.policy.steer for setup in setups) else []

    own = dose_key(1)
    same = None if baselines.reads_what_it_adds(policy) else own
    found = [
        Variant(own, "steering only", "policy", _always(Setup(policy)), dose=1.0),
        *(
            Variant(f"random{seed}", f"random features, same norm (seed {seed})", "control", random(seed), like=same)
            for seed in range(seeds)
        ),
        Variant(dose_key(-1), "opposite sign", "control", scaled(-1), like=own),
        Variant("means", "difference of means, same norm", "control", means, late=True),
    ]
    for dose in sorted(doses):
        key, like = (PLAIN, None) if dose == 0 else (dose_key(dose), None if dose == 1 else own)
        make = scaled(dose) if dose not in (0, 1) else _always(Setup(policy if dose else None))
        found.append(Variant(key, f"{dose:g} x the edit", "dose", make, dose=dose, like=like))
    open_always = baselines.without_gates(policy)
    for dose in sorted(doses) if open_always != policy else ():
        title, setup = f"{dose:g} x the edit, no gate", partial(_scaled, saes, open_always, dose)
        key, make = (PLAIN, _always(Setup())) if dose == 0 else (ungated_key(dose), setup)
        found.append(Variant(key, title, "ungated", make, dose=dose))
    return found


def _scaled(saes: SaeSet | None, policy: Policy, factor: float, _: Done) -> Sequence[Setup]:
    return [Setup(baselines.added(policy, factor), baselines.scaled(saes, policy, factor))]


def _rules(policy: Policy, saes: SaeSet | None, steering: bool) -> list[Variant]:
    """Each rule by itself; where it is all the steering or all the guard there is, that variant."""
    only = fingerprint(baselines.steering_only(policy)) if steering and policy.write_back == "delta" else ""
    guard = fingerprint(baselines.guard_only(policy)) if steering and policy.guard is not None else ""
    found = []
    for name, alone in baselines.single_rules(policy).items():
        same = fingerprint(baselines.steering_only(alone)) == only
        key = dose_key(1) if same and alone.guard is None else f"rule-{name}"
        key = "guard" if fingerprint(alone) == guard else key
        found.append(Variant(key, name, "rule", _always(Setup(alone)), alone.guard is not None))
    return found


def written_norms(outcomes: Sequence[Outcome]) -> dict[tuple[str, Site], float]:
    """By rule and layer, the mean over conversations of the largest norm that steering wrote, where it wrote."""
    found: dict[tuple[str, Site], list[float]] = {}
    for outcome in outcomes:
        for rule, site, norm in outcome.edits:
            found.setdefault((rule, Site.of(site)), []).append(norm)
    return {key: fmean(norms) for key, norms in found.items()}


def _always(setup: Setup) -> Callable[[Done], Sequence[Setup]]:
    return lambda _: [setup]
