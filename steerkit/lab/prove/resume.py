"""Results of finished variants as JSON lines, so that a killed evaluation resumes where it stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from steerkit.errors import SaeError
from steerkit.files import write_text_atomic
from steerkit.lab.prove.scoring import Outcome, as_json, from_json

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

    def outcomes(self, variant: str) -> list[Outcome] | None:
        """The outcomes of a finished variant; None where it is not finished."""
        rows = self.rows(variant)
        return None if rows is None else [from_json(row) for row in rows]

    def keep(self, variant: str, outcomes: Sequence[Outcome]) -> None:
        """Write a finished variant's file, complete or not at all."""
        self.keep_rows(variant, [as_json(one) for one in outcomes])

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
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text_atomic(path, text, SaeError)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)}.jsonl"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SaeError(f"{path}: cannot be read ({error}); give another --out") from None
    if not isinstance(found, Mapping):
        raise SaeError(f"{path}: got {type(found).__name__}, expected an object; give another --out")
    return found
