"""The agent loop as a state machine: it yields what it needs, is sent the answer, and does nothing itself.

    Generate ──► a turn ──► its verdicts ──► Approve (what is held) ──► Execute (what may run) ──► Generate …

`driver` holds what answers it, in threads or in an event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from steerkit.agent.calls import Approval as Approval
from steerkit.agent.calls import Execution as Execution
from steerkit.agent.calls import Held as Held
from steerkit.agent.exchange import is_to_run, messages_of, not_run
from steerkit.agent.pending import Asked, Origin, Pending
from steerkit.chat import plain_messages
from steerkit.decisions import ending
from steerkit.runtime import next_ids
from steerkit.types import Call, Messages, Turn, in_one_line

Outcome: TypeAlias = Literal[
    "answer", "pending", "stopped", "handoff", "malformed", "fabricated", "length", "max_turns"
]


@dataclass(frozen=True, slots=True)
class Run:
    """Result of a loop."""

    status: Outcome
    """`answer`; `pending`: a person must decide; `stopped`: a rule ended the run; `handoff`: a rule wants a larger
    model to be asked, which may go on from `messages`; `malformed`: no call could be read; `fabricated`: the model
    began a tool's result itself; `length`: the answer was cut off by `max_new_tokens`; `max_turns`: it still wants to
    call tools."""
    text: str
    """Text of the last turn."""
    messages: tuple[dict[str, Any], ...]
    """The conversation so far, as plain JSON values, fit for the next run. Of a turn that is pending, stopped, handed
    over, malformed, fabricated or cut off nothing stands in it."""
    turns: tuple[Turn, ...]
    """Made in this run; after a resume, those since."""
    executions: tuple[Execution, ...]
    pending: Pending | None = None
    conversation: str | None = None
    """Its id in the records of its turns, approvals and executions; a resumed run keeps it."""

    def __repr__(self) -> str:
        ran = [f"{one.call!r}: {one.status}" for one in self.executions]
        held = [f"{one.call!r}: hold" for one in self.pending.held] if self.pending else []
        return in_one_line("Run", self.status, f"{len(self.turns)} turns", *ran, *held, repr(self.text))


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer with the `Turn` that follows these messages."""

    messages: tuple[dict[str, Any], ...]
    first: bool = False
    """No turn of the run was made before."""


@dataclass(frozen=True, slots=True)
class Approve:
    """Answer with an `Approval` per held call; where there is nobody to ask, with what the pending state must be
    resumed under."""

    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Execute:
    """Answer with an `Execution` per call, in their order."""

    asked: tuple[Asked, ...]
    record_id: str | None


Steps: TypeAlias = "Generator[Generate | Approve | Execute, Any, Run]"


class Loop:
    """One run."""

    def __init__(
        self,
        messages: Messages,
        max_turns: int,
        conversation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._messages = plain_messages(messages)
        self._max_turns, self._conversation, self._metadata = max_turns, conversation, metadata
        self._turns: list[Turn] = []
        self._executions: list[Execution] = []

    def steps(self) -> Steps:
        """The complete run, from the messages on."""
        for _ in range(self._max_turns):
            first = not self._turns and not self._executions
            turn: Turn = yield Generate(tuple(deepcopy(self._messages)), first)
            self._turns.append(turn)
            ended = _ended(turn)
            if ended is not None:
                if ended == "answer" and turn.text:
                    self._messages.append({"role": "assistant", "content": turn.text})
                return self._run(ended)
            asked = asked_of(turn, self._messages)
            held = held_of(asked, turn.record_id)
            answer: Sequence[Approval] | Origin = (yield Approve(held)) if held else ()
            if isinstance(answer, Origin):
                before = tuple(deepcopy(self._messages))
                about = (self._conversation, self._metadata)
                return self._run("pending", Pending(before, turn.text, asked, turn.record_id, answer, *about))
            decided = {one.id: approval for one, approval in zip(held, answer, strict=True)}
            yield from self._carried_out(turn.text, turn.record_id, asked, decided)
        return self._run("max_turns")

    def resumed(self, pending: Pending, approvals: Mapping[str, Approval]) -> Steps:
        """The rest of a run: what was decided is carried out first."""
        yield from self._carried_out(pending.text, pending.record_id, pending.calls, approvals)
        return (yield from self.steps())

    def _carried_out(
        self, text: str, record_id: str | None, asked: Sequence[Asked], approvals: Mapping[str, Approval]
    ) -> Generator[Execute, Any, None]:
        """Run what may be run, and put the calls with all their results into the conversation."""
        may_run = tuple(one for one in asked if is_to_run(one, approvals))
        ran: Sequence[Execution] = (yield Execute(may_run, record_id)) if may_run else ()
        by_id = {execution.id: execution for execution in ran}
        executions = [by_id.get(one.id) or not_run(one, approvals.get(one.id)) for one in asked]
        self._executions += executions
        self._messages += messages_of(text, executions)

    def _run(self, status: Outcome, pending: Pending | None = None) -> Run:
        return Run(
            status=status,
            text=self._turns[-1].text if self._turns else "",
            messages=tuple(deepcopy(self._messages)),
            turns=tuple(self._turns),
            executions=tuple(self._executions),
            pending=pending,
            conversation=self._conversation,
        )


def asked_of(turn: Turn, messages: Sequence[Mapping[str, Any]]) -> tuple[Asked, ...]:
    """The well-formed calls of a turn with their verdicts, and ids that no earlier call has."""
    pairs = [(call, v) for call, v in zip(turn.calls, turn.verdicts, strict=True) if isinstance(call, Call)]
    ids = next_ids(messages, len(pairs))
    return tuple(Asked(id, call, verdict) for id, (call, verdict) in zip(ids, pairs, strict=True))


def held_of(asked: Sequence[Asked], record_id: str | None) -> tuple[Held, ...]:
    """Calls that wait for a person."""
    return tuple(Held(one.id, one.call, one.verdict, record_id) for one in asked if one.is_held)


def _ended(turn: Turn) -> Outcome | None:
    """Status of a run that ends with this turn; None where there are calls to decide on."""
    if ended := ending([verdict.decision for verdict in turn.verdicts]):
        return ended
    if turn.finish == "fabricated":
        return "fabricated"
    if not turn.calls:
        return "length" if turn.finish == "length" else "answer"
    return None if any(isinstance(call, Call) for call in turn.calls) else "malformed"
