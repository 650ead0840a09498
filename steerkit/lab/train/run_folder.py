"""The folder of a training run: its identity, its checkpoints, and how a killed run resumes.

    DIR/training.json      what is trained, on what, and where the run stands
    DIR/checkpoint-N/      layer_NN.pt of every layer after N tokens; only the last complete one is kept

`training.json` is replaced in one step after a checkpoint is complete: it always names a good one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from steerkit.errors import SaeError
from steerkit.files import write_atomic, write_text_atomic
from steerkit.lab.workers.ranks import Processes
from steerkit.sites import Site

RUN_FILE: Final = "training.json"


class Position(NamedTuple):
    """Position of a run: the next chunk to train on."""

    epoch: int = 0
    chunk: int = 0
    tokens: int = 0
    """Tokens trained on so far."""


class Run:
    """A run in its folder."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], group: Processes) -> None:
        """Begin in `folder`, or find the run there that was begun with the same `identity`.

        Raises:
            SaeError: the folder holds another run or other files, or it cannot be written.
        """
        self.folder, self.identity, self._group = folder, json.loads(json.dumps(identity)), group
        found = _read(folder)
        if found is not None and found["run"] != self.identity:
            raise SaeError(
                f"{folder}: holds another run ({_differences(found['run'], self.identity)}); give another DIR"
            )
        if found is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SaeError(f"{folder}: exists and holds no run of this command; give a new or an empty folder")
        self.position = Position(*found["position"]) if found else Position()
        self.finished = bool(found and found["finished"])
        group.wait()
        if found is None and group.first:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SaeError(f"{folder}: cannot be made ({error.strerror})") from None
            self._note(self.position)
        group.wait()

    @property
    def begun(self) -> bool:
        """True if there is a checkpoint to resume from."""
        return self.position.tokens > 0

    def save(self, position: Position, states: Mapping[Site, Mapping[str, Any]]) -> None:
        """Keep the states of this process's layers as the run's newest checkpoint, once all processes have.

        Raises:
            SaeError: the disk is full or gone; the checkpoint before is untouched.
        """
        folder = self._checkpoint(position)
        try:
            folder.mkdir(exist_ok=True)
            for site, state in states.items():
                write_atomic(folder / f"{site.stem}.pt", partial(torch.save, dict(state)), SaeError)
            self._group.wait()
            if self._group.first:
                self._note(position)
        except SaeError as error:
            shutil.rmtree(folder, ignore_errors=True)
            kept = f"the one after {self.position.tokens:,} tokens is kept" if self.begun else "there is none before it"
            raise SaeError(f"{error}; {kept}: make room and give the same command again to go on") from None
        before, self.position = self._checkpoint(self.position), position
        self._group.wait()
        if self._group.first and before != folder:
            shutil.rmtree(before, ignore_errors=True)

    def load(self, site: Site) -> dict[str, Any]:
        """The state of a site in the newest checkpoint. Raises SaeError."""
        path = self._checkpoint(self.position) / f"{site.stem}.pt"
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises whatever its archive reader and pickle raise
            raise SaeError(
                f"{path}: the checkpoint cannot be read ({type(error).__name__}); remove {self.folder} and begin again"
            ) from None
        return state

    def finish(self) -> None:
        """The results are written: drop the checkpoint, and note that the run is over."""
        self._group.wait()
        if self._group.first:
            self._note(self.position, finished=True)
            shutil.rmtree(self._checkpoint(self.position), ignore_errors=True)
        self.finished = True
        self._group.wait()

    def _checkpoint(self, position: Position) -> Path:
        return self.folder / f"checkpoint-{position.tokens}"

    def _note(self, position: Position, finished: bool = False) -> None:
        content = {"format": 1, "run": self.identity, "position": list(position), "finished": finished}
        text = json.dumps(content, indent=2) + "\n"
        write_text_atomic(self.folder / RUN_FILE, text, SaeError)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] == 1 and len(found["position"]) == len(Position._fields) and "finished" in found:
            return {**found, "run": dict(found["run"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise SaeError(f"{path}: not the file of a training run; give another DIR")


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first fields in which two runs differ, one level deep."""
    flat = [
        {f"{key}.{name}" if name else key: item for key, value in run.items() for name, item in _items(value)}
        for run in (found, wanted)
    ]
    keys = [key for key in flat[0] | flat[1] if flat[0].get(key) != flat[1].get(key)]
    told = [f"{key}: there {flat[0].get(key)!r}, here {flat[1].get(key)!r}" for key in keys[:3]]
    return "; ".join([*told, *([f"and {len(keys) - 3} more"] if len(keys) > 3 else [])])


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else [("", value)]
