"""A set of SAEs, one per site, with the statistics and labels of their features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.fingerprints import sha256_of
from steerkit.kept import Kept
from steerkit.labels import LABELS_FILE, read_labels
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.cpu.packed_sae import LaidOutSae, wins
from steerkit.sae.cpu.pages import release
from steerkit.sae.formats import read_folders
from steerkit.sae.formats.files import load_tensors
from steerkit.sae.sae import Columns, Sae
from steerkit.sites import Feature, Site

STATISTICS_FILE = "stats.safetensors"
UNITS = ("max", "mean", "std", "density", "q50", "q90", "q99", "q999")
_MARKS: dict[str, str | None] = {"attn_out": None, "attn_in": "input"}
"""Hook points that a fingerprint names otherwise than by their own name."""
_MOST_COLUMNS = 64 << 20
"""Bytes of columns that a set keeps: those of 13,000 features of FunctionGemma's width."""


class SaeSet(Mapping[Site, Sae]):
    """SAEs by site; `saes["resid_post.3"]` is the one of that site, `saes[3]` that of `attn_out.3`.

    Attributes:
        name: where the set came from, as the user wrote it.
        model_name: the model all of them were trained on.
        checkpoints: by site, with history and path.
        labels: what people call single features.
        folder: where its statistics and labels lie; None where it came from no folder, or several.
    """

    def __init__(
        self,
        name: str,
        checkpoints: Iterable[Checkpoint],
        statistics: Mapping[str, Tensor] | None = None,
        labels: Mapping[Feature, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.checkpoints = {one.site: one for one in sorted(checkpoints, key=lambda one: one.site)}
        if not self.checkpoints:
            raise SaeError(f"{name}: no SAE in the set; expected at least one")
        models = sorted({checkpoint.model_name for checkpoint in self.checkpoints.values()})
        if len(models) > 1:
            raise SaeError(f"{name}: SAEs of several models in one set: {', '.join(models)}")
        self.name, self.model_name = name, models[0]
        self.labels = {Feature(self._owner(one.site), one.index): text for one, text in (labels or {}).items()}
        self.folder = folder
        self._statistics = {self._own_key(key): table for key, table in (statistics or {}).items()}
        self._copies: dict[tuple[Site, torch.device, torch.dtype], Sae] = {}
        self._columns: Kept[tuple[Site, tuple[int, ...], torch.device], Columns] = Kept(
            _MOST_COLUMNS, lambda columns: columns.bytes
        )
        self._check_statistics()

    def _owner(self, site: Site) -> Site:
        """The site that a file means by a layer alone: in sets of an older form also `attn_in`."""
        inner = Site(site.layer, "attn_in")
        return (
            inner if site.point == "attn_out" and site not in self.checkpoints and inner in self.checkpoints else site
        )

    def _own_key(self, key: str) -> str:
        name, _, unit = key.partition(".")
        layer = name.removeprefix("layer_")
        return f"{self._owner(Site(int(layer))).stem}.{unit}" if name != layer and layer.isdecimal() else key

    def __getitem__(self, site: Site | int | str) -> Sae:
        try:
            return self.checkpoints[Site.of(site)].sae
        except ValueError:
            raise KeyError(site) from None

    def __iter__(self) -> Iterator[Site]:
        return iter(self.checkpoints)

    def __len__(self) -> int:
        return len(self.checkpoints)

    def on(self, site: Site, device: torch.device, dtype: torch.dtype | None = None) -> Sae:
        """The site's SAE on a device, its weights as stored or in `dtype`: itself, or a copy made once and kept.

        On a CPU its encoder is packed where that is faster, in float32 and beside the other.
        """
        key = (site, device, dtype or self[site].W_enc.dtype)
        if key not in self._copies:
            with torch.inference_mode(False):  # what is kept may be wanted for gradients later
                self._copies[key] = self._placed(self[site].to(device, dtype))
        return self._copies[key]

    def _placed(self, sae: Sae) -> Sae:
        return LaidOutSae(sae) if sae.W_enc.device.type == "cpu" and self._lays_out else sae

    @cached_property
    def _lays_out(self) -> bool:
        return wins(self.values())

    def columns(self, site: Site, indices: Sequence[int], device: torch.device) -> Columns:
        """`Sae.columns` of a site on a device, for reading only: the last that were asked for are kept.

        The weights around them do not stay in memory.
        """
        with torch.inference_mode(False):  # as above
            return self._columns.get((site, tuple(indices), device), lambda: self._gathered(site, indices, device))

    def _gathered(self, site: Site, indices: Sequence[int], device: torch.device) -> Columns:
        sae = self[site]
        found = sae.columns(torch.tensor(indices))
        if found.whole is not None:
            return found._replace(whole=self.on(site, device, torch.float32)).to(device)
        release(sae.W_enc)
        release(sae.W_dec)
        return found.to(device)

    def statistic(self, feature: Feature, unit: str) -> float:
        """A feature's statistic (`max`, `mean`, `std`, `density`, `q50`, `q90`, `q99`, `q999`), in raw activation.

        Raises:
            SaeError: the set has no such site, feature or statistic.
        """
        self.check(feature)
        table = self._statistics.get(f"{feature.site.stem}.{unit}")
        if table is None:
            raise SaeError(
                f"{self.name}: no statistic '{unit}' for {feature.site.name}; "
                f"give a raw value, or add {STATISTICS_FILE} to the set"
            )
        return float(table[feature.index])

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor]) -> SaeSet:
        """The set with other decoder rows `(d_in,)` for some features, without statistics: quantities must be raw."""
        if not rows:
            return self
        checkpoints = dict(self.checkpoints)
        for site in {feature.site for feature in rows}:
            sae, decoder = self[site], self[site].W_dec.float().clone()  # a rounded row would have another norm
            for feature, row in rows.items():
                if feature.site == site:
                    decoder[feature.index] = row.to(decoder)
            checkpoints[site] = replace(checkpoints[site], sae=sae.having(W_dec=decoder))
        return SaeSet(self.name, checkpoints.values(), labels=self.labels, folder=self.folder)

    def check(self, feature: Feature) -> None:
        """Raise SaeError unless the set has this site and its dictionary this index."""
        site = feature.site
        if site not in self:
            raise SaeError(f"{self.name}: no SAE for {site.name}; it has {named_sites(self)}")
        d_sae = self[site].d_sae
        if not 0 <= feature.index < d_sae:
            raise SaeError(f"{self.name}: {site.name} has no feature {feature.index}; expected 0 to {d_sae - 1}")

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:…` over every weight, its name, dtype and shape, and all else an SAE computes by, site by site."""
        return sha256_of(self._weights())

    def _weights(self) -> Iterator[str | memoryview]:
        for (layer, point), sae in self.items():
            # A plain ReLU SAE on attn_out adds nothing here: its set is known by its weights alone.
            marks = {"k": sae.k, "subtract_b_dec": sae.subtract_b_dec or None, "site": _MARKS.get(point, point)}
            yield from (f"{layer}.{name} {mark}\n" for name, mark in marks.items() if mark is not None)
            for key, tensor in sae.tensors.items():
                yield f"{layer}.{key} {tensor.dtype} {tuple(tensor.shape)}\n"
                yield tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data
                release(tensor)

    def _check_statistics(self) -> None:
        for key, table in self._statistics.items():
            name, _, unit = key.partition(".")
            site = next((one for one in self if one.stem == name), None)
            if site is None or unit not in UNITS:
                continue
            if tuple(table.shape) != (self[site].d_sae,):
                raise SaeError(
                    f"{self.name}/{STATISTICS_FILE}: {key}: got {tuple(table.shape)}, expected ({self[site].d_sae},)"
                )
            if not table.isfinite().all():
                raise SaeError(
                    f"{self.name}/{STATISTICS_FILE}: {key}: got NaN or infinity, expected finite numbers; measure them "
                    f"again with `steerkit sae calibrate --force`"
                )


def load_folders(folders: Sequence[Path], name: str) -> SaeSet:
    """Load a set from its folders; where it is one, with the `stats.safetensors` and `labels.json` in it.

    Raises:
        SaeError: see `steerkit.sae.formats.read_folders`; also statistics or labels that are none.
    """
    checkpoints = read_folders(folders, name)
    if len(folders) > 1:
        return SaeSet(name, checkpoints)
    (folder,) = folders
    return SaeSet(name, checkpoints, _read_statistics(folder), read_labels(folder / LABELS_FILE), folder)


def _read_statistics(folder: Path) -> dict[str, Tensor]:
    path = folder / STATISTICS_FILE
    tables = load_tensors(path)[0] if path.exists() else {}
    if strange := next((key for key, table in tables.items() if table.is_complex()), None):
        raise SaeError(f"{path}: {shown(strange)}: got complex numbers, expected real ones")
    return {key: table.float() for key, table in tables.items()}


def named_sites(sites: Iterable[Site]) -> str:
    """Sites in words: `layers 0 to 3` for those of `attn_out`, `resid_post.0 to 3` for others."""
    by_point: dict[str, list[int]] = {}
    for layer, point in sites:
        by_point.setdefault("layers " if point == "attn_out" else f"{point}.", []).append(layer)
    return "; ".join(f"{name}{_ranges(layers)}" for name, layers in by_point.items())


def _ranges(layers: list[int]) -> str:
    whole = layers == list(range(layers[0], layers[-1] + 1)) and len(layers) > 1
    return f"{layers[0]} to {layers[-1]}" if whole else ", ".join(map(str, layers))
