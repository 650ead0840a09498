"""A call after its turn: held for a person, decided, and run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerkit.agent.tool_runner import Status
from steerkit.errors import LoopError
from steerkit.types import Call, Json, Verdict, in_one_line


@dataclass(frozen=True, slots=True)
class Held:
    """A call that waits for a person; what `approve` is asked about."""

    id: str
    """Id of the call, in its message."""
    call: Call
    verdict: Verdict
    record_id: str | None
    """The audit record of the turn that made it."""

    def __repr__(self) -> str:
        return in_one_line("Held", self.id, self.call, f"{self.verdict.decision}: {self.verdict.reason}")


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's decision about a held call.

    Raises:
        LoopError: `approved` is no bool, or what is said beside it is no text.
    """

    approved: bool
    by: str = ""
    """Name of the person who decided."""
    note: str = ""
    """Reason; of a refusal, the model sees it."""

    def __post_init__(self) -> None:
        if not isinstance(self.approved, bool):
            raise LoopError(f"Approval.approved: got {self.approved!r}, expected True or False")
        for name, value in (("by", self.by), ("note", self.note)):
            if not isinstance(value, str):
                raise LoopError(f"Approval.{name}: got {type(value).__name__}, expected text")
            if any("\ud800" <= char <= "\udfff" for char in value):
                raise LoopError(f"Approval.{name}: got half a character (a lone surrogate), expected Unicode text")


@dataclass(frozen=True, slots=True)
class Execution:
    """One call and its outcome."""

    id: str
    call: Call
    status: Status
    """`ok` (it ran, whether or not its result can be shown), `error` (the tool raised), `timeout`, `refused` (by a
    person), `denied` (by the guard). In audit records also `interrupted`."""
    result: dict[str, Json]
    """Result for the model."""
    seconds: float = 0.0

    def __repr__(self) -> str:
        return in_one_line("Execution", self.id, self.call, f"{self.status}:", self.result)


def approval_of(id: str, given: Any) -> Approval:
    """A decision in either form. Raises LoopError for another."""
    if isinstance(given, Approval):
        return given
    if isinstance(given, bool):
        return Approval(given)
    raise LoopError(f"decisions[{id!r}]: got {type(given).__name__}, expected True, False or an Approval")
