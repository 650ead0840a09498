"""The statistics of a search, against counting by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.lab.two_sample import (
    auroc,
    auroc_covariance,
    auroc_gain,
    auroc_interval,
    benjamini_hochberg,
    bound_between,
    effect_size,
    holm,
    least_signed_rank,
    mann_whitney,
    newcombe,
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
    assert signed_rank(many) == pytest.approx(2.0**-20)
    assert signed_rank(-many) == pytest.approx(1)
    assert [least_signed_rank(count) for count in (0, 1, 6, 13)] == [1, 0.5, 1 / 64, 2.0**-13]


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_signed_rank_counts_all_signs(differences: list[int]) -> None:
    """With ties and zeros, it is the share of all signs under which the ranks above 0 come to as much."""
    kept = [one for one in differences if one]
    sizes = sorted(map(abs, kept))
    ranks = [sizes.index(abs(one)) + (sizes.count(abs(one)) + 1) / 2 for one in kept]
    above = sum(rank for rank, one in zip(ranks, kept, strict=True) if one > 0)
    signs = itertools.product((0, 1), repeat=len(kept))
    hits = [sum(rank for rank, one in zip(ranks, some, strict=True) if one) >= above for some in signs]
    assert signed_rank(torch.tensor(differences, dtype=torch.float32)) == pytest.approx(sum(hits) / len(hits))


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


@pytest.mark.parametrize(("wins", "losses"), [(10, 200), (25, 25), (10, 10), (5, 40), (40, 40)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 2.8])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_intervals_cover(wins: int, losses: int, shift: float, kind: str) -> None:
    """Of 2,000 samples at least 94 % of the intervals hold the true AUROC; those by DeLong's variance, the control, do
    so in fewer where sets are small and lie far apart."""
    generator, labels = torch.Generator().manual_seed(3), torch.arange(wins + losses) < wins
    true = 0.5 * math.erfc(-shift / 2)
    values = torch.randn(wins + losses, 2_000, generator=generator) + shift * labels.unsqueeze(-1)
    some = values.exp() if kind == "skewed" else values
    areas = auroc(some, labels)
    assert auroc_interval(some[:, 0], labels) == newcombe(float(areas[0]), wins, losses)
    found = {area: newcombe(area, wins, losses) for area in set(areas.tolist())}
    hits = [found[area].low <= true <= found[area].high for area in areas.tolist()]
    assert sum(hits) / 2_000 >= 0.94
    if shift > 2.5 and wins < 40:
        spread = 1.96 * torch.cat([auroc_covariance(part, labels).diagonal() for part in some.split(100, dim=1)]).sqrt()
        assert float(((areas - true).abs() <= spread).double().mean()) < 0.92


def test_intervals_leave_room_where_sets_are_apart() -> None:
    """The end that was measured is open, the other is not at it; of nothing the interval is everything."""
    labels = torch.arange(80) < 40
    low, high = auroc_interval(labels.float(), labels)
    assert 0.9 < low < 1 == high
    low, high = auroc_interval(-labels.float(), labels)
    assert low == 0 < high < 0.1
    assert auroc_interval(torch.zeros(80), labels) == pytest.approx((0.376, 0.624), abs=0.005)
    assert auroc_interval(torch.zeros(3), torch.ones(3, dtype=torch.bool)) == (0.0, 1.0)


def test_weights_count_copies_once() -> None:
    """Every row five times at a fifth gives what the rows give; the control without weights gives smaller p values."""
    values = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    labels = torch.arange(30) % 3 == 0
    copied, copies = values.repeat(5, 1), labels.repeat(5)
    weights = torch.full((150,), 0.2)
    for measure in (auroc, mann_whitney, effect_size, auroc_covariance):
        torch.testing.assert_close(measure(copied, copies, weights), measure(values, labels), rtol=1e-5, atol=1e-9)
    interval = auroc_interval(values[:, 0], labels)
    assert auroc_interval(copied[:, 0], copies, weights) == pytest.approx(interval)
    once, again = auroc_interval(copied[:, 0], copies)
    assert again - once < interval.high - interval.low
    gain = auroc_gain(values[:, 0], values[:, 1], labels)
    assert auroc_gain(copied[:, 0], copied[:, 1], copies, weights) == pytest.approx(gain, rel=1e-5)
    bound = bound_between(values[labels, 0], values[~labels, 0], 0.1)
    assert bound_between(copied[copies, 0], copied[~copies, 0], 0.1, weights[~copies]) == pytest.approx(bound)
    assert bool((mann_whitney(copied, copies) <= mann_whitney(values, labels)).all())


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tiny_and_constant_columns_are_no_evidence(rows: int) -> None:
    """One row, one set, rows that are equal and rows that are 0: a number, no warning, and no finding."""
    for labels in (torch.ones(rows, dtype=torch.bool), torch.arange(rows) < 1):
        for values in (torch.zeros(rows, 2), torch.ones(rows, 2), torch.arange(2.0 * rows).view(rows, 2)):
            assert bool((mann_whitney(values, labels) > 0.05).all())
            assert bool(((auroc(values, labels) >= 0) & (auroc(values, labels) <= 1)).all())
            low, high = auroc_interval(values[:, 0], labels)
            assert 0 <= low <= high <= 1
            assert auroc_gain(values[:, 0], values[:, 1], labels)[1] >= 0.5
            if 0 < int(labels.sum()) < rows:
                assert bool(effect_size(values, labels).isfinite().all())


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
    """A new negative exceeds it with a chance of at most the promise, or of 1 / (n + 1) where n are too few."""
    some = torch.tensor(negatives)
    for positives in (some, some + 5):
        bound = bound_between(positives, some, false)
        assert int((some > bound).sum()) + 1 <= max(1, false * (len(negatives) + 1) + 1e-6)
    assert bound_between(torch.full((9,), 8.0), torch.zeros(9)) == 2.0
