"""The outcome of a turn for whoever asked, and the `steerkit` object that says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from steerkit.audit import HeldCall, held_calls
from steerkit.decisions import ending, releases, severity
from steerkit.server.errors import ApiError
from steerkit.types import Call, Turn, Verdict

Status = Literal["answer", "calls", "held", "denied", "stopped", "handoff"]


class Released(NamedTuple):
    """A call that an executor may run, under its id in the conversation."""

    id: str
    call: Call


class Outcome(NamedTuple):
    """A turn, as its asker is told of it."""

    turn: Turn
    status: Status
    """`answer`: no call; `calls`: some may run; `held`: some wait and none may run; `denied`: none may run; `stopped`
    and `handoff`: a rule ended the run so."""
    released: tuple[Released, ...]
    held: tuple[HeldCall, ...]

    @property
    def is_cut(self) -> bool:
        """True if the reply was longer than it may be."""
        return self.turn.finish == "length"

    @property
    def reason(self) -> str:
        """Reason of the strictest verdict that kept a call back."""
        kept = (one for one in self.turn.verdicts if one.decision in ("stop", "handoff", "deny"))
        worst = max(kept, key=lambda one: severity(one.decision), default=None)
        return "" if worst is None else f"not run: {worst.reason}"

    @property
    def waiting(self) -> str:
        """Lines for a reader about the calls that wait; they name what is decided on."""
        return "\n".join(
            f"[{one.call.name} waits for a person: {one.verdict.reason}; approval {one.approval or 'not possible'}]"
            for one in self.held
        )

    def told(self) -> dict[str, Any]:
        """The `steerkit` object."""
        turn = self.turn
        return {
            "record": turn.record_id,
            "status": self.status,
            "finish": turn.finish,
            "verdicts": [
                _verdict(id, call.name if isinstance(call, Call) else None, verdict)
                for id, call, verdict in zip(turn.call_ids, turn.calls, turn.verdicts, strict=True)
            ],
            "held": [one.to_json() for one in self.held],
            "edits": [
                {
                    "policy": edit.policy,
                    "rule": edit.rule,
                    "site": edit.site.name,
                    "tokens": len(edit.positions),
                    "norm": edit.norm,
                }
                for edit in turn.trace.edits
            ],
            "forced_by_grammar": _forced(turn),
            "attempts": [one.record_id for one in turn.attempts],
        }

    def stopped(self) -> ApiError:
        """The answer to a request whose run a rule stopped."""
        return ApiError(
            403,
            f"a policy stopped the run: {self.reason.removeprefix('not run: ')} (record {self.turn.record_id})",
            code="run_stopped",
            told=self.told(),
            headers=record_header(self.turn),
        )


def record_header(turn: Turn) -> Mapping[str, str]:
    """The header that names a turn's record."""
    return {} if turn.record_id is None else {"x-steerkit-record": turn.record_id}


def outcome_of(turn: Turn) -> Outcome:
    """The outcome of a turn."""
    said = [one.decision for one in turn.verdicts]
    ended = ending(said)
    pairs = list(zip(turn.call_ids, turn.calls, turn.verdicts, strict=True))
    released = tuple(
        Released(id, call) for id, call, one in pairs if isinstance(call, Call) and releases(one.decision, said)
    )
    held = held_calls(turn)
    if ended is not None:
        return Outcome(turn, ended, (), held)
    status: Status = "calls" if released else "held" if held else "denied" if turn.calls else "answer"
    return Outcome(turn, status, released, held)


def _forced(turn: Turn) -> dict[str, Any] | None:
    """What a grammar decided of a reply: tokens, and whether a call that was required was not demanded after all."""
    found = turn.constrained
    if found is None:
        return None
    forced = sum(span.end - span.start for span in found.forced)
    said = {"grammar": found.grammar, "forced": forced, "masked": len(found.masked)}
    return {**said, "turned_away": found.reason} if found.reason else said


def _verdict(id: str, name: str | None, verdict: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {"call_id": id, "name": name, "decision": verdict.decision, "rule": verdict.rule}
    found |= {"policy": verdict.policy, "reason": verdict.reason}
    return found if verdict.shadowed is None else {**found, "shadowed": verdict.shadowed}
