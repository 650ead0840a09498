"""How well numbers tell two sets apart: pure tensors, no model in sight.

Columns are features, rows are conversations; `positive` `(n,)` says which set a row belongs to. Sums run in float64.
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
    """`(n, F)` float64 from 1; rows that tie share the mean of their ranks."""
    ties: Tensor
    """`(F,)` the sum of t**3 - t over the groups of t rows that tie."""


def ranked(values: Tensor) -> Ranked:
    """Ranks of `values` `(n, F)`, from the smallest on."""
    columns = values.double().T.contiguous()
    ordered = columns.sort(dim=1).values
    below, upto = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
    # Each of t rows that tie counts t**2 - 1, which makes t**3 - t for the group.
    ties = ((upto - below).double().square() - 1).sum(dim=1)
    return Ranked(((below + upto + 1).double() / 2).T, ties)


def auroc(values: Tensor, positive: Tensor) -> Tensor:
    """`(F,)` float64: the share of (positive, negative) pairs in which the positive is larger; a tie counts half.

    It is the Mann-Whitney statistic over the number of pairs (Hanley and McNeil 1982).
    """
    return _share(ranked(values).ranks, positive)


def _share(ranks: Tensor, positive: Tensor) -> Tensor:
    wins, losses = _counts(positive)
    return (ranks[positive].sum(dim=0) - wins * (wins + 1) / 2) / (wins * losses)


def mann_whitney(values: Tensor, positive: Tensor) -> Tensor:
    """`(F,)` two-sided p values of the rank-sum test: normal approximation, corrected for ties and continuity.

    Mann and Whitney 1947; a column whose rows are all equal has p = 1.
    """
    wins, losses = _counts(positive)
    found, total = ranked(values), wins + losses
    away = ((_share(found.ranks, positive) - 0.5).abs() * wins * losses - 0.5).clamp(min=0)
    variance = wins * losses / 12 * (total + 1 - found.ties / (total * (total - 1)))
    z = away / variance.clamp(min=1e-300).sqrt()
    return torch.where(variance > 1e-9, torch.special.erfc(z / math.sqrt(2)), 1.0)


def benjamini_hochberg(p: Tensor) -> Tensor:
    """`(F,)` adjusted p values: to keep those below q bounds the expected share of false findings by q.

    Benjamini and Hochberg 1995; valid for independent and for positively dependent tests.
    """
    order = p.argsort(descending=True)
    scaled = p[order] * len(p) / torch.arange(len(p), 0, -1, dtype=p.dtype)
    return torch.empty_like(p).index_copy_(0, order, scaled.cummin(dim=0).values.clamp(max=1))


def holm(p: Tensor) -> Tensor:
    """`(F,)` adjusted p values: to keep those below a bounds the chance of any false finding by a (Holm 1979)."""
    order = p.argsort()
    scaled = p[order] * torch.arange(len(p), 0, -1, dtype=p.dtype)
    return torch.empty_like(p).index_copy_(0, order, scaled.cummax(dim=0).values.clamp(max=1))


def signed_rank(differences: Tensor) -> float:
    """One-sided p value that paired differences `(n,)` are above 0 (Wilcoxon 1945), zeros left out.

    Exact for up to 12 differences without ties by counting all signs, else a normal approximation with ties and
    continuity corrected; 1 where there is no difference.
    """
    kept = differences[differences != 0].double()
    if not len(kept):
        return 1.0
    found = ranked(kept.abs().unsqueeze(-1))
    ranks = found.ranks.squeeze(-1)
    above = float(ranks[kept > 0].sum())
    if len(kept) <= 12:
        signs = torch.arange(2 ** len(kept)).unsqueeze(-1) >> torch.arange(len(kept)) & 1
        return float((signs.double() @ ranks >= above - 1e-9).double().mean())
    count = len(kept)
    variance = count * (count + 1) * (2 * count + 1) / 24 - float(found.ties) / 48
    z = (above - count * (count + 1) / 4 - 0.5) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two `(n,)` (Spearman 1904); NaN where one of them is constant."""
    ranks = ranked(torch.stack([one, other], dim=1)).ranks
    centred = ranks - ranks.mean(dim=0)
    spread = float(centred.square().sum(dim=0).prod().sqrt())
    return float(centred.prod(dim=1).sum()) / spread if spread else math.nan


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: int, count: int, z: float = Z95) -> Interval:
    """The 95 % score interval of a share (Wilson 1927)."""
    if count == 0:
        return Interval(0.0, 1.0)
    share = successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def auroc_covariance(values: Tensor, positive: Tensor) -> Tensor:
    """`(F, F)` covariance of the AUROCs of columns measured on the same rows.

    DeLong, DeLong and Clarke-Pearson 1988, by ranks as Sun and Xu 2014 compute it.
    """
    wins, losses = _counts(positive)
    ranks = ranked(values).ranks
    of_positive = (ranks[positive] - ranked(values[positive]).ranks) / losses
    of_negative = 1 - (ranks[~positive] - ranked(values[~positive]).ranks) / wins
    return _covariance(of_positive) / wins + _covariance(of_negative) / losses


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / max(1, len(rows) - 1)


