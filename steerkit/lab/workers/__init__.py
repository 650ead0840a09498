"""Work over many conversations: in this process, on Ray, on ranks."""

from steerkit.lab.workers.local import Load, Mapper, fingerprints, in_this_process, load_same, runs_prepacked
from steerkit.lab.workers.ranks import processes
from steerkit.lab.workers.ray import check_ray, on_ray

__all__ = [
    "Load",
    "Mapper",
    "check_ray",
    "fingerprints",
    "in_this_process",
    "load_same",
    "on_ray",
    "processes",
    "runs_prepacked",
]
