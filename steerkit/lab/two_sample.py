"""Two-sample statistics: ranks, tests, intervals and bounds over pure tensors, without a model.

Columns are features, rows are conversations; `positive` `(n,)` says which set a row belongs to. `weights` `(n,)` make
copies of one conversation count once together (see `lab/copies.py`), and sample sizes are sums of them; without weights
every row counts 1. Sums run in float64. scipy's tests and ranks take no weights, and its exact signed-rank test takes
no ties, so these are written out; its own are called where they do the same.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

Z95: Final = 1.959963984540054
"""The 97.5th percentile of the normal distribution: intervals here are of 95 %."""


class Ranked(NamedTuple):
    """Ranks within each column."""

    ranks: Tensor
    """`(n, F)` float64 from 1 where rows count 1; rows that tie share the mean of their ranks."""
    ties: Tensor
    """`(F,)` the sum of t**3 - t over the groups of rows that tie and count t together."""


def ranked(values: Tensor, weights: Tensor | None = None) -> Ranked:
    """Ranks of `values` `(n, F)`, from the smallest on."""
    columns, counted = values.double().T.contiguous(), _weights(values, weights)
    ordered, order = columns.sort(dim=1)
    sums = torch.nn.functional.pad(counted[order].cumsum(dim=1), (1, 0))
    below, upto = (sums.gather(1, torch.searchsorted(ordered, columns, right=right)) for right in (False, True))
    # Each of the rows that tie counts t**2 - 1, which makes t**3 - t for the group.
    ties = ((upto - below).square() - 1).clamp(min=0) @ counted
    return Ranked(((below + upto + 1) / 2).T, ties)


def auroc(values: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """`(F,)` float64: the share of (positive, negative) pairs in which the positive is larger; a tie counts half.

    It is the Mann-Whitney statistic over the number of pairs (Hanley and McNeil 1982); 0.5 where there are none.
    """
    counted = _weights(values, weights)
    return _share(ranked(values, counted).ranks, positive, counted)


def _share(ranks: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    wins, losses = _counts(positive, weights)
    if not wins * losses:
        return torch.full((ranks.shape[1],), 0.5, dtype=torch.float64)
    return (weights[positive] @ (ranks[positive] - 0.5) - wins * wins / 2) / (wins * losses)


def mann_whitney(values: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """`(F,)` two-sided p values of the rank-sum test: normal approximation, corrected for ties and continuity.

    Mann and Whitney 1947; a column whose rows are all equal has p = 1. Of weighted rows the variance is that of as many
    rows as they count together, so rows that count once together add no evidence.
    """
    counted = _weights(values, weights)
    wins, losses = _counts(positive, counted)
    found, total = ranked(values, counted), wins + losses
    away = ((_share(found.ranks, positive, counted) - 0.5).abs() * wins * losses - 0.5).clamp(min=0)
    variance = wins * losses / 12 * (total + 1 - found.ties / (total * (total - 1)))
    z = away / variance.clamp(min=1e-300).sqrt()
    return torch.where(variance > 1e-9, torch.special.erfc(z / math.sqrt(2)), 1.0)


def benjamini_hochberg(p: Tensor) -> Tensor:
    """`(F,)` adjusted p values: to keep those below q bounds the expected share of false findings by q.

    Benjamini and Hochberg 1995; valid for independent and for positively dependent tests.
    """
    from scipy.stats import false_discovery_control

    return torch.from_numpy(false_discovery_control(p.numpy()))


def holm(p: Tensor) -> Tensor:
    """`(F,)` adjusted p values: to keep those below a bounds the chance of any false finding by a (Holm 1979)."""
    order = p.argsort()
    scaled = p[order] * torch.arange(len(p), 0, -1, dtype=p.dtype)
    return torch.empty_like(p).index_copy_(0, order, scaled.cummax(dim=0).values.clamp(max=1))


def signed_rank(differences: Tensor) -> float:
    """One-sided p value that paired differences `(n,)` are above 0 (Wilcoxon 1945), zeros left out.

    Exact, with ties too: by the distribution of the sum of ranks over all signs. 1 where there is no difference.
    """
    kept = differences[differences != 0].double()
    ranks = (2 * ranked(kept.abs().unsqueeze(-1)).ranks.squeeze(-1)).round().long()  # whole numbers where rows tie, too
    chances = torch.zeros(int(ranks.sum()) + 1, dtype=torch.float64)
    chances[0] = 1
    for rank in ranks.tolist():
        chances[rank:] = (chances[rank:] + chances[: len(chances) - rank]) / 2
        chances[:rank] /= 2
    return float(chances[int(ranks[kept > 0].sum()) :].sum())


def signed_ranks(differences: Tensor) -> Tensor:
    """`(F,)` two-sided p values that paired differences `(n, F)` lie around 0 (Wilcoxon 1945), zeros left out.

    Normal approximation, corrected for ties and continuity; a column without differences has p = 1.
    """
    absolute = differences.abs()
    zeros = (absolute == 0).sum(dim=0).double()
    found, kept = ranked(absolute), len(differences) - zeros
    sums = ((found.ranks - zeros) * (differences > 0)).sum(dim=0)
    variance = kept * (kept + 1) * (2 * kept + 1) / 24 - (found.ties - (zeros**3 - zeros)) / 48
    away = ((sums - kept * (kept + 1) / 4).abs() - 0.5).clamp(min=0)
    p = torch.special.erfc(away / (2 * variance.clamp(min=1e-300)).sqrt())
    return torch.where(variance > 1e-9, p, 1.0)


def mcnemar(one: int, other: int) -> float:
    """Two-sided exact p value of McNemar's test (1947), of what holds on one model alone and on the other alone."""
    count, least = one + other, min(one, other)
    fewer = sum(math.comb(count, number) for number in range(least + 1))
    return min(1.0, float(2 * fewer / 2**count))


