"""Sparse regression of directions on decoder rows: the fewest features whose rows, at several sites, rebuild them."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site


class Rebuilt(NamedTuple):
    """Directions at some sites, rebuilt from a few decoder rows of each."""

    shifts: Mapping[Feature, float]
    """By feature, the multiple of its decoder row."""
    span: Mapping[Site, float]
    """Share of each direction's square that its rows explain."""

    def vectors(self, saes: SaeSet) -> dict[Site, Tensor]:
        """By site, the sum of the rows `(width,)` float32."""
        found: dict[Site, Tensor] = {}
        for feature, shift in self.shifts.items():
            row = shift * saes[feature.site].W_dec[feature.index].detach().float().cpu()
            found[feature.site] = found[feature.site] + row if feature.site in found else row
        return found


def rebuilt(
    saes: SaeSet, directions: Mapping[Site, Tensor], worth: Mapping[Site, float], sizes: Sequence[int]
) -> list[Rebuilt]:
    """The directions by so many rows, for each of some numbers of rows in ascending order; fewer where they suffice.

    Orthogonal matching pursuit (Pati et al. 1993) over all sites at once: the next row is the one that explains most of
    what is left, where what a site's direction is worth is spread over its square. As a row of one site explains
    nothing of another, this is each site's own pursuit, merged by gain.

    Args:
        saes: the set.
        directions: by site, `(width,)`.
        worth: by site, what its whole direction is worth; one that is worth nothing gets no rows.
        sizes: numbers of rows.
    """
    paths = {site: _path(saes, site, directions[site], sizes[-1]) for site, value in worth.items() if value > 0}
    waiting = [(-worth[site] * path[1].span, site) for site, path in paths.items() if len(path) > 1]
    heapq.heapify(waiting)
    taken, found = dict.fromkeys(paths, 0), []
    for number in range(1, sizes[-1] + 1):
        if waiting:
            _, site = heapq.heappop(waiting)
            taken[site] += 1
            here, path = taken[site], paths[site]
            if here + 1 < len(path):
                heapq.heappush(waiting, (-worth[site] * (path[here + 1].span - path[here].span), site))
        if number in sizes:
            shifts = {feature: value for site, count in taken.items() for feature, value in paths[site][count].shifts}
            found.append(Rebuilt(shifts, {site: paths[site][count].span for site, count in taken.items() if count}))
    return found


class _Point(NamedTuple):
    """A site's direction by some number of rows."""

    shifts: list[tuple[Feature, float]]
    span: float


def _path(saes: SaeSet, site: Site, direction: Tensor, most: int) -> list[_Point]:
    """A site's pursuit: with no row, with one, and so on."""
    from sklearn.linear_model import orthogonal_mp

    rows = saes[site].W_dec.detach().double().cpu()
    norms = rows.norm(dim=1).clamp(min=1e-12)
    wanted = direction.double().cpu()
    with warnings.catch_warnings():  # where few rows rebuild it, the pursuit ends early, and says so
        warnings.simplefilter("ignore", RuntimeWarning)
        columns = (rows / norms.unsqueeze(1)).T.numpy()
        path = orthogonal_mp(columns, wanted.numpy(), n_nonzero_coefs=min(most, *rows.shape), return_path=True)
    found, square = [_Point([], 0.0)], float(wanted.square().sum())
    for weights in torch.from_numpy(path).reshape(len(rows), -1).T / norms:
        used = weights.nonzero().squeeze(-1)
        left = float((wanted - weights[used] @ rows[used]).square().sum())
        found.append(_Point([(Feature(site, int(i)), float(weights[i])) for i in used], 1 - left / max(square, 1e-300)))
    return found
