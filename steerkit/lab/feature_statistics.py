"""Statistics of SAE features over a calibration set, the units in which policies give strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from steerkit.errors import SaeError
from steerkit.files import write_atomic
from steerkit.lab.reader import ActivationReader
from steerkit.sae import Sae, SaeSet
from steerkit.sites import Site

QUANTILES: Final[dict[str, float]] = {"q50": 0.5, "q90": 0.9, "q99": 0.99, "q999": 0.999}
"""The quantiles over all tokens that are kept."""

_FEATURES: Final = 512  # at a time, so that what a slice needs stays small
_BITS: Final = 5  # of the mantissa: 32 bins for each power of two
_LOWEST, _HIGHEST = -16, 10  # powers of two
_SHIFT: Final = 23 - _BITS
_FIRST: Final = (_LOWEST + 127) << _BITS
_BINS: Final = (_HIGHEST - _LOWEST) << _BITS


class FeatureCounts:
    """Statistics of one layer's features, gathered piece by piece in memory that does not grow with the tokens.

    Mean, standard deviation, density and maximum are exact (sums in float64). Quantiles come from a histogram for each
    feature, whose bins are a float32's exponent and the first 5 bits of its mantissa, from 2**-16 to 2**10 (values
    outside count in the outermost bins, zeros apart): the quantile is the middle of the bin in which the token at that
    rank falls, so it is at most 1/64 (1.6 %) from that token's value. Each feature takes 832 counters, 3.3 kB.
    """

    def __init__(self, d_sae: int) -> None:
        self.tokens = 0
        self._sums = torch.zeros(3, d_sae, dtype=torch.float64)  # of values, of squares, of tokens above 0
        self._highest = torch.zeros(d_sae)
        self._counts = torch.zeros(d_sae, _BINS, dtype=torch.int32)

    def add(self, features: Tensor) -> None:
        """Count features `(tokens, d_sae)`, at least 0."""
        features = features.float().cpu()
        self.tokens += len(features)
        self._highest = torch.maximum(self._highest, features.amax(0))
        for start in range(0, features.shape[1], _FEATURES):
            part = features[:, start : start + _FEATURES].T.contiguous()
            columns = slice(start, start + _FEATURES)
            wide = part.double()
            self._sums[:, columns] += torch.stack([wide.sum(1), wide.square().sum(1), (part > 0).sum(1)])
            rows, places = (part > 0).nonzero(as_tuple=True)
            bins = (part[rows, places].view(torch.int32) >> _SHIFT) - _FIRST
            keys = rows * _BINS + bins.clamp(0, _BINS - 1)
            self._counts[columns] += torch.bincount(keys, minlength=len(part) * _BINS).view(-1, _BINS).int()

    def result(self) -> dict[str, Tensor]:
        """`max, mean, std, density` and `QUANTILES` of every feature, each `(d_sae,)` float32.

        Every token counts, also those where the feature is 0; density is the share of tokens where it is above 0, and a
        quantile is that of the token at rank `int(share * (tokens - 1))`, the lower of two neighbours.
        """
        total, squares, active = self._sums / self.tokens
        found = {
            "max": self._highest,
            "mean": total.float(),
            "std": (squares - total.square()).clamp(min=0).sqrt().float(),
            "density": active.float(),
        }
        upto = self._counts.cumsum(1) + (self.tokens - self._sums[2]).long().unsqueeze(1)
        for name, share in QUANTILES.items():
            rank = int(share * (self.tokens - 1))
            bins = (upto <= rank).sum(1).clamp(max=_BINS - 1)
            low, high = (((bins + step + _FIRST) << _SHIFT).int().view(torch.float32) for step in (0, 1))
            middle = torch.minimum((low + high) / 2, self._highest)
            found[name] = torch.where(self.tokens - self._sums[2] > rank, 0.0, middle)
        return found


def feature_statistics(sae: Sae, activations: Tensor) -> dict[str, Tensor]:
    """The statistics of an SAE's features over activations `(tokens, d_in)`."""
    counts = FeatureCounts(sae.d_sae)
    for part in activations.split(2_048):
        counts.add(sae.encode(part))
    return counts.result()


def calibrate(model: PreTrainedModel, saes: SaeSet, texts: Sequence[Sequence[int]]) -> dict[Site, dict[str, Tensor]]:
    """By site, the statistics of all features of a set over what the model reads in `texts` (token ids)."""
    reader = ActivationReader(model, list(saes))
    counts = {site: FeatureCounts(sae.d_sae) for site, sae in saes.items()}
    for chunk in reader.chunks(texts):
        for values, (site, sae) in zip(chunk, saes.items(), strict=True):
            placed = sae.to(values.device)
            for part in values.split(2_048):
                counts[site].add(placed.encode(part))
    return {site: found.result() for site, found in counts.items()}


def save_statistics(by_site: Mapping[Site, Mapping[str, Tensor]], path: Path, tokens: int, source: str) -> None:
    """Write `layer_NN.NAME` tensors to a safetensors file whose metadata names the tokens and where they come from.

    Of another hook point than `attn_out` they are `resid_post_NN.NAME` and so on.

    Raises:
        SaeError: it cannot be written.
    """
    tensors = {
        f"{site.stem}.{name}": tensor.contiguous() for site, found in by_site.items() for name, tensor in found.items()
    }
    data = save(tensors, metadata={"tokens": str(tokens), "source": source})
    write_atomic(path, lambda file: file.write(data), SaeError)


def check_sites(saes: SaeSet) -> None:
    """Refuse a set whose SAEs read activations of several widths: one pass reads one width. Raises SaeError."""
    if len({sae.d_in for sae in saes.values()}) > 1:
        raise SaeError(f"{saes.name}: SAEs of several widths; measure each hook point as a set of its own")
