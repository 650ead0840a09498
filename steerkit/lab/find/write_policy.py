"""Found features as a policy in shadow mode, which decides nothing until a person says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerkit.engine import LoadedModel
from steerkit.errors import SaeError
from steerkit.files import write_text_atomic
from steerkit.lab.directions import origin_of, write_direction
from steerkit.lab.find.search import Found, FoundFeature, FoundProbe
from steerkit.lab.find.steering_edits import STEERED_AT, SteeringEdits
from steerkit.lab.measured import Measured
from steerkit.policy import NamedDirection, Policy, Source, dump
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.types import Place

RULE = "found"
"""Name of the probe and of the guard rule."""
GATE = "gate"
"""Name of the steering rule's own probe, where the edits are made in an earlier layer than `found` reads."""
AWAY = "away"
"""Name of the direction that is added."""


def found_policy(
    found: Found,
    saes: SaeSet,
    name: str,
    steering: SteeringEdits | None = None,
    direction: NamedDirection | None = None,
) -> Policy:
    """The probe, or the best feature where one alone does better, as a guard rule that would hold the call.

    A feature's bound is a multiple of its `max` on the calibration set, raw where the set has no statistics or the
    maximum is 0; a probe's is raw, as a sum has no unit. `mode` is `shadow`.

    Args:
        found: the answer of a search.
        saes: the set that was searched.
        name: of the policy; what a name may not hold becomes `-`.
        steering: edits to steer by, behind the same condition, one of their own or none; unproven ones are left out.
        direction: its file, where a direction is added.

    Raises:
        SaeError: nothing was found, or the best feature is lower in the positives and 0 in the negatives too.
    """
    if not found.features:
        raise SaeError("no feature tells the sets apart, so there is no policy to write; give more conversations")
    best = found.features[0]
    probe = found.condition
    used = [best.feature] if probe is None else list(probe.weights)
    when = _feature_condition(best, saes) if probe is None else _probe_condition(RULE, probe)
    if steering is not None and not steering.proven:
        steering = None
    edits = steering.edits if steering is not None else {}
    gate = steering.gate if steering is not None else None
    probes = {rule: one for rule, one in ((RULE, probe), (GATE, gate)) if one is not None}
    used += [feature for one in probes.values() for feature in one.weights]
    measured = best.measured if probe is None else probe.measured
    return Policy.model_validate(
        {
            "steerkit": 1,
            "name": re.sub(r"[^A-Za-z0-9_-]", "-", name)[:80].strip("-") or RULE,
            "description": _described(found.place, probe, measured, steering),
            "model": saes.model_name,
            "features": {_name(feature): _site(feature, saes) for feature in sorted({*used, *edits})},
            "directions": {} if direction is None else {AWAY: direction},
            "probes": {rule: _weights(one) for rule, one in probes.items()},
            "steer": [] if steering is None else [_steering(when, steering)],
            "guard": {"default": "allow", "rules": [_judging(when, found.place)]},
            "trace": {"watch": [RULE if probe is not None else _name(best.feature)]},
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
) -> None:
    """Write a found policy, and the file of the direction that it adds, where it adds one, beside it.

    Args:
        loaded: the model that was searched.
        saes: its set.
        found: the answer of the search.
        steering: edits or a direction to steer by.
        path: the policy's; it is named after it, and so is the direction's file.
        sources: sets of conversations that the direction leads away from and to.
        force: replace files that are there.

    Raises:
        SaeError, PolicyError: a file is there, cannot be written, or nothing was found.
    """
    refuse_present(path, force=force)
    direction = None
    if steering is not None and steering.proven and steering.vectors:
        found_policy(found, saes, path.stem)  # refuses before anything is written
        file, sites = direction_beside(path), tuple(str(site) for site in steering.sites)
        origin = origin_of(loaded, "difference of means", STEERED_AT, sources)
        fingerprint = write_direction(file, steering.vectors, origin, force=force)
        direction = NamedDirection(file=str(file.absolute()), fingerprint=fingerprint, sites=sites)
    write_policy(found_policy(found, saes, path.stem, steering, direction), path, force=force)


def direction_beside(path: Path) -> Path:
    """The file of a direction that a written policy adds."""
    return path.with_suffix(".safetensors")


def write_policy(policy: Policy, path: Path, *, force: bool = False) -> None:
    """Write a policy file. Raises SaeError: it is there and `force` is not given, or it cannot be written."""
    refuse_present(path, force=force)
    write_text_atomic(path, dump(policy, path.parent), SaeError)


def refuse_present(path: Path, *, force: bool) -> None:
    """Raise SaeError where a file is there and may not be replaced."""
    if path.exists() and not force:
        raise SaeError(f"{path}: already there; give --force to replace it, or --write another file")


def _feature_condition(best: FoundFeature, saes: SaeSet) -> dict[str, Any]:
    bound = best.measured.bound
    if best.lower and bound <= 0:
        raise SaeError(
            f"{best.feature}: it is 0 in too many of both sets to set a bound "
            f"below which the positives are; give more conversations, or another --at"
        )
    try:
        highest = saes.statistic(best.feature, "max")
    except SaeError:
        highest = 0.0
    quantity: float | str = f"{bound / highest:.6g} max" if highest > 0 else _rounded(bound)
    return {"feature": _name(best.feature), "below" if best.lower else "above": quantity}


def _probe_condition(name: str, probe: FoundProbe) -> dict[str, Any]:
    return {"probe": name, "above": _rounded(probe.measured.bound)}


def _judging(when: Mapping[str, Any], place: Place) -> dict[str, Any]:
    reason = f"the conversation looks like the positive examples at {place}"
    return {"name": RULE, "when": {**when, "at": place}, "then": "hold", "reason": reason}


def _steering(found: Mapping[str, Any], steering: SteeringEdits) -> dict[str, Any]:
    """The rule of the edits: behind the condition that was `found`, one of their own or none."""
    edits = {
        _name(feature): {kind: _rounded(value) for kind, value in edit.items()}
        for feature, edit in sorted(steering.edits.items())
    } or {AWAY: {"add": _rounded(steering.strength)}}
    when = found if steering.gate is None else _probe_condition(GATE, steering.gate)
    return {"name": RULE, **({"when": when} if steering.gated else {}), "where": STEERED_AT, "edit": edits}


def _weights(probe: FoundProbe) -> dict[str, Any]:
    return {
        "bias": probe.bias,
        "weights": {_name(feature): weight for feature, weight in sorted(probe.weights.items())},
    }


def _site(feature: Feature, saes: SaeSet) -> dict[str, Any]:
    label = saes.labels.get(feature)
    return {**feature.site.content, "index": feature.index, **({"label": label} if label else {})}


def _name(feature: Feature) -> str:
    return feature.handle


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _described(place: Place, probe: FoundProbe | None, measured: Measured, steering: SteeringEdits | None) -> str:
    what = "one feature" if probe is None else f"a probe over {len(probe.weights)} features"
    low, high = measured.interval
    recall, false = measured.recall, measured.false
    return (
        f"Found by steerkit features find: {what} at {place}. On held-out conversations AUROC {measured.auroc:.3f} "
        f"({low:.3f} to {high:.3f}); beyond the bound {recall.hits} of {recall.count} positives and {false.hits} of "
        f"{false.count} negatives. {_effect(steering)}"
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
