"""A run that waits for a person, as a value and as a file: JSON that survives the process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerkit.decisions import Decision
from steerkit.errors import LoopError, SettingError
from steerkit.files import strict_json
from steerkit.runtime import metadata_of, next_ids
from steerkit.types import Call, Verdict, in_one_line

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A well-formed call that the model asked for, under its id in the conversation."""

    id: str
    call: Call
    verdict: Verdict

    def __repr__(self) -> str:
        return in_one_line("Asked", self.id, self.call, f"{self.verdict.decision}: {self.verdict.reason}")

    @property
    def is_held(self) -> bool:
        """True if a person must decide."""
        return self.verdict.decision == "hold"


@dataclass(frozen=True, slots=True)
class Origin:
    """Model, policies and tools of a run, which it must be resumed under."""

    model: str
    """Fingerprint of the weights."""
    policies: tuple[tuple[str, str], ...]
    """Name and fingerprint of each."""
    tools: tuple[tuple[str, str], ...] | None = None
    """Name of each tool and fingerprint of its declaration; None where it is not known, as in files of old."""


@dataclass(frozen=True)
class Pending:
    """A turn with held calls, of which nothing has been run yet, not even what is allowed.

    Its calls are without token positions and readings; those stand in the audit record.
    """

    messages: tuple[dict[str, Any], ...]
    """The conversation before the turn."""
    text: str
    """The model's text beside its calls."""
    calls: tuple[Asked, ...]
    """Every well-formed call of the turn."""
    record_id: str | None
    """The turn's audit record; None where nothing is recorded."""
    origin: Origin
    conversation: str | None = None
    """Its id in the records; the resumed run keeps it."""
    metadata: Mapping[str, Any] | None = None
    """The run's; the resumed run keeps it unless it is given another."""

    def __post_init__(self) -> None:
        plain = tuple(Asked(one.id, _bare_call(one.call), _bare_verdict(one.verdict)) for one in self.calls)
        object.__setattr__(self, "calls", plain)

    def __repr__(self) -> str:
        return in_one_line("Pending", f"record {self.record_id}", *(f"{one.id} {one.call!r}" for one in self.held))

    @property
    def held(self) -> tuple[Asked, ...]:
        """The calls that need a decision."""
        return tuple(one for one in self.calls if one.is_held)

    def to_json(self) -> dict[str, Any]:
        """The value as a JSON object."""
        return {
            "steerkit": "pending",
            "version": VERSION,
            "record_id": self.record_id,
            "model": self.origin.model,
            "policies": _named(self.origin.policies),
            **({} if self.conversation is None else {"conversation": self.conversation}),
            **({} if not self.metadata else {"metadata": dict(self.metadata)}),
            **({} if self.origin.tools is None else {"tools": _named(self.origin.tools)}),
            "messages": list(self.messages),
            "text": self.text,
            "calls": [_entry(one) for one in self.calls],
        }

    @classmethod
    def from_json(cls, data: Any, where: str = "pending") -> Pending:
        """The value of a JSON object.

        Raises:
            LoopError: everything that is wrong with its form.
        """
        if not isinstance(data, Mapping) or data.get("steerkit") != "pending":
            raise LoopError(f"{where}: got no pending run; expected what Pending.to_json or Pending.save wrote")
        if type(data.get("version")) is not int or data["version"] != VERSION:
            raise LoopError(
                f"{where} version: got {data.get('version')!r}, expected {VERSION}; resume it with the steerkit that "
                f"wrote it"
            )
        try:
            form = _Form.model_validate(dict(data), strict=True)
        except ValidationError as error:
            raise LoopError("\n".join(f"{where} {_problem(one)}" for one in error.errors())) from None
        try:
            found = form.value()
        except SettingError as error:
            raise LoopError(f"{where} {error}") from None
        found.check(where)
        return found

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all; it holds the conversation, so only its owner may read it.

        Raises:
            LoopError: it cannot be written.
        """
        path = Path(path)
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        except OSError as error:
            raise LoopError(f"{path}: the pending run cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except OSError as error:
            raise LoopError(f"{path}: the pending run cannot be written: {error.strerror}") from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    @classmethod
    def load(cls, path: str | Path) -> Pending:
        """Read it from a file.

        Raises:
            LoopError: it is not there, or not what `save` writes.
        """
        path = Path(path)
        try:
            data = strict_json(path.read_bytes())
        except OSError as error:
            raise LoopError(f"{path}: the pending run cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise LoopError(f"{path}: got no JSON ({error}), expected what Pending.save wrote") from None
        return cls.from_json(data, str(path))

    def check(self, where: str = "pending") -> None:
        """Refuse what no loop has made.

        Raises:
            LoopError: ids that are not those of its calls in their order, or nothing to decide.
        """
        expected = next_ids(self.messages, len(self.calls))
        for number, (one, id) in enumerate(zip(self.calls, expected, strict=True)):
            if one.id != id:
                raise LoopError(f"{where} calls[{number}].id: got {one.id!r}, expected {id!r}; was the file edited?")
        if not self.held:
            raise LoopError(f"{where} calls: got none that is held, expected at least one")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Named(_Strict):
    name: str
    fingerprint: str


class _Call(_Strict):
    id: str
    name: str
    arguments: dict[str, Any]
    decision: Decision
    rule: str
    policy: str
    reason: str

    def value(self) -> Asked:
        verdict = Verdict(self.decision, self.rule, self.reason, policy=self.policy)
        return Asked(self.id, Call(self.name, self.arguments), verdict)


class _Form(_Strict):
    """The file's form."""

    steerkit: Literal["pending"]
    version: Literal[1]
    record_id: str | None
    model: str
    policies: list[_Named]
    tools: list[_Named] | None = None
    conversation: str | None = None
    metadata: dict[str, Any] | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    text: str
    calls: list[_Call]

    def value(self) -> Pending:
        policies, tools = (
            None if some is None else tuple((one.name, one.fingerprint) for one in some)
            for some in (self.policies, self.tools)
        )
        origin = Origin(self.model, policies or (), tools)
        calls = tuple(one.value() for one in self.calls)
        about = (self.conversation, metadata_of(self.metadata))
        return Pending(tuple(self.messages), self.text, calls, self.record_id, origin, *about)


def _named(fingerprints: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "fingerprint": value} for name, value in fingerprints]


def _entry(one: Asked) -> dict[str, Any]:
    verdict = one.verdict
    return {
        "id": one.id,
        "name": one.call.name,
        "arguments": dict(one.call.arguments),
        "decision": verdict.decision,
        "rule": verdict.rule,
        "policy": verdict.policy,
        "reason": verdict.reason,
    }


def _bare_call(call: Call) -> Call:
    return Call(call.name, dict(call.arguments))


def _bare_verdict(verdict: Verdict) -> Verdict:
    return Verdict(verdict.decision, verdict.rule, verdict.reason, policy=verdict.policy)


def _problem(error: Mapping[str, Any]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    got = "nothing" if error["type"] == "missing" else repr(error["input"])[:80]
    return f"{path}: got {got}, expected otherwise ({error['msg']})"
