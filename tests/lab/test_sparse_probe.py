"""Sparse logistic regression: it converges, finds what is planted, and takes no more than that."""

from __future__ import annotations

import pytest
import torch

from steerkit.lab.copies import weights_of
from steerkit.lab.sparse_probe import logistic, path, sparse_probe
from steerkit.lab.two_sample import auroc


def planted(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """240 rows of 200 columns of which 3, 50 and 120 together say the label, each by itself only a little."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(240, 200, generator=generator)
    sums = values[:, 3] + values[:, 50] - values[:, 120] + 0.2 * torch.randn(240, generator=generator)
    return values.exp(), sums > 0


def test_the_regression_is_the_minimum() -> None:
    """No small step of any weight makes the penalised loss smaller."""
    values, labels = planted()
    x = values[:, [3, 50, 120, 7]]
    weights, bias = logistic(x, labels, 1e-2)
    spread, wanted = x.std(dim=0), labels.float()
    balance = torch.where(labels, 0.5 / wanted.mean(), 0.5 / (1 - wanted.mean()))

    def loss(weights: torch.Tensor, bias: float) -> float:
        sums = x @ weights + bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(sums, wanted, balance)
        return float(losses + 1e-2 * (weights * spread).square().sum())

    best = loss(weights, bias)
    for step in torch.cat([torch.eye(4), -torch.eye(4)]) * 0.05:
        assert loss(weights + step, bias) > best
    assert loss(weights, bias + 0.05) > best < loss(weights, bias - 0.05)


def test_what_is_planted_is_found() -> None:
    """Three columns of 200 are chosen, no more, and they tell unseen rows apart better than any one of them."""
    values, labels = planted()
    fit = sparse_probe(values.log(), labels, most=8)
    assert set(fit.columns[:3].tolist()) == {3, 50, 120}
    assert len(fit.columns) <= 4
    unseen, truth = planted(1)
    together = float(auroc(fit(unseen.log()).unsqueeze(-1), truth))
    alone = auroc(unseen[:, [3, 50, 120]], truth)
    assert together > 0.97 > 0.85 > float((alone - 0.5).abs().max() + 0.5)


def test_noise_is_not_combined() -> None:
    """Where one column says all, cross-validation stops at it; the control shows that the path would go on."""
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(100, 50, generator=generator)
    labels = torch.arange(100) % 2 == 0
    values[:, 9] += 6 * labels
    assert sparse_probe(values, labels, most=6).columns.tolist() == [9]
    assert len(path(values, labels, 6)) == 6


def test_constant_columns_are_left_out() -> None:
    """A column that never varies is not chosen, however many are asked for."""
    values = torch.zeros(40, 3)
    values[:20, 1] = 1
    fits = path(values, torch.arange(40) < 20, 3)
    assert [fit.columns.tolist() for fit in fits] == [[1]]
    assert float(fits[0].weights) == pytest.approx(-2 * fits[0].bias, rel=1e-3)


@pytest.mark.parametrize("positives", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", ["zeros", "constant", "apart"])
def test_tiny_sets_are_fitted_without_a_warning(positives: int, kind: str) -> None:
    """With one set, one row of it, or columns that say nothing the probe is finite, and the constant 0 of nothing."""
    labels = torch.arange(5) < positives
    values = {"zeros": torch.zeros(5, 3), "constant": torch.ones(5, 3), "apart": torch.arange(15.0).view(5, 3)}[kind]
    fit = sparse_probe(values, labels, 2)
    assert bool(fit(values).isfinite().all())
    assert (len(fit.columns) > 0) is (kind == "apart")
    weights, bias = logistic(values[:1], labels[:1])
    assert weights.tolist() == [0, 0, 0]
    assert bias == bias


def test_copies_do_not_move_the_probe() -> None:
    """A row four times, as copies of one, is fitted as it is alone; the control that counts all four is another fit."""
    values, labels = planted()
    rows = torch.arange(240).repeat_interleave(1 + 3 * (torch.arange(240) % 2 == 0))
    alone = sparse_probe(values[:, :60], labels, 3)
    copied = sparse_probe(values[rows][:, :60], labels[rows], 3, groups=rows.tolist())
    counted = sparse_probe(values[rows][:, :60], labels[rows], 3)
    x = values[:, [3, 50]]
    once, again = logistic(x, labels), logistic(x[rows], labels[rows], counted=weights_of(rows.tolist(), labels[rows]))
    torch.testing.assert_close(copied.columns, alone.columns)
    torch.testing.assert_close(again[0], once[0], rtol=0.15, atol=1e-3)  # but for the penalty's own spread
    assert not torch.equal(counted.weights, alone.weights)
