"""Logistic regression on all columns, or on few, added one by one up to the size that cross-validation chooses.

scikit-learn fits each regression; the choice of columns is orthogonal matching pursuit, which it does not have for
logistic loss.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.lab.copies import dealt, weights_of
from steerkit.sites import Site

FOLDS: Final = 5
PENALTY: Final = 1e-2
"""On the squared weights of standardised features: it keeps weights finite where the sets are wholly apart."""

_STEPS: Final = 100


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


def logistic(
    x: Tensor, labels: Tensor, penalty: float = PENALTY, counted: Tensor | None = None
) -> tuple[Tensor, float]:
    """Weights `(k,)` and bias of the penalised logistic regression on `x` `(n, k)`, both sets weighing the same.

    Columns are standardised for the penalty; the result is for raw values. `labels` `(n,)` are bool; `counted` `(n,)`
    is the weight of each row within its set (default: 1).
    """
    x = x.double()
    mean, spread = x.mean(dim=0), _spread(x).clamp(min=1e-12)
    weights, bias = ridge_logistic((x - mean) / spread, labels, penalty, counted)
    raw = weights / spread
    return raw.float(), float(bias - mean @ raw)


def ridge_logistic(
    x: Tensor, labels: Tensor, penalty: float = PENALTY, counted: Tensor | None = None
) -> tuple[Tensor, float]:
    """Weights `(k,)` float64 and bias of a logistic regression on `x` `(n, k)` as it is, both sets weighing the same.

    The penalty is on the squared weights, not on the bias. Of one set alone the result is 0.
    """
    from sklearn.linear_model import LogisticRegression

    if labels.all() or not labels.any():
        return torch.zeros(x.shape[1], dtype=torch.float64), 0.0
    # scikit-learn minimises C times the weighted loss plus half the squared weights; the balance sums to n.
    model = LogisticRegression(C=1 / (2 * penalty * len(x)), solver="newton-cholesky", tol=1e-10, max_iter=_STEPS)
    model.fit(x.double().numpy(), labels.numpy(), sample_weight=_balance(labels, counted).numpy())
    return torch.from_numpy(model.coef_[0]), float(model.intercept_[0])


def dense_probe(values: Tensor, labels: Tensor, counted: Tensor | None = None) -> tuple[Tensor, float]:
    """Weights `(F,)` float64 and bias of a ridge-penalised logistic regression on all columns of `values` `(n, F)`.

    Columns are standardised for the penalty, those that hardly vary weigh nothing; the result is for raw values. The
    best weights lie in the span of the rows, so the regression runs on the rows' own coordinates there, of which there
    are no more than rows.
    """
    rows = values.double()
    mean, spread = rows.mean(dim=0), _spread(rows)
    alive, weights = spread > 1e-6, torch.zeros(values.shape[1], dtype=torch.float64)
    if not alive.any():
        return weights, 0.0
    scaled = (rows[:, alive] - mean[alive]) / spread[alive]
    _, sizes, directions = torch.linalg.svd(scaled, full_matrices=False)
    kept = directions[sizes > 1e-9 * sizes[0]]
    fitted, bias = ridge_logistic(scaled @ kept.T, labels, counted=counted)
    weights[alive] = (fitted @ kept) / spread[alive]
    return weights, float(bias - mean @ weights)


def activation_probe(
    activations: Mapping[Site, Tensor], labels: Tensor, counted: Tensor | None = None
) -> tuple[dict[Site, Tensor], float]:
    """`dense_probe` on the activations `(n, width)` of some sites together: `(width,)` by site, and the bias."""
    weights, bias = dense_probe(torch.cat(list(activations.values()), dim=1), labels, counted)
    parts = weights.split([values.shape[1] for values in activations.values()])
    return {site: part.float() for site, part in zip(activations, parts, strict=True)}, bias


def _spread(values: Tensor) -> Tensor:
    """`(F,)` standard deviations of the columns; 0 for a single row, which varies in nothing."""
    return values.std(dim=0) if len(values) > 1 else torch.zeros_like(values[0])


def _balance(labels: Tensor, counted: Tensor | None) -> Tensor:
    """`(n,)` float64 by which both sets weigh the same, 1 on average; all of them in one set where there is but one."""
    found = torch.ones(len(labels), dtype=torch.float64) if counted is None else counted.double()
    sides = [side for side in (labels, ~labels) if side.any()]
    for side in sides:
        found = torch.where(side, found / found[side].sum() * len(labels) / len(sides), found)
    return found


def path(
    values: Tensor, labels: Tensor, most: int, penalty: float = PENALTY, counted: Tensor | None = None
) -> list[Fit]:
    """The regressions on 1, 2, … up to `most` columns of `values` `(n, F)`, each with one column more.

    The next column is the one along which the loss falls fastest: the largest gradient of the standardised columns, as
    in orthogonal matching pursuit (Pati et al. 1993; for logistic loss Lozano et al. 2011). Columns that hardly vary
    are left out.
    """
    spread = _spread(values)
    scaled = (values - values.mean(dim=0)) / spread.clamp(min=1e-12)
    wanted, balance = labels.float(), _balance(labels, counted).float()
    usable = spread > 1e-6
    sums, fits, chosen = torch.zeros(len(values)), [], list[int]()
    for _ in range(min(most, int(usable.sum()))):
        gradient = (scaled.T @ (balance * (torch.sigmoid(sums) - wanted))).abs()
        gradient[~usable] = -1
        gradient[chosen] = -1
        chosen.append(int(gradient.argmax()))
        columns = torch.tensor(chosen)
        weights, bias = logistic(values[:, columns], labels, penalty, counted)
        fits.append(Fit(columns, weights, bias))
        sums = fits[-1](values)
    return fits


def sparse_probe(
    values: Tensor, labels: Tensor, most: int, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Fit:
    """The regression whose size cross-validation chooses, from 1 to `most` columns.

    Of five folds each is left out once; of all sizes the smallest is taken whose loss is within one standard error of
    the best (Breiman et al. 1984). Rows of one group stand in one fold and count once together. Of no columns, or of
    none that vary, it is the constant 0.
    """
    named = range(len(labels)) if groups is None else groups
    counted, folds = weights_of(named, labels), dealt(named, labels, FOLDS, seed)
    count = min(most, values.shape[1], int((_spread(values) > 1e-6).sum()))
    if not count:
        return Fit(torch.zeros(0, dtype=torch.long), torch.zeros(0), 0.0)
    losses = torch.full((FOLDS, count), torch.inf)
    for fold in range(FOLDS):
        kept, left = folds != fold, folds == fold
        if not left.any() or not labels[kept].any() or labels[kept].all():
            continue
        for size, fit in enumerate(path(values[kept], labels[kept], count, counted=counted[kept])):
            sums, wanted = fit(values[left]), labels[left].float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(sums, wanted, reduction="none")
            losses[fold, size] = loss.double() @ counted[left] / counted[left].sum()
    losses = losses[losses[:, 0].isfinite()]
    if len(losses) < 2:
        return path(values, labels, 1, counted=counted)[-1]
    mean = losses.mean(dim=0)
    best = int(mean.argmin())
    error = float(losses[:, best].std()) / len(losses) ** 0.5
    size = int((mean <= mean[best] + error).nonzero()[0])
    return path(values, labels, size + 1, counted=counted)[-1]
