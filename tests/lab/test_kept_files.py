"""Files that the lab keeps of a run, or is handed: broken or hostile ones are one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import SaeError
from steerkit.lab.prove.resume import VariantFiles
from steerkit.lab.prove.suites.cases import read_mobile_actions
from steerkit.lab.train.run_folder import RUN_FILE, Run
from steerkit.lab.workers.ranks import Processes

DEEP = "[" * 100_000
BROKEN = {"nested without end": DEEP, "cut off": '{"a": ', "no JSON": "hello", "empty": "", "a list": "[1]"}


def arm_rows(folder: Path, text: str) -> Any:
    """The rows of a variant that was kept; an empty file is a variant without rows, and a list is a row."""
    files = VariantFiles(folder, {"a": 1})
    (folder / "arm.jsonl").write_text(text)
    return files.rows("arm")


def arm_run(folder: Path, text: str) -> Any:
    """What an evaluation was begun with."""
    folder.mkdir()
    next_to = VariantFiles(folder, {"a": 1})
    (path,) = folder.iterdir()
    path.write_text(text)
    return VariantFiles(folder, {"a": 1}), next_to


def training_run(folder: Path, text: str) -> Any:
    """Where a training stands."""
    folder.mkdir()
    (folder / RUN_FILE).write_text(text)
    return Run(folder, {"a": 1}, Processes())


def suite_tools(folder: Path, text: str) -> Any:
    """A row whose tools are JSON text."""
    folder.mkdir()
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "tools": text}
    (folder / "suite.jsonl").write_text(json.dumps(row))
    return read_mobile_actions(folder / "suite.jsonl")


READERS: dict[str, tuple[Callable[[Path, str], Any], set[str]]] = {
    "rows of an arm": (arm_rows, {"empty", "a list"}),
    "an evaluation's beginning": (arm_run, set()),
    "a training's place": (training_run, set()),
    "tools of a suite's row": (suite_tools, {"empty"}),
}
"""Each reader, and what of `BROKEN` it may take."""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_one_line(reader: str, what: str, tmp_path: Path) -> None:
    """With the folder's name; what is no fault is read."""
    read, fine = READERS[reader]
    if what in fine:
        read(tmp_path / "kept", BROKEN[what])
        return
    with pytest.raises(SaeError) as refused:
        read(tmp_path / "kept", BROKEN[what])
    assert str(tmp_path / "kept") in str(refused.value)
    assert "\n" not in str(refused.value)
