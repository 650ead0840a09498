"""Sparse logistic regression over features: few of them, chosen one by one, as many as cross-validation asks for."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

FOLDS: Final = 5
PENALTY: Final = 1e-2
"""On the squared weights of standardised features: it keeps weights finite where the sets are wholly apart."""

_STEPS: Final = 50


class Fit(NamedTuple):
    """A logistic regression on some columns."""

    columns: Tensor
    """`(k,)` which columns of the table."""
    weights: Tensor
    """`(k,)` for raw values."""
    bias: float

    def __call__(self, values: Tensor) -> Tensor:
        """`(n,)` log-odds of `values` `(n, F)`."""
        return values[:, self.columns] @ self.weights + self.bias


def logistic(x: Tensor, labels: Tensor, penalty: float = PENALTY) -> tuple[Tensor, float]:
    """Weights `(k,)` and bias of the penalised logistic regression on `x` `(n, k)`, both sets weighing the same.

    Columns are standardised for the penalty; the answer is for raw values. `labels` `(n,)` are bool. Newton's method,
    its step halved until the loss falls; k is small and the penalised loss has one minimum.
    """
    x, wanted = x.double(), labels.double()
    mean, spread = x.mean(dim=0), x.std(dim=0).clamp(min=1e-12)
    scaled = torch.cat([(x - mean) / spread, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    share = _balance(labels) / len(x)
    ridge = torch.full((scaled.shape[1],), 2 * penalty, dtype=torch.float64)
    ridge[-1] = 0

    def loss(weights: Tensor) -> float:
        sums = scaled @ weights
        return float(share @ (torch.nn.functional.softplus(sums) - wanted * sums) + (ridge / 2) @ weights.square())

    weights = torch.zeros(scaled.shape[1], dtype=torch.float64)
    for _ in range(_STEPS):
        chance = torch.sigmoid(scaled @ weights)
        gradient = scaled.T @ (share * (chance - wanted)) + ridge * weights
        curvature = (scaled.T * (share * chance * (1 - chance))) @ scaled + torch.diag(ridge + 1e-12)
        step, size, before = torch.linalg.solve(curvature, gradient), 1.0, loss(weights)
        while size > 1e-6 and loss(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if float(gradient.abs().max()) < 1e-10:
            break
    raw = weights[:-1] / spread
    return raw.float(), float(weights[-1] - mean @ raw)


def _balance(labels: Tensor) -> Tensor:
    """`(n,)` float64 by which both sets weigh the same, 1 on average."""
    wanted = labels.double()
    return torch.where(labels, 0.5 / wanted.mean(), 0.5 / (1 - wanted.mean()))


def path(values: Tensor, labels: Tensor, most: int, penalty: float = PENALTY) -> list[Fit]:
    """The regressions on 1, 2, … up to `most` columns of `values` `(n, F)`, each with one column more.

    The next column is the one along which the loss falls fastest: the largest gradient of the standardised columns, as
    in orthogonal matching pursuit (Pati et al. 1993; for logistic loss Lozano et al. 2011). Columns that hardly vary
    are left out.
    """
    spread = values.std(dim=0)
    scaled = (values - values.mean(dim=0)) / spread.clamp(min=1e-12)
    wanted, balance = labels.float(), _balance(labels).float()
    usable = spread > 1e-6
    sums, fits, chosen = torch.zeros(len(values)), [], list[int]()
    for _ in range(min(most, int(usable.sum()))):
        gradient = (scaled.T @ (balance * (torch.sigmoid(sums) - wanted))).abs()
        gradient[~usable] = -1
        gradient[chosen] = -1
        chosen.append(int(gradient.argmax()))
        columns = torch.tensor(chosen)
        weights, bias = logistic(values[:, columns], labels, penalty)
        fits.append(Fit(columns, weights, bias))
        sums = fits[-1](values)
    return fits


def sparse_probe(values: Tensor, labels: Tensor, most: int, seed: int = 0) -> Fit:
    """The regression whose size cross-validation chooses, from 1 to `most` columns.

    Of five folds each is left out once; of all sizes the smallest is taken whose loss is within one standard error of
    the best (Breiman et al. 1984).
    """
    count = min(most, values.shape[1])
    folds = _folds(labels, seed)
    losses = torch.full((FOLDS, count), torch.inf)
    for fold in range(FOLDS):
        kept, left = folds != fold, folds == fold
        for size, fit in enumerate(path(values[kept], labels[kept], count)):
            sums, wanted = fit(values[left]), labels[left].float()
            losses[fold, size] = torch.nn.functional.binary_cross_entropy_with_logits(sums, wanted)
    mean = losses.mean(dim=0)
    best = int(mean.argmin())
    error = float(losses[:, best].std()) / FOLDS**0.5
    size = int((mean <= mean[best] + error).nonzero()[0])
    return path(values, labels, size + 1)[-1]


def _folds(labels: Tensor, seed: int) -> Tensor:
    """`(n,)` the fold of each row, each set spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    folds = torch.zeros(len(labels), dtype=torch.long)
    for value in (True, False):
        rows = (labels == value).nonzero().squeeze(-1)
        folds[rows[torch.randperm(len(rows), generator=generator)]] = torch.arange(len(rows)) % FOLDS
    return folds
