"""Files of directions: a vector at each of some hook points, and what they were made of. Loads no torch.

A file is safetensors: float32 vectors by site (`attn_out.6`), and in its metadata `steerkit_direction`, the version of
this format, and `origin`, a JSON object (`Origin`). `steerkit.lab.write_direction` writes one.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import safetensors
from pydantic import BaseModel, ConfigDict, ValidationError

from steerkit.errors import PolicyError
from steerkit.files import shown
from steerkit.fingerprints import sha256_of
from steerkit.sites import Site

_VERSION: Final = "1"
_MAX_BYTES: Final = 64 << 20
_EXPECTED: Final = "a direction file; `steerkit features direction` makes one"


class Source(BaseModel):
    """One of the sets of conversations that a direction was made of."""

    model_config = ConfigDict(frozen=True)

    file: str
    """Name of the file, without its folder."""
    fingerprint: str
    """`sha256:…` of the file."""
    count: int
    """Conversations that were read of it."""


class Origin(BaseModel):
    """What a direction was made of; unknown keys of a later version are left out."""

    model_config = ConfigDict(frozen=True)

    method: str
    """Method in words, such as `difference of means`."""
    model: str = ""
    """Name of the model, as the user wrote it."""
    model_fingerprint: str = ""
    """`sha256:…` of its weights; a direction is refused with other weights of the same dtype."""
    dtype: str = ""
    """Type of the weights, which the fingerprint depends on."""
    tokenizer: str = ""
    """Fingerprint of its tokenizer."""
    place: str = ""
    """Place whose activations were read."""
    sources: tuple[Source, ...] = ()
    """Its data: the set that it leads away from, and the one that it leads to."""
    made_at: str = ""
    """Date and time in UTC, ISO 8601."""
    steerkit: str = ""
    """Version that made it."""


@dataclass(frozen=True)
class DirectionFile:
    """Content of a file."""

    fingerprint: str
    """`sha256:…` of the file's bytes."""
    vectors: Mapping[Site, array[float]]
    """`(width,)` float32 by site, in the order in which a token passes them."""
    origin: Origin


def read_direction(path: str | Path, fingerprint: str | None = None) -> DirectionFile:
    """The content of a direction file.

    Args:
        path: the file.
        fingerprint: the one that it must have; None for any.

    Raises:
        PolicyError: it cannot be read, is none, has vectors that are not finite, or another fingerprint.
    """
    if fingerprint is not None:
        return _known(str(path), fingerprint)
    data = _bytes(Path(path))
    return DirectionFile(sha256_of(data), _vectors(path, data), _origin(path, data))


@lru_cache(maxsize=64)
def _known(path: str, fingerprint: str) -> DirectionFile:
    """A file of known content, kept: a policy that was loaded runs on though its file is replaced."""
    found = read_direction(path)
    if found.fingerprint != fingerprint:
        raise PolicyError(
            [
                f"{path}: got {found.fingerprint[:19]}…, expected {fingerprint[:19]}…: the file was changed since the "
                f"policy was loaded or recorded; put the old one back, or load the policy again"
            ]
        )
    return found


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise PolicyError([f"{path}: got {size:,} bytes, expected at most {_MAX_BYTES:,} of {_EXPECTED}"])
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # a NUL in a path
        raise PolicyError([f"{path}: no such file; expected {_EXPECTED}"]) from None
    except OSError as error:
        raise PolicyError([f"{path}: cannot be read ({error.strerror}); expected {_EXPECTED}"]) from None


def _vectors(path: str | Path, data: bytes) -> dict[Site, array[float]]:
    try:
        content = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # its stubs have no types
    except Exception as error:  # its library raises an error class of its own
        raise PolicyError([f"{path}: not a safetensors file ({shown(error)}); expected {_EXPECTED}"]) from None
    found = {}
    for name, entry in content:
        try:
            site = Site.of(name)
        except ValueError as error:
            raise PolicyError([f"{path}: {error}"]) from None
        if entry["dtype"] != "F32" or len(entry["shape"]) != 1 or not entry["shape"][0]:
            got = f"{entry['dtype']} of shape {tuple(entry['shape'])}"
            raise PolicyError([f"{path}: {name}: got {shown(got)[1:-1]}, expected a vector of float32"])
        found[site] = array("f", bytes(entry["data"]))
        _check_finite(path, name, found[site])
    if not found:
        raise PolicyError([f"{path}: got no vector, expected {_EXPECTED}"])
    return dict(sorted(found.items()))


def _check_finite(path: str | Path, name: str, values: array[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise PolicyError([f"{path}: {name}: got NaN or infinity, expected finite numbers; make it again"])


def _origin(path: str | Path, data: bytes) -> Origin:
    """The origin in a file whose vectors were read."""
    header: Any = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    said = header.get("__metadata__") or {}
    version = said.get("steerkit_direction")
    if version != _VERSION:
        got = "no version" if version is None else f"version {shown(version)}"
        raise PolicyError([f"{path}: got {got} of the format of directions, expected {_VERSION!r}: {_EXPECTED}"])
    try:
        return Origin.model_validate_json(said.get("origin", ""))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(["origin", *map(str, wrong["loc"])])
        raise PolicyError([f"{path}: {where}: got {shown(wrong['input'])}, expected {_EXPECTED}"]) from None
