"""Labels of the SAEs of a recorded turn, from their file on this machine, without the SAEs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from steerkit.audit import TurnRecord
from steerkit.boxes import box_folder
from steerkit.errors import SaeError
from steerkit.kept import Kept
from steerkit.labels import LABELS_FILE, read_labels
from steerkit.sites import Feature

_LABELS: Final[Kept[tuple[str, int], Mapping[Feature, str]]] = Kept(4)
"""By file and the time at which it was written."""


def local_name(turn: TurnRecord) -> str:
    """The SAEs of a turn as this machine finds them: those of a model in the box lie elsewhere on every machine.

    Raises:
        OSError: the record names what no folder can be called.
    """
    name = "" if turn.saes is None else turn.saes.name
    box = box_folder(turn.model.name)
    return str(box / "saes") if name and box is not None and not Path(name).is_dir() else name


def labels_of(turn: TurnRecord) -> Mapping[Feature, str]:
    """What the SAEs of a turn call their features; nothing where this machine does not have them."""
    if turn.saes is None:
        return {}
    try:
        path = _file_of(local_name(turn))
        return {} if path is None else _LABELS.get((str(path), path.stat().st_mtime_ns), lambda: read_labels(path))
    except (OSError, SaeError):  # a hostile record may name any path, and any file
        return {}


def _file_of(name: str) -> Path | None:
    if (Path(name) / LABELS_FILE).is_file():
        return Path(name) / LABELS_FILE
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, inner = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    try:
        found = try_to_load_from_cache(repo, f"{inner}/{LABELS_FILE}" if inner else LABELS_FILE)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
