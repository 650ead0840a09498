"""The statistics of a search, against counting by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.lab.separation import (
    auroc,
    auroc_covariance,
    auroc_gain,
    auroc_interval,
    benjamini_hochberg,
    bound_between,
    effect_size,
    holm,
    mann_whitney,
    ranked,
    signed_rank,
    spearman,
    wilson,
)

_SETS = st.lists(st.integers(0, 4), min_size=2, max_size=8)


def columns(positives: list[float], negatives: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """One column `(n, 1)` of both sets, and which rows are positive."""
    values = torch.tensor([*positives, *negatives], dtype=torch.float32).unsqueeze(-1)
    return values, torch.tensor([True] * len(positives) + [False] * len(negatives))


def by_pairs(positives: list[float], negatives: list[float]) -> float:
    """The AUROC, pair by pair."""
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(positives, negatives)]
    return sum(wins) / len(wins)


@given(_SETS, _SETS)
def test_auroc_is_the_share_of_pairs(positives: list[int], negatives: list[int]) -> None:
    """With ties and without, it is what counting every pair gives."""
    values, labels = columns([*map(float, positives)], [*map(float, negatives)])
    assert float(auroc(values, labels)) == pytest.approx(by_pairs([*positives], [*negatives]))


def test_columns_do_not_mix() -> None:
    """A table of columns gives what each column gives alone."""
    values = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    labels = torch.arange(30) % 3 == 0
    for measure in (auroc, mann_whitney, effect_size):
        alone = torch.cat([measure(values[:, [column]], labels) for column in range(7)])
        torch.testing.assert_close(measure(values, labels), alone)


def test_ranks_share_ties() -> None:
    """Rows that tie share the mean of their ranks, and a group of t counts t**3 - t."""
    found = ranked(torch.tensor([[5.0], [1.0], [5.0], [7.0], [5.0]]))
    assert found.ranks.squeeze(-1).tolist() == [3, 1, 3, 5, 3]
    assert found.ties.tolist() == [24]


def test_mann_whitney_against_hand_work() -> None:
    """Without ties: U = 0 of 25 pairs, z = (12.5 - 0.5) / sqrt(25 * 11 / 12), so p = 0.0122; equal rows have p = 1."""
    values, labels = columns([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])
    assert float(mann_whitney(values, labels)) == pytest.approx(0.01219, abs=1e-5)
    assert float(mann_whitney(torch.ones(10, 1), labels)) == 1.0


def test_mann_whitney_holds_its_level() -> None:
    """Where there is no difference about 5 % of p values lie below 0.05, and with one nearly all do."""
    values, labels = torch.randn(60, 4000, generator=torch.Generator().manual_seed(1)).relu(), torch.arange(60) % 2 == 0
    assert 0.03 < float((mann_whitney(values, labels) < 0.05).double().mean()) < 0.06
    values[labels] += 2
    assert float((mann_whitney(values, labels) < 0.05).double().mean()) > 0.95


def test_benjamini_hochberg_against_hand_work() -> None:
    """Of 0.01, 0.02, 0.03, 0.04, 0.20 four are adjusted to 0.05; the order of the tests does not matter."""
    p = torch.tensor([0.20, 0.01, 0.04, 0.02, 0.03], dtype=torch.float64)
    assert benjamini_hochberg(p).tolist() == pytest.approx([0.20, 0.05, 0.05, 0.05, 0.05])
    assert benjamini_hochberg(torch.tensor([0.9, 0.001])).tolist() == pytest.approx([0.9, 0.002])


def test_holm_against_hand_work() -> None:
    """The smallest is multiplied by the number of tests, the next by one less, and none falls below the one before."""
    p = torch.tensor([0.03, 0.01, 0.02], dtype=torch.float64)
    assert holm(p).tolist() == pytest.approx([0.04, 0.03, 0.04])


def test_signed_rank_against_counting() -> None:
    """All of five differences above 0 have p = 1 / 32; with one small one below, 2 / 32; none is no evidence."""
    assert signed_rank(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(1 / 32)
    assert signed_rank(torch.tensor([-1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 32)
    assert signed_rank(torch.zeros(9)) == 1.0
    many = torch.arange(1.0, 21.0)
    assert signed_rank(many) < 1e-4 < 0.99 < signed_rank(-many)


def test_spearman_sees_order_alone() -> None:
    """A monotone change leaves it 1, reversing makes it -1, and d**2 = 2 of four ranks gives 0.8."""
    one = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, one.exp()) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, torch.tensor([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert math.isnan(spearman(one, torch.ones(4)))


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (15, 148, 0.0624, 0.1605)]
)
def test_wilson_against_known_values(hits: int, count: int, low: float, high: float) -> None:
    """The last one is Newcombe's own example (1998)."""
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_delong_against_counting() -> None:
    """The covariance is that of the pair-wise shares of each positive and each negative."""
    values = torch.randn(17, 2, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    labels = torch.arange(17) < 7
    wins = (values[labels][:, None] > values[~labels][None]).double()
    wins += 0.5 * (values[labels][:, None] == values[~labels][None]).double()
    expected = torch.cov(wins.mean(dim=1).T) / 7 + torch.cov(wins.mean(dim=0).T) / 10
    torch.testing.assert_close(auroc_covariance(values, labels), expected)


def test_intervals_cover() -> None:
    """Of 300 samples about 95 % of the intervals hold the true AUROC; sets that are wholly apart leave room below 1."""
    generator, true = torch.Generator().manual_seed(3), 0.5 * math.erfc(-1 / math.sqrt(2))
    labels = torch.arange(80) < 40
    hits = 0
    for _ in range(300):
        values = torch.randn(80, generator=generator) + math.sqrt(2) * labels
        low, high = auroc_interval(values, labels)
        hits += low <= true <= high
    assert 0.91 <= hits / 300 <= 0.99
    low, high = auroc_interval(labels.float(), labels)
    assert 0.9 < low < 1 == high
    low, high = auroc_interval(-labels.float(), labels)
    assert low == 0 < high < 0.1


def test_a_paired_gain_needs_a_difference() -> None:
    """A sharper number beats a duller one on the same rows, the reverse does not, and a copy is no better."""
    generator, labels = torch.Generator().manual_seed(4), torch.arange(200) < 100
    sharp, dull = (torch.randn(200, generator=generator) + shift * labels for shift in (2.5, 1.0))
    gain, p = auroc_gain(sharp, dull, labels)
    assert gain > 0.1
    assert p < 0.01
    assert auroc_gain(dull, sharp, labels)[1] > 0.99
    assert auroc_gain(sharp, sharp, labels) == (0.0, 1.0)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 9, width=16), min_size=3, max_size=300), st.sampled_from([0.0, 0.01, 0.1]))
def test_a_bound_keeps_its_promise(negatives: list[float], false: float) -> None:
    """At most the promised share of the negatives exceeds it, wherever the positives are."""
    some = torch.tensor(negatives)
    for positives in (some, some + 5):
        bound = bound_between(positives, some, false)
        assert int((some > bound).sum()) <= false * len(negatives)
    assert bound_between(torch.full((9,), 8.0), torch.zeros(9)) == 2.0
