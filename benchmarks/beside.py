"""Policies to run beside a found one: what raw activations do in the place of its SAE features.

    python benchmarks/beside.py --model M --saes S --policy FOUND --choose HARMFUL BENIGN --out OUT
    steerkit eval --policy FOUND --beside OUT/raw-attn_out.yaml --beside OUT/means-attn_out.yaml --harmful … --benign …

Of the conversations of --choose, at the step that makes the reply's first token and for each hook point of --points:

raw-POINT    a guard alone, which holds every call where a probe on all raw activations of the SAEs' layers is beyond a
             bound for 1 % false positives, and no steering
means-POINT  steering alone, behind the policy's own gate: the difference of means, of those in BENIGN that make no call
             (of all where there are none) minus HARMFUL, in the layers that the policy edits together or in one of the
             SAEs' layers alone, with the gentlest strength that turns 95 % of the calls, and one strength further

Both take all conversations, of which the search that found the policy took a half.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.agent import Runtime, load
from steerkit.lab import origin_of, read_cases, write_direction
from steerkit.lab.find.attempt import ENOUGH, STRENGTHS
from steerkit.lab.find.probes import raw_probe
from steerkit.lab.interventions import Interventions
from steerkit.lab.material import Material
from steerkit.policy import Policy, dump
from steerkit.policy import load as load_policy
from steerkit.sites import Site
from steerkit.types import Place

AT: Place = "reply.start"
Read = list[Mapping[Site, Tensor]]
"""Activations `(n, width)` of the harmful and of the benign conversations at the deciding step."""


def raw_guard(runtime: Runtime, sets: Sequence[Interventions], read: Read, sites: Sequence[Site], path: Path) -> Policy:
    """A guard that holds calls by a probe on raw activations; its weights lie beside `path` as a direction."""
    cases = [case for one in sets for case in one.prefilled.cases]
    values = {site: torch.cat([some[site] for some in read]) for site in sites}
    every = torch.arange(len(cases))
    material = Material(cases, every < len(sets[0].plain), every, every, {}, {}, activations=values)
    probe = raw_probe(runtime.loaded, material, sites)
    assert probe is not None
    when = {"probe": "raw", "above": probe.measured.bound, "at": AT}
    rule = {"name": "raw", "when": when, "then": "hold", "reason": "raw probe"}
    return Policy.model_validate(
        {
            "steerkit": 1,
            "name": path.stem,
            "description": f"A guard by a probe on raw activations of {', '.join(map(str, sites))} at {AT}.",
            "directions": {"risk": named(runtime, "probe on raw activations", probe.vectors, path)},
            "probes": {"raw": {"bias": probe.bias, "weights": {"risk": 1.0}}},
            "guard": {"default": "allow", "rules": [rule]},
            "mode": "shadow",
        }
    )


def added_means(
    runtime: Runtime, found: Policy, sets: Sequence[Interventions], read: Read, sites: Sequence[Site], path: Path
) -> Policy:
    """The found policy's steering, its edits replaced by the difference of means."""
    silent = sets[1].plain <= 0
    toward = silent if silent.any() else torch.ones_like(silent)
    vectors = {site: read[1][site][toward].mean(dim=0) - read[0][site].mean(dim=0) for site in sites}
    together = [site for site in sites if site.layer in edited(found)]
    tried = []
    for some in (together, *([site] for site in sites)):
        for strength in STRENGTHS:
            after = sets[0].along({site: strength * vectors[site] for site in some})
            tried.append((min(float(sets[0].turned(after).float().mean()), ENOUGH), -strength, some))
    turned, strength, some = max(tried, key=lambda one: one[:2])
    times = next((one for one in STRENGTHS if one > -strength), -strength) if turned >= ENOUGH else -strength
    direction = named(runtime, "difference of means", {site: vectors[site] for site in some}, path)
    rules = [{**rule.model_dump(exclude_none=True), "edit": {"away": {"add": times}}} for rule in found.steer]
    text = f"The difference of means, {times:g} times in {', '.join(map(str, some))}, behind the gate of {found.name}."
    print(f"{path.stem}: {text} At {-strength:g} times it turns {100 * turned:.0f} % of the calls, or more.")
    content = {**found.model_dump(exclude_none=True), "name": path.stem, "description": text, "trace": {}}
    return Policy.model_validate({**content, "guard": None, "steer": rules, "directions": {"away": direction}})


def named(runtime: Runtime, method: str, vectors: Any, path: Path) -> dict[str, Any]:
    """Vectors as a direction of a policy, in a file beside it."""
    file = path.with_suffix(".safetensors")
    fingerprint = write_direction(file, vectors, origin_of(runtime.loaded, method, AT), force=True)
    return {"file": str(file.absolute()), "fingerprint": fingerprint}


def edited(found: Policy) -> set[int]:
    """Layers that a policy edits."""
    written = {name for rule in found.steer for name in rule.edit}
    layers = {one.feature.site.layer for name, one in found.features.items() if name in written}
    layers |= {Site.of(site).layer for name, one in found.directions.items() if name in written for site in one.sites}
    if not layers:
        raise SystemExit(f"policy {found.name} steers nothing")
    return layers


def main() -> None:
    """Write the policies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--saes", required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--choose", nargs=2, type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--points", default="attn_out,resid_post")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    runtime, found = load(given.model, given.saes, audit=False), load_policy(given.policy)
    loaded, saes = runtime.loaded, runtime.saes
    assert saes is not None
    sets = [Interventions(loaded, saes, read_cases(path, loaded, AT)[0], AT) for path in given.choose]
    sites = {point: [Site.of(f"{point}.{site.layer}") for site in saes] for point in given.points.split(",")}
    every = [site for some in sites.values() for site in some]
    read = [one.prefilled.readings(every).activations for one in sets]
    for point, some in sites.items():
        paths = [given.out / f"{kind}-{point}.yaml" for kind in ("raw", "means")]
        policies = (
            raw_guard(runtime, sets, read, some, paths[0]),
            added_means(runtime, found, sets, read, some, paths[1]),
        )
        for path, policy in zip(paths, policies, strict=True):
            path.write_text(dump(policy, path.parent), encoding="utf-8")


if __name__ == "__main__":
    main()
