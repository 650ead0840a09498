"""Found features as a policy in shadow mode, which decides nothing until a person says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.errors import SaeError
from steerkit.files import write_text_atomic
from steerkit.lab.directions import origin_of, write_direction
from steerkit.lab.find.probes import FoundProbe
from steerkit.lab.find.search import Condition, Found, FoundFeature
from steerkit.lab.find.steering_edits import STEERED_AT, SteeringEdits
from steerkit.policy import NamedDirection, Policy, Source, dump
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.types import Place

RULE = "found"
"""Name of the probe and of the guard rule."""
GATE = "gate"
"""Name of the steering rule's own probe, where the edits are made in an earlier layer than `found` reads."""
AWAY = "away"
"""Name of the direction that is added."""
ALONG = {rule: f"{rule}_activations" for rule in (RULE, GATE)}
"""By probe, the name of the direction that it reads where it is one on raw activations."""


def found_policy(
    found: Found,
    saes: SaeSet,
    name: str,
    steering: SteeringEdits | None = None,
    directions: Mapping[str, NamedDirection] | None = None,
) -> Policy:
    """The condition that tells the sets apart best as a guard rule that would hold the call.

    A feature's bound is a multiple of its `max` on the calibration set, raw where the set has no statistics or the
    maximum is 0; a probe's is raw, as a sum has no unit. `mode` is `shadow`.

    Args:
        found: the answer of a search.
        saes: the set that was searched.
        name: of the policy; what a name may not hold becomes `-`.
        steering: edits to steer by, behind the same condition, one of their own or none; unproven ones are left out.
        directions: by name, the files of what is read or added along directions (see `write_found`).

    Raises:
        SaeError: nothing was found, or the best feature is lower in the positives and 0 in the negatives too.
    """
    condition, steering = _condition(found), _proven(steering)
    conditions = {RULE: condition, **({GATE: steering.gate} if steering is not None else {})}
    probes = {rule: one for rule, one in conditions.items() if isinstance(one, FoundProbe)}
    when = _when(RULE, condition, saes)
    used = {feature for one in probes.values() for feature in one.weights}
    used |= {condition.feature} if isinstance(condition, FoundFeature) else set()
    used |= steering.edits.keys() if steering is not None else set()
    return Policy.model_validate(
        {
            "steerkit": 1,
            "name": re.sub(r"[^A-Za-z0-9_-]", "-", name)[:80].strip("-") or RULE,
            "description": _described(found, condition, steering),
            "model": saes.model_name,
            "features": {_name(feature): _site(feature, saes) for feature in sorted(used)},
            "directions": dict(directions or {}),
            "probes": {rule: _sum(rule, one) for rule, one in probes.items()},
            "steer": [] if steering is None else [_steering(when, steering, saes)],
            "guard": {"default": "allow", "rules": [_judging(when, found.place)]},
            "trace": {"watch": [_name(condition.feature) if isinstance(condition, FoundFeature) else RULE]},
            "mode": "shadow",
        }
    )


def write_found(
    loaded: LoadedModel,
    saes: SaeSet,
    found: Found,
    steering: SteeringEdits | None,
    path: Path,
    sources: Sequence[Source] = (),
    *,
    force: bool = False,
) -> dict[str, Path]:
    """Write a found policy, and beside it the files of the directions that it reads or adds.

    Args:
        loaded: the model that was searched.
        saes: its set.
        found: the answer of the search.
        steering: edits or a direction to steer by.
        path: the policy's; it is named after it, and so are the directions' files.
        sources: sets of conversations that the directions were made of.
        force: replace files that are there.

    Returns:
        The directions' files, by name in the policy.

    Raises:
        SaeError, PolicyError: a file is there, cannot be written, or nothing was found.
    """
    made, files = _directions(found, steering), directions_beside(path)
    _when(RULE, _condition(found), saes)  # refuses before anything is written
    for file in (path, *(files[name] for name in made)):
        refuse_present(file, force=force)
    directions = {}
    for name, (vectors, method, place) in made.items():
        origin = origin_of(loaded, method, place, sources)
        fingerprint = write_direction(files[name], vectors, origin, force=force)
        sites = tuple(map(str, sorted(vectors)))
        directions[name] = NamedDirection(file=str(files[name].absolute()), fingerprint=fingerprint, sites=sites)
    write_policy(found_policy(found, saes, path.stem, steering, directions), path, force=force)
    return {name: files[name] for name in made}


def directions_beside(path: Path, *, steering: bool = True) -> dict[str, Path]:
    """By name in a written policy, the files of directions that it may have; without steering that of the guard."""
    files = {ALONG[RULE]: path.with_name(f"{path.stem}-{RULE}.safetensors")}
    if steering:
        files |= {ALONG[GATE]: path.with_name(f"{path.stem}-{GATE}.safetensors")}
        files |= {AWAY: path.with_suffix(".safetensors")}
    return files


def write_policy(policy: Policy, path: Path, *, force: bool = False) -> None:
    """Write a policy file. Raises SaeError: it is there and `force` is not given, or it cannot be written."""
    refuse_present(path, force=force)
    write_text_atomic(path, dump(policy, path.parent), SaeError)


def refuse_present(path: Path, *, force: bool) -> None:
    """Raise SaeError where a file is there and may not be replaced."""
    if path.exists() and not force:
        raise SaeError(f"{path}: already there; give --force to replace it, or --write another file")


