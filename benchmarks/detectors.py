"""Detectors of conversations by what the model holds of them: what each finds in phrasings that nobody has seen.

    python benchmarks/detectors.py --model M --saes S --choose POSITIVE NEGATIVE --unseen NEGATIVE POSITIVE [POSITIVE …]

JSONL files of conversations, as for `steerkit features find` (extra `lab`). At each of --places these are fitted on the
first two files: the best SAE feature, a probe of up to eight features, and at each hook point of --points of the SAEs'
layers a probe on all raw activations and the difference of means, and such a probe on all layers together. A
conversation's score is the largest over the tokens of the place, or the largest mean of 8 tokens in a row. Bounds are
set on the first two files for 1 % false positives; everything shown is of the others. Of a kind the hook point with the
best cross-validated AUROC on the first two files is shown; --json has all. Time is that of one token of 256 read
together, on one thread, once the activations are there.

With --agentdojo N the tool results of N of AgentDojo's user tasks a suite, each with and without an injection, are
another set of unseen conversations (extra `agentdojo`; prompts beyond --longest tokens are left out).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from injected_results import write_results
from torch import Tensor

from steerkit.agent import load
from steerkit.engine import LoadedModel
from steerkit.lab import Case, Measured, Share, read_cases
from steerkit.lab.cases import of_one_width, raise_to, step_activations
from steerkit.lab.copies import dealt, weights_of
from steerkit.lab.material import copies_among
from steerkit.lab.measured import measure
from steerkit.lab.ranking import rank_features
from steerkit.lab.sparse_probe import dense_probe, sparse_probe
from steerkit.lab.two_sample import auroc
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import columns_of, in_order, read_features
from steerkit.types import Place

WINDOWS: Final = (1, 8)
MOST, SCREENED, FOLDS, TOKENS = 8, 1_000, 4, 256
Line = tuple[Tensor, float]
"""Weights `(width,)` and bias of a detector on raw activations."""
Fit = Callable[[Tensor, Tensor, Tensor], Line]


class Row(NamedTuple):
    """One detector, measured."""

    place: Place
    kind: str
    where: str
    window: int
    chosen: float
    """Cross-validated AUROC where it was fitted; NaN where nothing was chosen among."""
    unseen: dict[str, Measured]
    """By file of positives."""
    microseconds: float


class Data(NamedTuple):
    """Conversations with a step at a place."""

    place: Place
    cases: list[Case]
    positive: Tensor
    groups: tuple[int, ...]
    fitted: Tensor
    """Rows that detectors are fitted on."""
    unseen: dict[str, Tensor]
    """By name, the rows of positives and of all negatives beside them."""


class Read(NamedTuple):
    """Activations at the steps of the place."""

    owners: Tensor
    """`(tokens,)` row of each, in order."""
    by_site: dict[Site, Tensor]


def data_of(loaded: LoadedModel, place: Place, choose: Sequence[Path], unseen: Sequence[Sequence[Path]]) -> Data:
    """The conversations of all files; `unseen` are files of negatives, then of positives, for each of some sets."""
    cases: list[Case] = []
    positive: list[bool] = []

    def add(path: Path, label: bool) -> list[int]:
        found, _ = read_cases(path, loaded, place)
        cases.extend(found)
        positive.extend([label] * len(found))
        return list(range(len(cases) - len(found), len(cases)))

    fitted = add(choose[0], True) + add(choose[1], False)
    held = {}
    for negatives, *some in unseen:
        rows = add(negatives, False)
        held |= {path.stem: torch.tensor(rows + add(path, True)) for path in some}
    return Data(place, cases, torch.tensor(positive), copies_among(cases).groups, torch.tensor(fitted), held)


def read(loaded: LoadedModel, sites: Sequence[Site], data: Data) -> Read:
    """All steps of the place, at all sites."""
    by_site, owners = dict[Site, Tensor](), torch.empty(0)
    for some in of_one_width(loaded, sites):
        parts = list(step_activations(loaded, some, data.cases, None))
        owners = torch.cat([rows for rows, _ in parts])
        by_site |= {site: torch.cat([values[site].float().cpu() for _, values in parts]) for site in some}
    return Read(owners, by_site)


def largest(scores: Tensor, owners: Tensor, count: int, window: int) -> Tensor:
    """`(n,)` of each conversation the largest mean of `window` scores in a row; of fewer, of all there are."""
    found = torch.full((count,), -torch.inf, dtype=torch.float64)
    which, sizes = owners.unique_consecutive(return_counts=True)
    for row, some in zip(which.tolist(), scores.double().split(sizes.tolist()), strict=True):
        found[row] = some.unfold(0, min(window, len(some)), 1).mean(dim=-1).max()
    return found.float()


def difference(values: Tensor, labels: Tensor, weights: Tensor) -> Line:
    """The difference of the means."""
    means = [weights[side] @ values[side].double() / weights[side].sum() for side in (labels, ~labels)]
    return means[0] - means[1], 0.0


LINES: Final[dict[str, Fit]] = {"probe on raw activations": dense_probe, "difference of means": difference}


def on_activations(data: Data, given: Read, name: str, x: Tensor, kind: str) -> Iterator[Row]:
    """A detector on some activations `(tokens, width)`, for each window: fitted on means over the place."""
    fit, count, cost = LINES[kind], len(data.cases), 0.0
    sizes = torch.bincount(given.owners, minlength=count).clamp(min=1).unsqueeze(-1)
    means = torch.zeros(count, x.shape[1]).index_add_(0, given.owners, x) / sizes
    rows, labels = data.fitted, data.positive[data.fitted]
    weights = weights_of([data.groups[row] for row in rows.tolist()], labels)
    folds = dealt([data.groups[row] for row in rows.tolist()], labels, FOLDS, 0)
    lines = [fit(means[rows[folds != f]], labels[folds != f], weights[folds != f]) for f in range(FOLDS)]
    whole = fit(means[rows], labels, weights)
    cost = microseconds(lambda some: some @ whole[0].float(), x)
    for window in WINDOWS if int(sizes.max()) > 1 else WINDOWS[:1]:
        areas = []
        for fold, (direction, bias) in enumerate(lines):
            left = rows[folds == fold]
            scores = largest(x @ direction.float() + bias, given.owners, count, window)[left]
            areas.append(float(auroc(scores.unsqueeze(-1), data.positive[left], weights[folds == fold])))
        scores = largest(x @ whole[0].float() + whole[1], given.owners, count, window)
        yield Row(data.place, kind, name, window, sum(areas) / FOLDS, measured(data, scores), cost)


def on_features(loaded: LoadedModel, saes: SaeSet, data: Data, given: Read) -> Iterator[Row]:
    """The best feature, and a probe of a few, read as a policy reads them."""
    table = {site: torch.zeros(len(data.cases), sae.d_sae) for site, sae in saes.items()}
    for site, sae in saes.items():
        for x, owners in zip(given.by_site[site].split(TOKENS), given.owners.split(TOKENS), strict=True):
            raise_to(sae.encode(x), owners, table[site])
    rows = data.fitted
    groups = [data.groups[row] for row in rows.tolist()]
    weights = weights_of(data.groups, data.positive)
    ranking = rank_features(table, rows, data.positive, weights)
    best, screened = ranking.features[0], ranking.features[:SCREENED]
    values = table[best.site][:, best.index]
    sign = 1 if ranking.area[0] >= 0.5 else -1
    cost = feature_cost(loaded, saes, given, [best])
    nan = float("nan")
    yield Row(data.place, "one SAE feature", best.handle, 1, nan, measured(data, sign * values), cost)
    columns = torch.stack([table[one.site][rows, one.index] for one in screened], dim=1)
    fit = sparse_probe(columns, data.positive[rows], MOST, 0, groups)
    named = {screened[c]: w for c, w in zip(fit.columns.tolist(), fit.weights.tolist(), strict=True)}
    sums = largest(summed(loaded, saes, given, named) + fit.bias, given.owners, len(data.cases), 1)
    cost = feature_cost(loaded, saes, given, list(named))
    sites = ", ".join(sorted({str(one.site) for one in named}))
    yield Row(data.place, f"probe of {len(named)} SAE features", sites, 1, nan, measured(data, sums), cost)


def summed(loaded: LoadedModel, saes: SaeSet, given: Read, weights: dict[Feature, float]) -> Tensor:
    """`(tokens,)` weighted sums of features."""
    total = torch.zeros(len(given.owners))
    for site in {one.site for one in weights}:
        own = in_order([one for one in weights if one.site == site])
        columns = columns_of(site, own, saes, loaded.site_devices[site])
        factor = torch.tensor([weights[one] for one in own if isinstance(one, Feature)])
        total += torch.cat([read_features(x, columns) @ factor for x in given.by_site[site].split(TOKENS)])
    return total


def feature_cost(loaded: LoadedModel, saes: SaeSet, given: Read, features: Sequence[Feature]) -> float:
    """Microseconds a token to read features, at all of their sites."""
    total = 0.0
    for site in {one.site for one in features}:
        own = in_order([one for one in features if one.site == site])
        columns = columns_of(site, own, saes, loaded.site_devices[site])
        total += microseconds(lambda some, columns=columns: read_features(some, columns), given.by_site[site])
    return total


def microseconds(work: Callable[[Tensor], Any], x: Tensor) -> float:
    """The median of ten times, by token."""
    some = x[torch.arange(TOKENS) % len(x)]
    times = []
    for _ in range(11):
        start = time.perf_counter()
        work(some)
        times.append((time.perf_counter() - start) / TOKENS * 1e6)
    return sorted(times[1:])[5]


def measured(data: Data, scores: Tensor) -> dict[str, Measured]:
    """The scores on each unseen set, with the bound of the fitted one."""
    return {name: measure(scores, data.positive, data.fitted, rows, data.groups) for name, rows in data.unseen.items()}


def rows_at(
    loaded: LoadedModel, saes: SaeSet, place: Place, points: Sequence[str], files: argparse.Namespace
) -> list[Row]:
    """All detectors at a place."""
    data = data_of(loaded, place, files.choose, files.sets)
    sites = [Site.of(f"{point}.{site.layer}") for point in points for site in saes]
    given = read(loaded, sorted({*sites, *saes}), data)
    found = list(on_features(loaded, saes, data, given))
    for kind in LINES:
        for site in sites:
            found += on_activations(data, given, str(site), given.by_site[site], kind)
    for point in points:
        x = torch.cat([given.by_site[site] for site in sites if site.point == point], dim=1)
        found += on_activations(data, given, f"all {point}", x, "probe on raw activations")
    return found


def best_of(rows: Sequence[Row]) -> list[Row]:
    """Of each place, kind and window the hook point that was best where it was fitted."""
    found: dict[tuple[str, str, int, bool], Row] = {}
    for row in rows:
        key = row.place, row.kind, row.window, row.where.startswith("all ")
        if key not in found or row.chosen > found[key].chosen:
            found[key] = row
    return list(found.values())


def show(rows: Sequence[Row]) -> None:
    """The table, in markdown."""
    names = list(rows[0].unseen)
    heads = "".join(f" {name}: AUROC, recall, false positives |" for name in names)
    print(f"| place | detector | hook points | tokens |{heads} µs a token |")
    print(f"|---|---|---|---|{'---|' * len(names)}---|")
    for row in rows:
        cells = "".join(f" {one.auroc:.3f}, {share(one.recall)}, {share(one.false)} |" for one in row.unseen.values())
        print(f"| `{row.place}` | {row.kind} | {row.where} | {row.window} |{cells} {row.microseconds:.2g} |")


def share(one: Share) -> str:
    """A share with its interval, in percent."""
    low, high = one.interval
    return f"{100 * one.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def main() -> None:
    """Fit, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--saes", required=True)
    parser.add_argument("--choose", nargs=2, type=Path, required=True)
    parser.add_argument("--unseen", nargs="+", type=Path, required=True)
    parser.add_argument("--places", default="reply.start")
    parser.add_argument("--points", default="attn_out,resid_post")
    parser.add_argument("--agentdojo", type=int, default=0)
    parser.add_argument("--longest", type=int, default=1_500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runtime = load(given.model, given.saes, audit=False)
    assert runtime.saes is not None
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        given.sets = [given.unseen]
        if given.agentdojo:
            given.sets.append(write_results(Path(folder), given.agentdojo, given.longest, runtime.loaded))
        for place in given.places.split(","):
            rows += rows_at(runtime.loaded, runtime.saes, place, given.points.split(","), given)
    show(best_of(rows))
    if given.json is not None:
        given.json.write_text(json.dumps([plain(row) for row in rows], indent=1))


def plain(row: Row) -> dict[str, Any]:
    """A row as JSON."""
    unseen = {}
    for name, one in row.unseen.items():
        shares = {key: [part.hits, part.count] for key, part in (("recall", one.recall), ("false", one.false))}
        unseen[name] = {"auroc": one.auroc, **shares}
    return {**row._asdict(), "unseen": unseen}


if __name__ == "__main__":
    main()
