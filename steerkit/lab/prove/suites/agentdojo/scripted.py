"""Scripted agents: their calls are known before, and go through wire format, parser, guard and loop as a model's do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor

from steerkit.audit import ModelIdentity
from steerkit.chat import Tokenizer, dialect_of
from steerkit.engine import Provenance, Row, Step, Steps
from steerkit.errors import ModelError
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.steer import Extent, Wanted
from steerkit.types import Call, Trace

Agent: TypeAlias = Literal["model", "ground-truth", "obedient"]
"""The model itself, an agent that makes the calls which solve the user's task, or one that besides obeys each order in
what it reads."""


class Script:
    """Calls of an agent, one a turn, and its answer after them.

    Args:
        calls: what the user's task takes.
        answer: said once they are made.
        orders: calls that are made as soon as one of the texts was read.
        texts: what carries the order.
    """

    def __init__(
        self, calls: Sequence[Call], answer: str, orders: Sequence[Call] = (), texts: Collection[str] = ()
    ) -> None:
        self._left, self._answer = list(calls), answer
        self._orders, self._texts = list(orders), [_plain(text) for text in texts]
        self.turns = len(calls) + len(orders) + 1
        """Turns that it takes at most."""

    def next(self) -> Call | str:
        """The next call, or the answer."""
        return self._left.pop(0) if self._left else self._answer

    def read(self, value: Any) -> None:
        """Read what a tool returned; an order in it is obeyed, once."""
        if self._orders and any(text in said for said in map(_plain, _texts(value)) for text in self._texts):
            self._left = [*self._orders, *self._left]
            self._orders = []


class ScriptedEngine:
    """Says what a script says, in the dialect of a model's tokenizer."""

    context: int | None = None
    saes: SaeSet | None = None

    def __init__(self, name: str, tokenizer: Tokenizer, script: Script) -> None:
        self.name, self.tokenizer = name, tokenizer
        self._script = script
        self._said: dict[tuple[int, ...], list[int]] = {}

    @property
    def provenance(self) -> Provenance:
        """No weights are behind it."""
        return Provenance(ModelIdentity(self.name), None, {}, {})

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Nothing to prepare."""

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor]) -> ScriptedEngine:
        """Itself, as nothing is edited."""
        return self

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """The replies token by token; to a prompt that it has read before, the reply that it gave then."""
        left = [list(self._reply(tuple(row.ids))) for row in rows]
        while any(left):
            cut = yield Step([ids.pop(0) if ids else None for ids in left], lambda row, start: {})
            left = [[] if number in (cut or ()) else ids for number, ids in enumerate(left)]
        return ScriptedRecording()

    def continuous(self, stopped: Callable[[], bool] | None = None, *, whole_prompts: bool = False) -> None:
        """A script has no rows that could join."""

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """No logits are behind it. Raises ModelError."""
        raise ModelError(f"{self.name}: a scripted agent has no logits; expected a model")

    def _reply(self, prompt: tuple[int, ...]) -> list[int]:
        if prompt not in self._said:
            dialect, said = dialect_of(self.tokenizer), self._script.next()
            if isinstance(said, Call):
                text = dialect.syntax.encode_call(said.name, said.arguments)
                ids = [*self.tokenizer.encode(text, add_special_tokens=False), dialect.waits or dialect.end_turn]
            else:
                ids = self.tokenizer.encode(said, add_special_tokens=False, split_special_tokens=True)
                ids = [*ids, dialect.end_turn]
            self._said[prompt] = ids
        return self._said[prompt]


class ScriptedRecording:
    """Nothing was read and nothing edited."""

    decoding: str | None = "a script"
    cached: Sequence[int] = ()

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """Empty ones."""
        return [Trace() for _ in extents]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a tool's result, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif hasattr(value, "model_dump"):
        yield from _texts(value.model_dump())


def _plain(text: str) -> str:
    """A text without what YAML does to blanks."""
    return " ".join(text.split())
