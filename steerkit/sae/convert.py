"""Writes a set of SAEs in another format: the whole of it, or nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from steerkit.errors import SaeError
from steerkit.labels import LABELS_FILE
from steerkit.sae.formats import FORMATS, read_folders
from steerkit.sae.sae_set import STATISTICS_FILE, SaeSet


def convert(saes: SaeSet, target: Path, form: str) -> None:
    """Write a set to a new folder, with the statistics and labels that lie beside it.

    It is written next to `target`, read back, and moved into place at the end, so that `target` is whole or not there.

    Args:
        saes: the set.
        target: a folder that does not exist, or is empty.
        form: name of the format; see `steerkit.sae.formats`.

    Raises:
        SaeError: no such format, it has no room for these SAEs, `target` is taken, or the disk refuses.
    """
    if form not in FORMATS:
        raise SaeError(f"got the format '{form}', expected one of {', '.join(FORMATS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SaeError(f"{target}: already there; expected a new or empty folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
            made = Path(place) / "set"
            made.mkdir()
            FORMATS[form].write(list(saes.checkpoints.values()), made)
            read_folders([made], str(target))
            for name in (STATISTICS_FILE, LABELS_FILE):
                if saes.folder is not None and (saes.folder / name).is_file():
                    shutil.copy(saes.folder / name, made / name)
            made.replace(target)
    except OSError as error:
        raise SaeError(f"{target}: cannot be written ({error.strerror})") from None
