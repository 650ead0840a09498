"""Directions made from two sets of conversations: the difference of their means, as a file with its origin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from steerkit.engine import LoadedModel
from steerkit.errors import PolicyError, SaeError
from steerkit.files import write_atomic
from steerkit.fingerprints import sha256_of
from steerkit.lab.cases import Case, Report, of_one_width, read_cases, step_activations
from steerkit.lab.copies import weights_of
from steerkit.lab.material import copies_among
from steerkit.policy import Origin, Source
from steerkit.sites import Site
from steerkit.steer import find_sites
from steerkit.types import Place
from steerkit.version import __version__


@dataclass(frozen=True)
class MadeDirection:
    """A direction that was made, before or after it is written."""

    vectors: Mapping[Site, Tensor]
    """`(width,)` float32 by site, on the CPU."""
    origin: Origin
    spread: Mapping[Site, float]
    """By site, how far conversations lie from the mean of their own set (root mean square): a length to compare with.
    """


def mean_activations(
    loaded: LoadedModel, sites: Collection[Site], cases: Sequence[Case], report: Report | None = None
) -> dict[Site, Tensor]:
    """By site, `(n, width)` float32: the mean of its activations over the steps of each conversation."""
    found, model = dict[Site, Tensor](), find_sites(loaded.model)
    counts = torch.tensor([len(case.steps) for case in cases]).clamp(min=1).unsqueeze(-1)
    for of_width in of_one_width(loaded, sites):
        sums = {site: torch.zeros(len(cases), model.width(site) or 0) for site in of_width}
        for rows, by_site in step_activations(loaded, of_width, cases, report):
            for site, x in by_site.items():
                sums[site].index_add_(0, rows, x.float().cpu())
        found |= {site: total / counts for site, total in sums.items()}
    return found


def difference_of_means(
    loaded: LoadedModel,
    away: Sequence[Case],
    toward: Sequence[Case],
    sites: Collection[Site],
    report: Report | None = None,
) -> tuple[dict[Site, Tensor], dict[Site, float]]:
    """By site, the mean activation of `toward` less that of `away` at the cases' steps, and the spread around them.

    Copies of a conversation count once in its set.

    Raises:
        SaeError: a set without a conversation that has a step.
        SteeringError: the model lacks a site.
    """
    cases = [*away, *toward]
    leads_to = torch.tensor([False] * len(away) + [True] * len(toward))
    if not away or not toward:
        raise SaeError(f"{'from' if not away else 'to'}: got no conversation with a step at the place, expected some")
    weights = weights_of(copies_among(cases).groups, leads_to)
    vectors, spread = {}, {}
    for site, values in mean_activations(loaded, sites, cases, report).items():
        means = [_mean(values[side], weights[side]) for side in (~leads_to, leads_to)]
        apart = values.double() - torch.stack(means)[leads_to.long()]
        vectors[site] = (means[1] - means[0]).float()
        spread[site] = float(_mean(apart.square().sum(dim=1, keepdim=True), weights).sqrt())
    return dict(sorted(vectors.items())), spread


def make_direction(
    loaded: LoadedModel,
    away: Path,
    toward: Path,
    place: Place,
    sites: Collection[Site],
    *,
    limit: int | None = None,
    max_new_tokens: int = 128,
    report: Report | None = None,
) -> MadeDirection:
    """The direction from one file of conversations to another: `difference_of_means` at a place.

    Args:
        loaded: the model.
        away: JSONL file of conversations that it leads away from, as `features find` reads them.
        toward: the same, of those that it leads to.
        place: tokens that are read, as in a policy.
        sites: hook points.
        limit: conversations at most of each file.
        max_new_tokens: of a reply that a file does not bring, where the place is in the reply.
        report: callback for progress.

    Raises:
        SaeError: a file cannot be read, or has no conversation with a step at the place.
        SteeringError: the model lacks a site.
    """
    sets = [read_cases(file, loaded, place, limit=limit, max_new_tokens=max_new_tokens)[0] for file in (away, toward)]
    vectors, spread = difference_of_means(loaded, sets[0], sets[1], sites, report)
    sources = [source_of(file, len(cases)) for file, cases in zip((away, toward), sets, strict=True)]
    return MadeDirection(vectors, origin_of(loaded, "difference of means", place, sources), spread)


def source_of(file: Path, count: int) -> Source:
    """A file of conversations as a source, and how many of them were used."""
    return Source(file=file.name, fingerprint=sha256_of(file.read_bytes()), count=count)


def origin_of(loaded: LoadedModel, method: str, place: str = "", sources: Sequence[Source] = ()) -> Origin:
    """The origin of a direction that is made now, on this model."""
    return Origin(
        method=method,
        model=loaded.name,
        model_fingerprint=loaded.fingerprint,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        tokenizer=loaded.tokenizer_fingerprint,
        place=place,
        sources=tuple(sources),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        steerkit=__version__,
    )


def write_direction(path: Path, vectors: Mapping[Site, Tensor], origin: Origin, *, force: bool = False) -> str:
    """Write a direction file, completely or not at all; returns its fingerprint.

    Args:
        path: the file; policies name it.
        vectors: `(width,)` by site, of any dtype.
        origin: what they were made of.
        force: replace a file that is there; policies that were bound to it are refused from then on.

    Raises:
        PolicyError: it is there and `force` is not given, it cannot be written, or a vector is not finite.
    """
    if path.exists() and not force:
        raise PolicyError([f"{path}: already there; give --force to replace it, or name another file"])
    content = {str(site): values.detach().float().cpu().contiguous() for site, values in sorted(vectors.items())}
    for name, values in content.items():
        if values.ndim != 1 or not values.isfinite().all():
            raise PolicyError([f"{path}: {name}: got {_kind(values)}, expected a vector of finite numbers"])
    if not content:
        raise PolicyError([f"{path}: got no vector, expected one for each of some hook points"])
    data = save(content, {"steerkit_direction": "1", "origin": origin.model_dump_json(exclude_defaults=True)})
    write_atomic(path, lambda file: file.write(data), _UnwrittenError)
    return sha256_of(data)


class _UnwrittenError(PolicyError):
    """A direction file that cannot be written."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


def _kind(values: Tensor) -> str:
    return "NaN or infinity" if values.ndim == 1 else f"shape {tuple(values.shape)}"


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean `(width,)` in float64 of values `(n, width)`."""
    return weights @ values.double() / weights.sum()
