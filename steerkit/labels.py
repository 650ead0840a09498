"""Labels of single features: a set's `labels.json`, and explanations that Neuronpedia exports.

{"format": 1, "labels": {"LAYER": {"INDEX": "text"}}}, with a site such as resid_post.3 as LAYER where it is no attn_out
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from steerkit.errors import SaeError
from steerkit.files import parse_json, read_json, shown, write_atomic
from steerkit.sites import Feature, Site

LABELS_FILE: Final = "labels.json"

_NUMBER: Final = re.compile(r"\d{1,9}", re.ASCII)
_KEYS: Final = ("modelId", "layer", "index", "description")


class Explanations(NamedTuple):
    """Explanations of one model's features, from files of Neuronpedia."""

    model: str
    """The model as Neuronpedia names it, such as `gemma-3-270m`."""
    sources: Mapping[int, str]
    """By layer, the id of the SAE that its features belong to, such as `12-gemmascope-2-res-16k`."""
    labels: Mapping[Feature, str]
    """Text by feature; of several explanations the first."""


def read_labels(path: Path) -> dict[Feature, str]:
    """The labels in a file; none where there is no file. Raises SaeError."""
    if not path.exists():
        return {}
    expected = '{"format": 1, "labels": {"LAYER": {"INDEX": "text"}}}'
    found = read_json(path, SaeError, expected)
    tables = found.get("labels") if isinstance(found, dict) else None
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SaeError(f"{path}: not a labels file; expected {expected}")
    labels: dict[Feature, str] = {}
    for layer, table in tables.items():
        for index, text in table.items():
            site = _site(layer)
            if site is None or not _NUMBER.fullmatch(index) or not isinstance(text, str):
                said = f"{shown(layer)}: {{{shown(index)}: {shown(text)}}}"
                raise SaeError(f"{path}: labels: got {said}; expected {expected}")
            labels[Feature(site, int(index))] = text
    return labels


def write_labels(path: Path, labels: Mapping[Feature, str]) -> None:
    """Write labels in the order of site and index; the whole file, or nothing. Raises SaeError."""
    tables: dict[str, dict[str, str]] = {}
    for feature, text in sorted(labels.items()):
        tables.setdefault(str(feature.site.compact), {})[str(feature.index)] = text
    content = json.dumps({"format": 1, "labels": tables}, ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, lambda file: file.write(content.encode("utf-8", "replace")), SaeError)


def _site(key: str) -> Site | None:
    """The site that a key of the file means; None if it means none."""
    try:
        return Site(int(key)) if _NUMBER.fullmatch(key) else Site.of(key)
    except ValueError:
        return None


def read_explanations(paths: Sequence[Path], model: str | None = None) -> Explanations:
    """Read explanations as Neuronpedia exports them: `v1/{modelId}/{sourceId}/explanations/batch-N.jsonl.gz`.

    Each is gzip-compressed JSONL with the keys `modelId`, `layer` (the source's id, whose first number is the layer),
    `index` (a string) and `description`; other keys are ignored, and so is an explanation without words.

    Args:
        paths: the files, read in this order.
        model: the `modelId` that all must have (default: that of the first line).

    Raises:
        SaeError: a file that is none of these, of another model, or of two sources for one layer; names file and line.
    """
    sources: dict[int, str] = {}
    labels: dict[Feature, str] = {}
    for path in paths:
        for where, row in _rows(path):
            model = _model(where, row, model)
            feature = _feature(where, row)
            source = sources.setdefault(feature.layer, row["layer"])
            if source != row["layer"]:
                raise SaeError(
                    f"{where}: layer: got {row['layer']!r} after {source!r}, two SAEs of layer {feature.layer}; "
                    f"expected one source for each layer, that of your set"
                )
            text = " ".join(row["description"].split())
            if text:
                labels.setdefault(feature, text)
    if not labels or model is None:
        raise SaeError(f"{', '.join(map(str, paths))}: got no explanations, expected lines with {', '.join(_KEYS)}")
    return Explanations(model, dict(sorted(sources.items())), labels)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line's object with its place, as an error names it."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _row(f"{path}:{number}", line)
    except gzip.BadGzipFile:
        raise SaeError(f"{path}: not gzip; expected a batch-N.jsonl.gz of Neuronpedia's explanations") from None
    except (EOFError, zlib.error):
        raise SaeError(f"{path}: its gzip is damaged or breaks off; fetch the file again") from None
    except UnicodeDecodeError:
        raise SaeError(f"{path}: not UTF-8 text; expected gzip-compressed JSONL") from None
    except OSError as error:
        raise SaeError(f"{path}: cannot be read ({error.strerror}); expected a batch-N.jsonl.gz") from None


def _row(where: str, line: str) -> Mapping[str, Any]:
    row = parse_json(line, where, SaeError, "one object a line")
    if not isinstance(row, Mapping):
        raise SaeError(f"{where}: got {type(row).__name__}, expected an object with {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if not isinstance(row.get(key), str)]
    if missing:
        raise SaeError(f"{where}: got no text in {', '.join(missing)}; expected {', '.join(_KEYS)}, each a text")
    return row


def _model(where: str, row: Mapping[str, Any], wanted: str | None) -> str:
    found: str = row["modelId"]
    if wanted is not None and found != wanted:
        raise SaeError(f"{where}: modelId: got {found!r}, expected {wanted!r}; import one model's files at a time")
    return found


def _feature(where: str, row: Mapping[str, Any]) -> Feature:
    number = re.search(r"\d+", row["layer"], re.ASCII)
    if number is None or not _NUMBER.fullmatch(number[0]):
        raise SaeError(f"{where}: layer: got {row['layer']!r}, expected a source id such as 12-gemmascope-2-res-16k")
    if not _NUMBER.fullmatch(row["index"]):
        raise SaeError(f"{where}: index: got {row['index']!r}, expected a feature's number as a text")
    return Feature(int(number[0]), int(row["index"]))
