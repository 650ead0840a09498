"""The formats in which SAEs are published, one module each. A module is the interface:

NAME                        what the command line calls it
FILES                       names of the files it reads, as patterns; all that is ever fetched of a repository
matches(folder)             whether this very folder holds SAEs in the format
read(folder)                its SAEs, checked
write(checkpoints, folder)  writes a set into an empty folder
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from steerkit.errors import SaeError
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats import dictionary_learning, functiongemma, gemma_scope, saelens, sparsify, tensors
from steerkit.sites import Site

_DEEPEST: Final = 2
"""Folders below the one that was named in which SAEs are looked for."""


class Format(Protocol):
    """Interface of a module of this package."""

    NAME: str
    FILES: tuple[str, ...]

    def matches(self, folder: Path, /) -> bool:
        """True if this very folder holds SAEs in the format."""

    def read(self, folder: Path, /) -> list[Checkpoint]:
        """The folder's SAEs; raises SaeError."""

    def write(self, checkpoints: Sequence[Checkpoint], folder: Path, /) -> None:
        """Write a set into an empty folder; raises SaeError where the format has no room for it."""


FORMATS: Final[dict[str, Format]] = {
    form.NAME: form for form in (functiongemma, tensors, saelens, gemma_scope, dictionary_learning, sparsify)
}
"""By name."""


def read_folders(folders: Sequence[Path], name: str) -> list[Checkpoint]:
    """The SAEs of a set that the user calls `name`, in whatever format, in its folders or in folders below.

    Raises:
        SaeError: there is none, a file is not what it must be, or two are of one site.
    """
    found: dict[Site, Checkpoint] = {}
    for form, place in (held for folder in folders for held in _places(folder, _DEEPEST)):
        for checkpoint in form.read(place):
            if other := found.get(checkpoint.site):
                raise SaeError(
                    f"{name}: two SAEs of {checkpoint.site.name}: {other.path} and {checkpoint.path}; expected one "
                    f"a site (name the folder of the one you want)"
                )
            found[checkpoint.site] = checkpoint
    if not found:
        every = ", ".join(f"{' and '.join(form.FILES)} ({form.NAME})" for form in FORMATS.values())
        raise SaeError(f"{name}: no SAE there; expected {every.replace('sae_layer_*', 'sae_layer_NN')}")
    return list(found.values())


def _places(folder: Path, deeper: int) -> Iterator[tuple[Format, Path]]:
    """The folders that hold SAEs, each with its format; nothing is looked for below one of them."""
    if matching := [form for form in FORMATS.values() if form.matches(folder)]:
        yield from ((form, folder) for form in matching)
    elif deeper and folder.is_dir():
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _places(inner, deeper - 1)
