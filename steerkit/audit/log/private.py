"""Files that are nobody else's: a store holds what people said."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from steerkit.audit.paths import home

_FILE: Final = 0o600
_FOLDER: Final = 0o700
_OTHERS: Final = 0o007
_ANYBODY: Final = 0o077


def make_folder(path: Path) -> None:
    """A folder, and those above it, for this user alone; what is there already stays as it is. Raises OSError."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(_FOLDER, exist_ok=True)


def make_file(path: Path) -> None:
    """An empty file for this user alone; SQLite makes what it puts beside it as the file itself. Raises OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE))


def mend(path: Path) -> None:
    """Take a store that everybody may read, as older releases made it, from all but its owner.

    Permissions for a group alone were given by somebody, and stay. Where this user may not change them, they stay too;
    `exposed_files` says what is left.
    """
    if os.name == "nt":
        return
    for one in _files(path):
        with suppress(OSError):
            if one.stat().st_mode & _OTHERS:
                one.chmod(_FILE)
    if "STEERKIT_HOME" not in os.environ:  # a folder that was named may be for other things too
        for one in _folders(path):
            with suppress(OSError):
                one.chmod(_FOLDER)


def exposed_files(path: Path) -> list[str]:
    """Files of a store, and its folder where it is steerkit's, that others than the owner may open: a line each."""
    if os.name == "nt":
        return []
    found = []
    for one, private in [*((file, _FILE) for file in _files(path)), *((one, _FOLDER) for one in _folders(path))]:
        with suppress(OSError):
            mode = one.stat().st_mode & 0o777
            if mode & _ANYBODY:
                found.append(f"{one}: others than its owner may open it (mode {mode:04o}); chmod {private:o} ends that")
    return found


def _folders(path: Path) -> list[Path]:
    """The store's folder where it is steerkit's own; one that somebody made for other things is theirs."""
    return [home()] if path.absolute().parent == home().absolute() else []


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))]
