"""Labels of features: the set's own file, and what Neuronpedia exports."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.engine import box_folder
from steerkit.errors import SaeError
from steerkit.sae import read_explanations, read_labels, write_labels
from steerkit.sites import Feature

LINE = {"modelId": "gemma-3-270m", "layer": "12-gemmascope-2-res-16k", "index": "7", "description": "money"}


def batch(path: Path, *rows: Any, cut: int | None = None) -> Path:
    """A file as Neuronpedia exports it; a text stands for a line as it is."""
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode())[:cut])
    return path


def test_explanations_become_labels(tmp_path: Path) -> None:
    """The layer is the source id's first number; of two explanations the first counts, of an empty one nothing."""
    first = batch(
        tmp_path / "batch-0.jsonl.gz", LINE, {**LINE, "index": "8", "description": " two\nlines ", "score": 1}
    )
    second = batch(
        tmp_path / "batch-1.jsonl.gz",
        {**LINE, "description": "later"},
        "",
        {**LINE, "layer": "3-att-kk", "index": "0"},
        {**LINE, "index": "9", "description": " "},
    )
    found = read_explanations([first, second])
    assert found.model == "gemma-3-270m"
    assert found.sources == {3: "3-att-kk", 12: "12-gemmascope-2-res-16k"}
    assert found.labels == {Feature(12, 7): "money", Feature(12, 8): "two lines", Feature(3, 0): "money"}


@given(
    st.dictionaries(st.builds(Feature, st.integers(0, 99), st.integers(0, 9999)), st.text(st.characters(codec="utf-8")))
)
def test_labels_survive_their_file(tmp_path_factory: pytest.TempPathFactory, labels: dict[Feature, str]) -> None:
    """What is written is read back; an unwritten file holds no labels."""
    path = tmp_path_factory.mktemp("labels") / "labels.json"
    assert read_labels(path) == {}
    write_labels(path, labels)
    assert read_labels(path) == labels
    assert list(path.parent.iterdir()) == [path]


def test_the_boxs_labels_stay_what_they_are(tmp_path: Path) -> None:
    """The labels that ship, read and written again, hold the same."""
    box = box_folder("tiny")
    assert box is not None
    labels = read_labels(box / "saes" / "labels.json")
    write_labels(tmp_path / "labels.json", labels)
    assert labels
    assert read_labels(tmp_path / "labels.json") == labels


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([LINE, "{"], r":2: not JSON"),
        ([LINE, [1]], r":2: got list, expected an object with modelId"),
        ([{"modelId": "m", "layer": "1-x"}], r":1: got no text in index, description; expected"),
        ([{**LINE, "index": 7}], r":1: got no text in index;"),
        ([{**LINE, "index": "-1"}], r":1: index: got '-1', expected a feature's number"),
        ([{**LINE, "layer": "res"}], r":1: layer: got 'res', expected a source id such as"),
        ([LINE, {**LINE, "modelId": "gpt2-small"}], r":2: modelId: got 'gpt2-small', expected 'gemma-3-270m'"),
        ([LINE, {**LINE, "layer": "12-gemmascope-2-res-65k"}], r":2: layer: got .*-65k' after .*-16k'"),
        ([], r"got no explanations"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    """One line says file, line, what was got and what was expected."""
    with pytest.raises(SaeError, match=said) as found:
        read_explanations([batch(tmp_path / "batch-0.jsonl.gz", *rows)])
    assert "\n" not in str(found.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    """Plain JSONL, a cut file, a missing one and one of another model than asked for are refused; the whole is not."""
    good = batch(tmp_path / "good.jsonl.gz", LINE)
    (tmp_path / "plain").write_text(json.dumps(LINE))
    cut = batch(tmp_path / "cut", LINE, cut=-12)
    for path, said in ((tmp_path / "plain", "not gzip"), (cut, "breaks off"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(SaeError, match=said):
            read_explanations([path])
    with pytest.raises(SaeError, match="modelId: got 'gemma-3-270m', expected 'gemma-3-1b'"):
        read_explanations([good], "gemma-3-1b")
    assert read_explanations([good], "gemma-3-270m").labels == {Feature(12, 7): "money"}
