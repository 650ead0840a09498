"""Found features as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from steerkit.report.found_words import (
    cause_sentences,
    found_sentences,
    probe_sentences,
    raw_sentences,
    steering_sentences,
)
from steerkit.sites import Site

if TYPE_CHECKING:
    from steerkit.lab import Measured, Share
    from steerkit.lab.find import Causes, Found, FoundProbe, SteeringEdits


class Source(NamedTuple):
    """Where a search looked."""

    model: str
    saes: str
    sets: tuple[str, str]
    """Files of the positives and of the negatives."""
    without_place: int
    """Conversations without a step at the place."""
    notes: tuple[str, ...]
    """Remarks on the conversations."""


def found_json(found: Found, tried: Causes | None, steering: SteeringEdits | None, source: Source) -> dict[str, Any]:
    """The result as one JSON object; NaN is null."""
    plain = {"report": "find", **_bare(asdict(replace(found, probe=None, raw=None))), **_bare(source._asdict())}
    for row, one in zip(plain["features"], found.features, strict=True):
        _with_intervals(row["measured"], one.measured)
    if found.probe is not None:
        plain["probe"] = _plain_probe(found.probe)
    if found.raw is not None:
        plain["raw"] = _plain_probe(found.raw) | {"prevails": found.condition is found.raw}
    if tried is not None:
        plain["causal"] = _bare(asdict(tried))
        for row, cause in zip(plain["causal"]["candidates"], tried.candidates, strict=True):
            row["verdict"] = cause.verdict
    if steering is not None:
        plain["turned"] = _plain_edits(steering)
    said = {
        "found": found_sentences(found, source.without_place),
        "probe": [*probe_sentences(found.probe), *raw_sentences(found.raw, found.on_features, found.condition)],
        "causes": cause_sentences(tried),
        "steering": steering_sentences(steering) if tried is not None else [],
    }
    return {**plain, "said": {part: [line.strip() for line in lines] for part, lines in said.items()}}


def _plain_edits(steering: SteeringEdits) -> dict[str, Any]:
    """A way to steer, and the others under `beaten`."""
    own = {"edits", "vectors", "gates", "decisions", "beaten"}
    kept = {one.name: getattr(steering, one.name) for one in fields(steering) if one.name not in own}
    nested = [name for name, one in kept.items() if is_dataclass(one)]
    plain: dict[str, Any] = _bare(kept | {name: asdict(kept[name]) for name in nested})
    edits = [
        {**asdict(one), "edit": kind, "value": value}
        for one, edit in steering.edits.items()
        for kind, value in edit.items()
    ]
    gates = (None, None) if steering.gates is None else (steering.gates.best, steering.gates.other)
    gate, other = (None if one is None else _plain_probe(one) for one in gates)
    for row, one in ((plain, steering), (plain["controls"], steering.controls)):
        for name, share in row.items():
            if isinstance(share, dict) and "hits" in share:
                _with_interval(share, getattr(one, name))
    direction = _lengths(steering.vectors)
    more = {"edits": edits, "direction": direction, "gate": gate, "other_gate": other, "sites": list(steering.sites)}
    return {**plain, **more, "proven": steering.proven, "beaten": [_plain_edits(one) for one in steering.beaten]}


def _plain_probe(probe: FoundProbe) -> dict[str, Any]:
    weights = [{**asdict(one), "weight": weight} for one, weight in probe.weights.items()]
    own = {"measured": _bare(asdict(probe.measured)), "bias": probe.bias, "gain": probe.gain, "p": probe.p}
    _with_intervals(own["measured"], probe.measured)
    read = {"place": probe.place, "mean_over": probe.mean_over}
    return {**own, **read, "weights": weights, "direction": _lengths(probe.vectors), "beats": probe.beats}


def _lengths(vectors: Mapping[Site, Any]) -> list[dict[str, Any]]:
    """A direction by how long its vectors `(width,)` are."""
    return [{**site.content, "length": float(vector.norm())} for site, vector in sorted(vectors.items())]


def _with_intervals(row: dict[str, Any], measured: Measured) -> None:
    for name in ("recall", "false"):
        _with_interval(row[name], getattr(measured, name))


def _with_interval(row: dict[str, Any], share: Share) -> None:
    row |= {"share": share.value, "interval": list(share.interval)}


def _bare(value: Any) -> Any:
    if isinstance(value, Site):  # a tuple too, but one that JSON says in its own way
        return value
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    return None if isinstance(value, float) and value != value else value
