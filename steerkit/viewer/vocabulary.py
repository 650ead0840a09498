"""Texts of a record's tokens: the vocabulary of its model, read from a file on this machine, without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steerkit.audit import ModelIdentity
from steerkit.boxes import box_folder
from steerkit.chat import TokenBytes
from steerkit.errors import ModelError
from steerkit.files import read_json
from steerkit.fingerprints import sha256_of

_FILE: Final = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """Texts by token id."""

    pieces: TokenBytes
    control: frozenset[int]
    """Added tokens: they mark turns and calls, and are nobody's text."""
    fingerprint: str
    """As records have that of a tokenizer."""

    def texts(self, ids: tuple[int, ...]) -> list[str]:
        """The text of each token; a character that is spread over several stands at the first of them."""
        found, open_bytes, first = [], b"", 0
        for number, id in enumerate(ids):
            open_bytes, first = (open_bytes, first) if open_bytes else (b"", number)
            open_bytes += self.pieces(id)
            found.append("")
            text = _complete(open_bytes)
            if text is not None:
                found[first], open_bytes = text, b""
        if open_bytes:
            found[first] = open_bytes.decode("utf-8", "replace")
        return found


def read_vocabulary(model: ModelIdentity) -> Vocabulary | None:
    """The vocabulary of a record's model; None where this machine does not have it. Nothing is fetched."""
    path = _file_of(model.name)
    if path is None:
        return None
    try:
        return _vocabulary(path)
    except (ModelError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _file_of(name: str) -> Path | None:
    folder = box_folder(name) or Path(name)
    with suppress(OSError):  # a hostile record may name any path, such as one that is too long
        if (folder / _FILE).is_file():
            return folder / _FILE
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, _FILE)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _vocabulary(path: Path) -> Vocabulary:
    said = read_json(path, ModelError, "a tokenizer")
    listed = said["model"]["vocab"]
    pieces: Mapping[str, int] = (
        listed if isinstance(listed, dict) else {piece: number for number, (piece, _) in enumerate(listed)}
    )
    added = {str(one["content"]): int(one["id"]) for one in said.get("added_tokens", ())}
    whole = {**pieces, **added}
    template = _template(path.parent)
    fingerprint = sha256_of(json.dumps({"vocabulary": whole, "template": template}, sort_keys=True))
    return Vocabulary(TokenBytes(whole, added), frozenset(added.values()), fingerprint)


def _template(folder: Path) -> Any:
    """The chat template beside a tokenizer, as transformers reads it."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return (
        read_json(settings, ModelError, "a tokenizer's settings").get("chat_template") if settings.is_file() else None
    )


def _complete(data: bytes) -> str | None:
    """The text of bytes; None where they end within a character, and more may follow."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return (
            None
            if error.end == len(data) and error.reason == "unexpected end of data"
            else data.decode("utf-8", "replace")
        )
