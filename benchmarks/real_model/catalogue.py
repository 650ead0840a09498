"""Tools of tools.toml and functions.toml: how they are declared, asked for, called and answered."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from values import HERE, Split, Value, Values, is_open

ALIASES: Final[Mapping[str, str]] = {
    "to": "recipient", "amount": "sum", "account": "account_name", "path": "file_path", "email": "person",
    "city": "location", "sender": "sender_name", "url": "address", "query": "q", "minutes": "duration",
    "order_id": "order", "text": "content", "command": "cmd", "document": "file", "artist": "musician",
    "title": "subject", "numbers": "values", "product": "item", "people": "guests", "count": "limit",
    "days": "num_days",
}  # fmt: skip
"""Other names of parameters."""
_CHOICE: Final = re.compile(r"\{(\w+)\?([^:}]*):([^}]*)\}")
_OPTIONAL: Final = re.compile(r"\[([^\]]*)\]")


class Parameter(NamedTuple):
    """One parameter of a tool."""

    type: str
    """`string`, `integer`, `number`, `boolean`, `array`, `array:string`, or an enum's values between bars."""
    says: str
    kind: str
    """The kind of its values; `-` if it is never asked for."""
    optional: bool
    names: tuple[str, ...] = ()
    """Other names of it."""


class Request(NamedTuple):
    """A request for one call, in words and as arguments."""

    text: str
    imperative: bool
    """True if it can stand behind "Please"."""
    wording: str
    values: Mapping[str, Value]
    held: tuple[str, ...]
    """Its open-ended values, of one split alone."""


@dataclass(frozen=True)
class Entry:
    """One tool of a catalogue."""

    names: Sequence[str]
    says: Sequence[str]
    parameters: Mapping[str, Parameter]
    asks: Sequence[str]
    held: int = 1
    """Wordings kept for reports, and as many for choosing."""
    result: Mapping[str, str] | None = None
    answers: Sequence[str] = ()
    reads: bool = False
    acts: str = ""
    alike: frozenset[str] = frozenset()
    beside: tuple[Entry, ...] = ()
    """Tools near to it that are in no file."""

    def wordings(self, split: Split) -> Sequence[str]:
        """The wordings of a split. Where there are few, choosing shares those of tuning; a tool of the tuning alone
        keeps none back."""
        if not self.held:
            return self.asks
        rest, report = self.asks[: -self.held], self.asks[-self.held :]
        if split == "report":
            return report
        few = len(rest) < 3 + self.held
        return rest if few else rest[-self.held :] if split == "choose" else rest[: -self.held]

    def like(self, other: Entry) -> bool:
        """True if a request for one might be served by the other."""
        return self is other or bool(self.alike & other.alike)


class Tool:
    """An entry under one of its names, as one conversation declares it."""

    def __init__(self, entry: Entry, rng: random.Random) -> None:
        self.entry = entry
        self.name = rng.choice(entry.names)
        renamed = {
            key: rng.choice([key, key, *(p.names or [ALIASES.get(key, key)])]) for key, p in entry.parameters.items()
        }
        self._names = renamed if len(set(renamed.values())) == len(renamed) else {key: key for key in renamed}
        bare = rng.random() < 0.15
        shown = {key: p for key, p in entry.parameters.items() if not p.optional or p.kind != "-" or rng.random() < 0.7}
        self.schema = {
            "type": "function",
            "function": {
                "name": self.name,
                "description": rng.choice(entry.says).rstrip(".") + rng.choice(["", "."]),
                "parameters": {
                    "type": "object",
                    "properties": {self._names[key]: _schema(p, bare) for key, p in shown.items()},
                    "required": [self._names[key] for key, p in shown.items() if not p.optional],
                },
            },
        }

    def ask(self, values: Values, *, imperative: bool = False) -> Request:
        """A request in one of the split's wordings; imperative, or none where the split has no such wording."""
        wordings = [w for w in self.entry.wordings(values.split) if w[0].islower() or not imperative]
        wording = values.rng.choice(wordings)
        text = _OPTIONAL.sub(lambda found: found[1] if values.rng.random() < 0.55 else "", wording)
        keys = [key for key in self.entry.parameters if re.search(rf"\{{{key}[?}}]", text)]
        drawn = {key: values.draw(self.entry.parameters[key].kind) for key in keys}
        return request_of(self.entry, text, wording, drawn)

    def can_be_told(self, split: Split) -> bool:
        """True if a split has an imperative for it."""
        return any(wording[0].islower() for wording in self.entry.wordings(split))

    def call(self, request: Request) -> dict[str, Any]:
        """The call that serves a request."""
        arguments = {self._names[key]: value.value for key, value in request.values.items()}
        return {"type": "function", "function": {"name": self.name, "arguments": arguments}}


def request_of(entry: Entry, text: str, wording: str, drawn: Mapping[str, Value]) -> Request:
    """A wording filled with values."""
    text = _CHOICE.sub(lambda found: found[2] if drawn[found[1]].value else found[3], text)
    held = []
    for key, value in drawn.items():
        if is_open(entry.parameters[key].kind):
            held += value.value if isinstance(value.value, list) else [value.value]
    text = text.format(**{key: value.said for key, value in drawn.items()})
    return Request(text, wording[0].islower(), wording, drawn, tuple(held))


@cache
def catalogue(name: str) -> tuple[Entry, ...]:
    """The tools of `tools` or `functions`."""
    rows = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))["tool"]
    return tuple(_entry(row) for row in rows)


def neighbours(entry: Entry, count: int) -> Sequence[Entry]:
    """An entry and those that stand at most `count` places from it in its file, where like subjects stand together.

    Of one that is in no file those beside it.
    """
    for name in ("tools", "functions", "actions"):
        entries = catalogue(name)
        if entry in entries:
            at = entries.index(entry)
            return entries[max(0, at - count) : at + count + 1]
    return entry.beside


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        names=row["names"].split("|"),
        says=row["says"].split("|"),
        parameters={key.split("|")[0]: _parameter(key, text) for key, text in row["parameters"].items()},
        asks=row["asks"].strip().splitlines(),
        held=row.get("held", 1),
        result=row.get("result"),
        answers=row.get("answers", "").split("|"),
        reads=row.get("reads", False),
        acts=row.get("acts", ""),
        alike=frozenset(row.get("alike", ())),
    )


def _parameter(key: str, text: str) -> Parameter:
    kind, rest = text.split("; ", 1)
    says, drawn = rest.rsplit("; ", 1)
    return Parameter(kind.removesuffix("?"), says, drawn, kind.endswith("?"), tuple(key.split("|")[1:]))


def _schema(parameter: Parameter, bare: bool) -> dict[str, Any]:
    kind, _, items = parameter.type.partition(":")
    found: dict[str, Any] = {"type": "string", "enum": kind.split("|")} if "|" in kind else {"type": kind}
    if kind == "array":
        found["items"] = {"type": items or "number"}
    return {**found, "description": "" if bare else parameter.says}
