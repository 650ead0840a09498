"""Reads features off a recorder after the generation: one matrix product per site over all tokens of all requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.errors import SteeringError
from steerkit.policy import Policy, watch_key
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import ops
from steerkit.steer.compile.latents import Latent, columns_of, in_order, weighted_sum
from steerkit.steer.compile.plan import Plan
from steerkit.steer.record.edits import read_edits
from steerkit.steer.record.recorder import Recorder
from steerkit.types import Span, TopK, Trace

_TOKENS_AT_ONCE = 512
"""Bounds the dense features held at a time: 512 * 4,096 float32 are 8 MB."""

_MOST_FEATURES = 1 << 16
"""A trace keeps a feature's index in 16 bits."""


class Wanted(NamedTuple):
    """The features to read for one request."""

    policies: tuple[Policy, ...] = ()
    watch: Mapping[str, tuple[str, ...]] = {}
    """By policy name, the features and probes to read at every token."""
    top_k: int = 0
    """Number of each token's strongest features to keep, at every site."""


class Extent(NamedTuple):
    """The positions to read of one request, without padding."""

    length: int
    """All positions before it carry the watched values."""
    top: Span = Span(0, 0)
    """Positions whose strongest features are kept."""


def read_traces(
    recorder: Recorder, plan: Plan, saes: SaeSet | None, wanted: Sequence[Wanted], extents: Sequence[Extent]
) -> list[Trace]:
    """One trace per request, features as they were before any edit.

    Raises:
        SteeringError: the batch on the recorder has not one sequence per request (beams, several samples).
    """
    if recorder.rows is None or not recorder.kept:
        return [Trace() for _ in wanted]
    if len(recorder.rows) != len(wanted):
        raise SteeringError(
            f"the recorder holds {len(recorder.rows)} sequences of {len(wanted)} requests; beams and several samples "
            f"per request can be steered but not traced"
        )
    places = [recorder.columns(b)[: extent.length] for b, extent in enumerate(extents)]
    watched = _watched(recorder, saes, wanted, places)
    top = _top(recorder, saes, wanted, extents, places)
    acted = read_edits(recorder, plan, places)
    return [
        Trace(0, watched[b], _named(request), tuple(top[b]), tuple(acted[b].edits), opened=acted[b].opened)
        for b, request in enumerate(wanted)
    ]


def read_watched(
    recorder: Recorder, saes: SaeSet | None, wanted: Wanted, sequence: int, start: int
) -> dict[str, tuple[float, ...]]:
    """The watched values of one sequence from position `start` on, for as far as the model has read."""
    return _watched(recorder, saes, [wanted], [recorder.columns(sequence)[start:]], sequence)[0]


def traced_sites(wanted: Sequence[Wanted], saes: SaeSet | None) -> set[Site]:
    """Sites whose raw activations must be on the recorder to answer.

    Raises:
        SteeringError: the strongest features are asked for, and a dictionary is larger than a trace can number.
    """
    found = {latent.site for request in wanted for sums in _sums(request).values() for latent in sums[0]}
    if saes is None or not any(request.top_k for request in wanted):
        return found
    _check_widths(saes)
    return found | set(saes)


def _check_widths(saes: SaeSet) -> None:
    for site, sae in saes.items():
        if sae.d_sae > _MOST_FEATURES:
            raise SteeringError(
                f"{saes.name}: {site.name} has {sae.d_sae} features, but a trace numbers at most {_MOST_FEATURES}; "
                f"leave trace.top_k out and watch the features you need"
            )


def _sums(request: Wanted) -> dict[str, tuple[dict[Latent, float], float]]:
    """By watch key, the weighted sum it stands for."""
    return {
        watch_key(policy, name): weighted_sum(policy, name)
        for policy in request.policies
        for name in request.watch.get(policy.name, ())
    }


def _named(request: Wanted) -> dict[str, Feature]:
    return {
        watch_key(policy, name): policy.features[name].feature
        for policy in request.policies
        for name in request.watch.get(policy.name, ())
        if name in policy.features
    }


def _watched(
    recorder: Recorder, saes: SaeSet | None, wanted: Sequence[Wanted], places: Sequence[Tensor], first: int = 0
) -> list[dict[str, tuple[float, ...]]]:
    sums = [_sums(request) for request in wanted]
    totals = [
        {key: torch.full((len(places[b]),), bias) for key, (_, bias) in sums[b].items()} for b in range(len(sums))
    ]
    for site in sorted({f.site for by_key in sums for weights, _ in by_key.values() for f in weights}):
        used = in_order({one for by_key in sums for ws, _ in by_key.values() for one in ws if one.site == site})
        features = _encode_columns(recorder, saes, site, used, places, first)
        for b, by_key in enumerate(sums):
            for key, (weights, _) in by_key.items():
                column = torch.tensor([weights.get(latent, 0.0) for latent in used])
                totals[b][key] = totals[b][key] + features[b] @ column
    return [{key: tuple(values.tolist()) for key, values in by_key.items()} for by_key in totals]


def _encode_columns(
    recorder: Recorder, saes: SaeSet | None, site: Site, used: Sequence[Latent], places: Sequence[Tensor], first: int
) -> tuple[Tensor, ...]:
    """Per request, from sequence `first` on, `(T_b, len(used))` latents of a site, in float32 on the CPU."""
    raw = recorder.raw(site)
    columns = columns_of(site, used, saes, raw.device)
    flat = torch.cat([raw[b, place.to(raw.device)] for b, place in enumerate(places, start=first)])
    features = ops.read_features(flat, columns)
    return torch.split(features.cpu(), [len(place) for place in places])


def _top(
    recorder: Recorder,
    saes: SaeSet | None,
    wanted: Sequence[Wanted],
    extents: Sequence[Extent],
    places: Sequence[Tensor],
) -> list[list[TopK]]:
    """The strongest features of every site and token, per request."""
    found: list[list[TopK]] = [[] for _ in wanted]
    asked = [b for b, request in enumerate(wanted) if request.top_k]
    if not asked or saes is None:
        return found
    k = max(wanted[b].top_k for b in asked)
    columns = {b: places[b][slice(*extents[b].top)] for b in asked}
    sizes = [len(columns[b]) for b in asked]
    for site in saes:
        raw = recorder.raw(site)
        sae = saes.on(site, raw.device)
        flat = torch.cat([raw[b, columns[b].to(raw.device)] for b in asked])
        chunks = [sae.encode(part).topk(min(k, sae.d_sae)) for part in torch.split(flat, _TOKENS_AT_ONCE)]
        strongest = torch.cat([chunk.values for chunk in chunks]).clamp_(max=torch.finfo(torch.float16).max)
        values = strongest.half().cpu().numpy().astype("<f2")
        indices = torch.cat([chunk.indices for chunk in chunks]).cpu().numpy().astype("<u2")
        row = 0
        for b, size in zip(asked, sizes, strict=True):
            part = (slice(row, row + size), slice(wanted[b].top_k))
            kept = values[part].shape[1]
            top = (extents[b].top.start, size, kept, indices[part].tobytes(), values[part].tobytes())
            found[b].append(TopK(site, *top))
            row += size
    return found
