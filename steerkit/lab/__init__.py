"""The workshop: SAEs are trained, features found, policies proved and calls explained."""

from steerkit.lab.activations import collect
from steerkit.lab.cases import Case, read_cases
from steerkit.lab.corpus import Corpus, read_corpus
from steerkit.lab.directions import (
    MadeDirection,
    difference_of_means,
    make_direction,
    mean_activations,
    origin_of,
    source_of,
    write_direction,
)
from steerkit.lab.extra import check_extra
from steerkit.lab.feature_statistics import calibrate, check_sites, save_statistics
from steerkit.lab.material import Material, read_material
from steerkit.lab.measured import FALSE, Measured, Share
from steerkit.lab.ranking import LEVEL
from steerkit.lab.two_sample import conformal_rank

__all__ = [
    "FALSE",
    "LEVEL",
    "Case",
    "Corpus",
    "MadeDirection",
    "Material",
    "Measured",
    "Share",
    "calibrate",
    "check_extra",
    "check_sites",
    "collect",
    "conformal_rank",
    "difference_of_means",
    "make_direction",
    "mean_activations",
    "origin_of",
    "read_cases",
    "read_corpus",
    "read_material",
    "save_statistics",
    "source_of",
    "write_direction",
]
