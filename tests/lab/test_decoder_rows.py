"""Directions rebuilt from decoder rows: the rows that made them are found, and the worth of a site decides where."""

from __future__ import annotations

import pytest
import torch

from steerkit.lab.find.decoder_rows import rebuilt
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.testing import planted_saes, random_model, small_model


@pytest.fixture(scope="module")
def saes() -> SaeSet:
    """Rows of an orthonormal basis, at three sites."""
    return planted_saes(small_model())


def row(saes: SaeSet, layer: int, index: int) -> torch.Tensor:
    """A decoder row."""
    return saes[layer].W_dec[index]


def test_the_rows_that_made_a_direction_are_found(saes: SaeSet) -> None:
    """Over two sites, by what they explain of what is worth most; with enough rows nothing is left and no row more."""
    directions = {
        Site(1): 2 * row(saes, 1, 3) - 0.5 * row(saes, 1, 7),
        Site(2): row(saes, 2, 5),
    }
    one, two, eight = rebuilt(saes, directions, {Site(1): 1.0, Site(2): 3.0}, [1, 2, 8])
    assert one.shifts == {Feature(2, 5): pytest.approx(1)}
    assert two.shifts == {Feature(2, 5): pytest.approx(1), Feature(1, 3): pytest.approx(2)}
    assert two.span == {Site(1): pytest.approx(4 / 4.25), Site(2): pytest.approx(1)}
    assert eight.shifts == pytest.approx({Feature(2, 5): 1, Feature(1, 3): 2, Feature(1, 7): -0.5})
    for site, vector in eight.vectors(saes).items():
        torch.testing.assert_close(vector, directions[site])


def test_a_site_that_is_worth_nothing_gets_no_rows(saes: SaeSet) -> None:
    """The control: the same directions, where all of the worth is in the other site, or in none."""
    directions = {Site(1): row(saes, 1, 3), Site(2): row(saes, 2, 5)}
    (found,) = rebuilt(saes, directions, {Site(1): 0.1, Site(2): -3.0}, [4])
    assert set(found.shifts) == {Feature(1, 3)}
    assert rebuilt(saes, directions, {Site(1): 0.0, Site(2): 0.0}, [1, 4]) == [({}, {}), ({}, {})]


def test_more_rows_of_a_real_dictionary_explain_more() -> None:
    """Rows that are no basis: what they explain grows with their number, and is what their sum leaves of it."""
    generator = torch.Generator().manual_seed(0)
    saes = planted_saes(random_model({"num_hidden_layers": 2, "hidden_size": 48, "vocab_size": 64}))
    for site in saes:
        saes[site].W_dec.copy_(torch.randn(saes[site].W_dec.shape, generator=generator))
    directions = {site: torch.randn(48, generator=generator) for site in saes}
    found = rebuilt(saes, directions, dict.fromkeys(saes, 1.0), [4, 16, 40])
    spans = [sum(one.span.values()) for one in found]
    assert spans == sorted(spans)
    assert [len(one.shifts) for one in found] == [4, 16, 40]
    for site, vector in found[-1].vectors(saes).items():
        left = (directions[site] - vector).square().sum() / directions[site].square().sum()
        assert found[-1].span[site] == pytest.approx(1 - float(left), abs=1e-5)