def least_signed_rank(count: int) -> float:
    """The smallest p value that `signed_rank` can have of so many differences: where all of them are above 0."""
    return signed_rank(torch.arange(1.0, count + 1))


def least_mann_whitney(wins: int, losses: int) -> float:
    """The smallest p value that `mann_whitney` can have of so many positives and negatives: where they are apart."""
    positive = torch.arange(wins + losses) < wins
    return float(mann_whitney(torch.arange(float(wins + losses)).unsqueeze(-1), positive))


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two `(n,)` (Spearman 1904); NaN where one of them is constant."""
    return float(torch.corrcoef(ranked(torch.stack([one, other], dim=1)).ranks.T)[0, 1])


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: float, count: float, z: float = Z95) -> Interval:
    """The 95 % score interval of a share (Wilson 1927)."""
    if count == 0:
        return Interval(0.0, 1.0)
    share = successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def auroc_covariance(values: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """`(F, F)` covariance of the AUROCs of columns measured on the same rows.

    DeLong, DeLong and Clarke-Pearson 1988, by ranks as Sun and Xu 2014 compute it.
    """
    counted = _weights(values, weights)
    wins, losses = _counts(positive, counted)
    ranks = ranked(values, counted).ranks
    parts = []
    for side, count, others in ((positive, wins, losses), (~positive, losses, wins)):
        among = (ranks[side] - ranked(values[side], counted[side]).ranks) / others
        parts.append(_covariance(among, counted[side]) / count)
    return parts[0] + parts[1]


def _covariance(rows: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    centred = rows - weights @ rows / total
    return (centred.T * weights) @ centred / (total - 1).clamp(min=1)


def auroc_interval(values: Tensor, positive: Tensor, weights: Tensor | None = None) -> Interval:
    """The 95 % interval of the AUROC of `values` `(n,)`: Newcombe's score interval (2006, part 2, method 5).

    Its ends are the AUROCs that the one measured would just not contradict, so it has a width where the sets are wholly
    apart, too.
    """
    counted = _weights(values, weights)
    area = float(auroc(values.unsqueeze(-1), positive, counted))
    return newcombe(area, *_counts(positive, counted))


def newcombe(area: float, wins: float, losses: float) -> Interval:
    """The 95 % interval of an AUROC of so many positives and negatives (Newcombe 2006, part 2, method 5).

    The variance at a true AUROC is Hanley and McNeil's (1982) with half of all rows in the place of both counts.
    """
    if not wins * losses:
        return Interval(0.0, 1.0)
    more = (wins + losses) / 2 - 1

    def reaches(true: float) -> bool:
        variance = true * (1 - true) * (1 + more * (1 - true) / (2 - true) + more * true / (1 + true))
        return abs(area - true) <= Z95 * math.sqrt(variance / (wins * losses))

    ends = []
    for end in (0.0, 1.0):
        near, far = area, end
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (middle, far) if reaches(middle) else (near, middle)
        ends.append(near)
    return Interval(ends[0], ends[1])


def auroc_gain(values: Tensor, other: Tensor, positive: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
    """By how much the AUROC of `values` `(n,)` exceeds that of `other` on the same rows, and the one-sided p value.

    DeLong's paired test; p = 1 where neither varies, or a set is empty.
    """
    both = torch.stack([values, other], dim=1)
    one, two = auroc(both, positive, weights).tolist()
    covariance = auroc_covariance(both, positive, weights)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not variance > 1e-18:
        return one - two, 1.0
    return one - two, 0.5 * math.erfc((one - two) / math.sqrt(2 * variance))


def effect_size(values: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """`(F,)` difference of the two means in standard deviations of all rows; 0 for a constant column."""
    values, counted = values.double(), _weights(values, weights)
    spread = (counted @ (values - counted @ values / counted.sum()).square() / counted.sum()).sqrt()
    means = [counted[side] @ values[side] / counted[side].sum() for side in (positive, ~positive)]
    return torch.where(values.amax(dim=0) > values.amin(dim=0), (means[0] - means[1]) / spread.clamp(min=1e-300), 0.0)


def conformal_rank(count: float, rate: float) -> int:
    """Values of `count` that may lie beyond a bound, for a new one to do so with a chance of at most `rate`.

    Split conformal prediction (Vovk et al. 2005): of a value drawn as those were, the chance to exceed all but k of
    them is at most (k + 1) / (count + 1). Below 0 where so few values cannot bound the rate.
    """
    return math.floor(rate * (count + 1) + 1e-9) - 1


def fewest_for(rate: float) -> int:
    """Values that a bound for a rate takes at least: the smallest count whose `conformal_rank` is not below 0."""
    return math.ceil(1 / rate - 1e-9) - 1


def beyond_upto(count: int, rank: int, confidence: float = 0.95) -> float:
    """The share of new values beyond the (rank + 1)-th largest of `count`, at most, with this confidence.

    That share has a Beta(rank + 1, count - rank) distribution, or less where values tie; this is its quantile, the
    exact binomial bound of Clopper and Pearson (1934) for `rank` hits of `count`.
    """
    from scipy.stats import beta

    return float(beta.ppf(confidence, rank + 1, count - rank)) if rank < count else 1.0


def bound_between(positives: Tensor, negatives: Tensor, false: float = 0.01, weights: Tensor | None = None) -> float:
    """The bound that a new negative exceeds with a chance of at most `false`, or of 1 / (n + 1) where n are too few.

    It is the largest negative value that must stay below (see `conformal_rank`; of weighted negatives, which are copies
    of fewer, as Lee, Barber and Willett 2023 count them). Where nearly all positives (98 %) lie higher, it moves a
    quarter of the way towards them, so that a value like those seen does not stand on the bound itself.
    """
    counted = _weights(negatives, weights)
    ordered, order = negatives.sort(descending=True)
    above = counted[order].cumsum(dim=0) - counted[order]
    allowed = max(0, conformal_rank(round(float(counted.sum()), 6), false))
    high = float(ordered[int((above <= allowed + 1e-6).nonzero()[-1])])
    low = float(torch.quantile(positives.double(), 0.02)) if len(positives) else high
    return high + max(0.0, low - high) / 4


def _weights(rows: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ones(len(rows), dtype=torch.float64) if weights is None else weights.double()


def _counts(positive: Tensor, weights: Tensor) -> tuple[float, float]:
    """Sums of weights of both sets, whole numbers where those of a group make 1."""
    found = [round(float(weights[side].sum()), 9) for side in (positive, ~positive)]
    return found[0], found[1]
