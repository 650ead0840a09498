"""An engine without a model: replies from a list, and feature values from a table of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steerkit.audit import ModelIdentity
from steerkit.chat import dialect_of
from steerkit.engine import Provenance, Recording, Row, Step, Steps
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.steer import Extent, Wanted
from steerkit.types import Trace

_HASH = f"sha256:{64 * '7'}"
_MODEL = ModelIdentity("table", _HASH, _HASH, _HASH, device="nowhere", dtype="none")


@dataclass
class TableRecording:
    """Values of every token, and nothing edited."""

    decoding: str | None
    rows: Sequence[Sequence[int]]
    values: Mapping[str, Mapping[int, float]]
    cached: Sequence[int] = ()

    def watched(self, row: int, start: int, end: int | None = None) -> dict[str, tuple[float, ...]]:
        """By key, the values of a row's tokens."""
        ids = self.rows[row][start:end]
        return {key: tuple(table.get(token, 0.0) for token in ids) for key, table in self.values.items()}

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """The values of each row."""
        return [Trace(0, self.watched(row, 0, extent.length)) for row, extent in enumerate(extents)]


@dataclass
class TableEngine:
    """Says what it is told to."""

    tokenizer: Any
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """By watch key, the value at each token; 0 at all others."""
    replies: list[str] = field(default_factory=list)
    """Each row takes the next."""
    context: int | None = None
    name: str = "table"
    saes: SaeSet | None = None
    given: list[Row] = field(default_factory=list)
    """Every row so far."""

    @property
    def provenance(self) -> Provenance:
        """As records say it."""
        return Provenance(_MODEL, None, {"table": "1"}, {})

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Nothing to prepare."""

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor]) -> TableEngine:
        """Nothing is written."""
        return self

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """Replies token by token, each row until its stop token, its limit, or until it is cut."""
        self.given += rows
        encoded = [self.tokenizer.encode(self.replies.pop(0), add_special_tokens=False) for _ in rows]
        left = [list(ids[: row.sampling.max_new_tokens]) for ids, row in zip(encoded, rows, strict=True)]
        seen = [list(row.ids) for row in rows]
        recording: Recording = TableRecording("a table", seen, self.values)
        while any(left):
            tokens: list[int | None] = [ids.pop(0) if ids else None for ids in left]
            cut = yield Step(tokens, recording.watched)  # type: ignore[attr-defined]  # of this engine
            for number, token in enumerate(tokens):
                if token is not None:
                    seen[number].append(token)
                if number in (cut or ()):
                    left[number] = []
        return recording

    def continuous(self, stopped: Callable[[], bool] | None = None) -> None:
        """Replies from a list are generated in batches."""

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """Certain of each token of the reply, and of the padding after it."""
        size = len(self.tokenizer)
        for token in (*reply, dialect_of(self.tokenizer).pad):
            yield torch.eye(size)[token].mul(1e9).expand(len(rows), size)
