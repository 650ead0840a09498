"""What the SAEs themselves say of a feature: its label, its statistics, and its weights."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from steerkit.audit import TurnRecord
from steerkit.errors import SaeError
from steerkit.kept import Kept
from steerkit.report import measured
from steerkit.sites import Feature
from steerkit.viewer.sae_labels import local_name

if TYPE_CHECKING:
    from steerkit.sae import SaeSet

_SETS: Final[Kept[str, SaeSet | None]] = Kept(2)


class Facts(NamedTuple):
    """A feature in its SAE's files."""

    saes: str
    kind: str
    label: str | None
    numbers: list[tuple[str, str]]
    """Statistics that the set has, in raw activation, and numbers of the weights."""


def facts_of(turn: TurnRecord, feature: Feature) -> Facts | None:
    """A feature in the SAEs of a recorded turn; None where this machine does not have them, or they do not have it.

    Only their files are read: no model is loaded, and nothing is fetched.
    """
    if turn.saes is None:
        return None
    try:
        name = local_name(turn)
    except OSError:  # a hostile record may name any path, such as one that is too long
        return None
    saes = _SETS.get(name, lambda: _read(name))
    if saes is None:
        return None
    try:
        saes.check(feature)
    except SaeError:
        return None
    return Facts(saes.name, saes[feature.site].kind, saes.labels.get(feature), _numbers(saes, feature))


def _read(name: str) -> SaeSet | None:
    from steerkit.sae import local_set

    try:
        return local_set(name)
    except SaeError:
        return None


def _numbers(saes: SaeSet, feature: Feature) -> list[tuple[str, str]]:
    from steerkit.sae import UNITS

    found = {}
    for unit in UNITS:
        with suppress(SaeError):  # the set was not measured
            found[unit] = saes.statistic(feature, unit)
    found |= saes[feature.site].numbers(feature.index)
    return [(unit, measured(unit, value)) for unit, value in found.items()]
