"""Feature statistics gathered in pieces, against the exact ones over all tokens."""

from __future__ import annotations

import pytest
import torch

from steerkit.lab.feature_statistics import QUANTILES, FeatureCounts


@pytest.fixture(scope="module")
def features():
    """Sparse features of very different sizes; some never fire, some always do."""
    generator = torch.Generator().manual_seed(5)
    sizes = 10 ** torch.linspace(-3, 2, 40)
    values = torch.rand(20_000, 40, generator=generator).pow(3) * sizes
    fires = torch.rand(20_000, 40, generator=generator) < torch.linspace(0, 1, 40)
    return values * fires


def counted(features, *sizes):
    counts = FeatureCounts(features.shape[1])
    for part in features.split(list(sizes)):
        counts.add(part)
    return counts.result()


def test_streamed_statistics_are_the_exact_ones(features):
    """Mean, deviation, density and maximum are exact, quantiles within 1/64; another rank, the control, is not."""
    found = counted(features, 20_000)
    assert torch.equal(found["max"], features.amax(0))
    assert torch.allclose(found["mean"], features.double().mean(0).float(), rtol=1e-5)
    assert torch.allclose(found["std"], features.double().std(0, correction=0).float(), rtol=1e-4)
    assert torch.equal(found["density"], (features > 0).double().mean(0).float())
    ranked = features.sort(dim=0).values
    for name, share in QUANTILES.items():
        exact = ranked[int(share * (len(features) - 1))]
        assert torch.allclose(found[name], exact, rtol=1 / 64, atol=2**-16)
    assert not torch.allclose(found["q90"], ranked[int(0.8 * len(features))], rtol=1 / 64, atol=2**-16)


def test_pieces_do_not_matter(features):
    """One piece or many uneven ones give the same quantiles, density and maximum, and means to rounding."""
    whole, pieces = counted(features, 20_000), counted(features, 1, 7_999, 12_000)
    for name, values in whole.items():
        assert torch.allclose(values, pieces[name], rtol=1e-6)


def test_memory_does_not_grow_with_the_tokens(features):
    """After ten times the tokens the counters have the size that they had; the features, the control, do not."""
    counts = FeatureCounts(40)

    def held():
        return sum(part.numel() for part in vars(counts).values() if isinstance(part, torch.Tensor))

    before = held()
    for _ in range(10):
        counts.add(features[:1000])
    assert held() == before < 10 * features[:1000].numel()