def auroc_interval(values: Tensor, positive: Tensor) -> Interval:
    """The 95 % interval of the AUROC of `values` `(n,)`, by DeLong's variance.

    Where the sets are wholly apart that variance is 0 and says nothing: then it is Newcombe's score interval (2006,
    part 2, method 5), whose ends are the AUROCs that the one measured would just not contradict.
    """
    area = float(auroc(values.unsqueeze(-1), positive))
    if 0 < area < 1:
        spread = Z95 * math.sqrt(max(0.0, float(auroc_covariance(values.unsqueeze(-1), positive))))
        if spread:
            return Interval(max(0.0, area - spread), min(1.0, area + spread))
    low, high = _score_end(area, positive, 0.0), _score_end(area, positive, 1.0)
    return Interval(low, high)


def _score_end(area: float, positive: Tensor, end: float) -> float:
    """The AUROC between `area` and `end` whose own spread just reaches `area`, by bisection."""
    wins, losses = _counts(positive)
    more = (wins + losses) / 2 - 1

    def reaches(true: float) -> bool:
        variance = true * (1 - true) * (1 + more * (1 - true) / (2 - true) + more * true / (1 + true))
        return abs(area - true) <= Z95 * math.sqrt(variance / (wins * losses))

    near, far = area, end
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if reaches(middle) else (near, middle)
    return near


def auroc_gain(values: Tensor, other: Tensor, positive: Tensor) -> tuple[float, float]:
    """By how much the AUROC of `values` `(n,)` exceeds that of `other` on the same rows, and the one-sided p value.

    DeLong's paired test; p = 1 where neither varies.
    """
    both = torch.stack([values, other], dim=1)
    one, two = auroc(both, positive).tolist()
    covariance = auroc_covariance(both, positive)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-18:
        return one - two, 1.0
    return one - two, 0.5 * math.erfc((one - two) / math.sqrt(2 * variance))


def effect_size(values: Tensor, positive: Tensor) -> Tensor:
    """`(F,)` difference of the two means in standard deviations of all rows; 0 for a constant column."""
    values = values.double()
    spread = values.std(dim=0, correction=0)
    difference = values[positive].mean(dim=0) - values[~positive].mean(dim=0)
    return torch.where(spread > 0, difference / spread, 0.0)


def bound_between(positives: Tensor, negatives: Tensor, false: float = 0.01) -> float:
    """The bound that at most a share `false` of the negatives exceed.

    It is the largest negative value that must stay below; where nearly all positives (98 %) lie higher, it moves a
    quarter of the way towards them, so that a value like those seen does not stand on the bound itself.
    """
    high = float(negatives.sort(descending=True).values[int(false * len(negatives))])
    low = float(torch.quantile(positives.double(), 0.02))
    return high + max(0.0, low - high) / 4


def _counts(positive: Tensor) -> tuple[int, int]:
    wins = int(positive.sum())
    return wins, len(positive) - wins
