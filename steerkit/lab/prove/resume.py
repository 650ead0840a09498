"""Results of finished variants as JSON lines, so that a killed evaluation resumes where it stopped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeVar

from steerkit.agent import Runtime
from steerkit.errors import SaeError
from steerkit.files import write_text_atomic
from steerkit.lab.workers.local import Mapper

P = TypeVar("P")

_RUN: Final = "run.json"


class VariantFiles:
    """A folder of results, `ARM.jsonl` each, with what they were made of in `run.json`; without a folder, nothing.

    Args:
        folder: made where it is not there.
        identity: everything that the results depend on, as JSON values.

    Raises:
        SaeError: the folder holds results of something else, or cannot be written.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SaeError(f"{folder}: cannot be made ({error.strerror}); give another --out") from None
        run = folder / _RUN
        if run.exists():
            before = _read(run)
            differing = [key for key in sorted({*before, *identity}) if before.get(key) != identity.get(key)]
            if differing:
                raise SaeError(
                    f"{folder}: holds results of another evaluation ({', '.join(differing)} differ); give another --out"
                )
        else:
            text = json.dumps(identity, indent=2, sort_keys=True) + "\n"
            write_text_atomic(run, text, SaeError)

    def rows(self, name: str) -> list[Any] | None:
        """The rows that were kept under a name; None where there are none."""
        path = self._path(name)
        if path is None or not path.exists():
            return None
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise SaeError(f"{path}: cannot be read ({error}); delete it, and the arm is run again") from None

    def keep_rows(self, name: str, rows: Sequence[Any]) -> None:
        """Write rows down under a name."""
        path = self._path(name)
        if path is not None:
            write_text_atomic(path, _lines(rows), SaeError)

    def begun(self, name: str) -> list[Any]:
        """The rows under a name that `add_rows` wrote, as far as it came; a last line that was cut off is dropped."""
        path = self._path(name)
        if path is None or not path.exists():
            return []
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            write_text_atomic(path, text[: text.rfind(b"\n") + 1].decode(), SaeError)
        return self.rows(name) or []

    def add_rows(self, name: str, rows: Sequence[Any]) -> None:
        """Write rows down behind those that stand under a name, on disk when this returns."""
        path = self._path(name)
        if path is None:
            return
        try:
            with path.open("ab") as file:
                file.write(_lines(rows).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SaeError(f"{path}: cannot be written ({error.strerror})") from None

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)}.jsonl"


def resumed(
    files: VariantFiles,
    name: str,
    mapper: Mapper,
    work: Callable[[Runtime, Sequence[P]], Sequence[Any]],
    pieces: Sequence[Sequence[P]],
    report: Callable[[int], None],
) -> list[Any]:
    """The rows of all pieces, one JSON value for each item: those that were kept, then those that are made and kept.

    Pieces are done whole, so that what is generated together is so after a resume too.
    """
    kept = files.begun(name)
    ends = [0, *accumulate(map(len, pieces))]
    done = max(number for number, end in enumerate(ends) if end <= len(kept))
    found = kept[: ends[done]]
    if len(found) < len(kept):
        files.keep_rows(name, found)
    report(len(found))
    for rows in mapper(work, pieces[done:]):
        files.add_rows(name, rows)
        found += rows
        report(len(found))
    return found


def _lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SaeError(f"{path}: cannot be read ({error}); give another --out") from None
    if not isinstance(found, Mapping):
        raise SaeError(f"{path}: got {type(found).__name__}, expected an object; give another --out")
    return found