class _Direction(NamedTuple):
    vectors: Mapping[Site, Tensor]
    method: str
    place: Place


def _directions(found: Found, steering: SteeringEdits | None) -> dict[str, _Direction]:
    """By name in the policy, the directions that it reads or adds."""
    steering, made = _proven(steering), dict[str, _Direction]()
    for rule, one in ((RULE, found.condition), (GATE, steering.gate if steering is not None else None)):
        if isinstance(one, FoundProbe) and one.vectors:
            made[ALONG[rule]] = _Direction(one.vectors, "probe on raw activations", one.place or found.place)
    if steering is not None and steering.vectors:
        made[AWAY] = _Direction(steering.vectors, "difference of means", STEERED_AT)
    return made


def _condition(found: Found) -> Condition:
    if found.condition is None:
        raise SaeError(
            "neither features nor activations tell the sets apart, so there is no policy to write; give more "
            "conversations"
        )
    return found.condition


def _proven(steering: SteeringEdits | None) -> SteeringEdits | None:
    return steering if steering is not None and steering.proven else None


def _when(name: str, condition: Condition, saes: SaeSet) -> dict[str, Any]:
    """The condition as a policy says it; `name` is the probe's."""
    bound = condition.measured.bound
    if isinstance(condition, FoundProbe):
        window = {"mean_over": condition.mean_over} if condition.mean_over is not None else {}
        at = {"at": condition.place} if condition.place is not None else {}
        return {"probe": name, "above": _rounded(bound), **window, **at}
    if condition.lower and bound <= 0:
        raise SaeError(
            f"{condition.feature}: it is 0 in too many of both sets to set a bound "
            f"below which the positives are; give more conversations, or another --at"
        )
    try:
        highest = saes.statistic(condition.feature, "max")
    except SaeError:
        highest = 0.0
    quantity: float | str = f"{bound / highest:.6g} max" if highest > 0 else _rounded(bound)
    return {"feature": _name(condition.feature), "below" if condition.lower else "above": quantity}


def _judging(when: Mapping[str, Any], place: Place) -> dict[str, Any]:
    placed = {"at": place, **when}
    reason = f"the conversation looks like the positive examples at {placed['at']}"
    return {"name": RULE, "when": placed, "then": "hold", "reason": reason}


def _steering(found: Mapping[str, Any], steering: SteeringEdits, saes: SaeSet) -> dict[str, Any]:
    """The rule of the edits: behind the condition that was `found`, one of their own or none."""
    edits = {
        _name(feature): {kind: _rounded(value) for kind, value in edit.items()}
        for feature, edit in sorted(steering.edits.items())
    } or {AWAY: {"add": _rounded(steering.strength)}}
    when = found if steering.gate is None else _when(GATE, steering.gate, saes)
    gate: dict[str, Any] = {"when": when, **({"for": "turn"} if "at" in when else {})}  # read before it acts
    return {"name": RULE, **(gate if steering.gated else {}), "where": STEERED_AT, "edit": edits}


def _sum(rule: str, probe: FoundProbe) -> dict[str, Any]:
    weights = {_name(feature): weight for feature, weight in sorted(probe.weights.items())}
    return {"bias": probe.bias, "weights": weights or {ALONG[rule]: 1.0}}


def _site(feature: Feature, saes: SaeSet) -> dict[str, Any]:
    label = saes.labels.get(feature)
    return {**feature.site.content, "index": feature.index, **({"label": label} if label else {})}


def _name(feature: Feature) -> str:
    return feature.handle


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _described(found: Found, condition: Condition, steering: SteeringEdits | None) -> str:
    low, high = condition.measured.interval
    return (
        f"Found by steerkit features find: {condition.described} at {_place(found, condition)}. On held-out "
        f"conversations AUROC "
        f"{condition.measured.auroc:.3f} ({low:.3f} to {high:.3f}); {_hits(condition)}. {_other(found)}"
        f"{_effect(steering)}"
    )


def _place(found: Found, condition: Condition) -> Place:
    return (condition.place if isinstance(condition, FoundProbe) else None) or found.place


def _hits(condition: Condition) -> str:
    recall, false = condition.measured.recall, condition.measured.false
    return f"beyond the bound {recall.hits} of {recall.count} positives and {false.hits} of {false.count} negatives"


def _other(found: Found) -> str:
    """How the features do that a probe on raw activations did better than."""
    if found.raw is None or found.condition is not found.raw or found.on_features is None:
        return ""
    other = found.on_features
    return (
        f"It does better than {other.described} (AUROC {other.measured.auroc:.3f}, DeLong's p {found.raw.p:.2g}; "
        f"{_hits(other)}). "
    )


def _effect(steering: SteeringEdits | None) -> str:
    if steering is None:
        return "It watches in shadow; mode: enforce lets it hold calls."
    stopped, kept, random = steering.stopped, steering.kept, steering.controls.random
    return (
        f"Its edit ({steering.way}) stops {stopped.hits} of {stopped.count} held-out calls where the reply begins and "
        f"keeps {kept.hits} of {kept.count} other decisions; random directions as long stop {random.hits} of "
        f"{random.count}. It watches in shadow; mode: enforce lets it steer and hold calls."
    )
