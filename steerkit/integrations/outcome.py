"""A turn as libraries carry it: the calls that may run, and what the guard said of it."""

from __future__ import annotations

from typing import Any

from steerkit.decisions import ending, releases
from steerkit.types import Call, Turn


def released(turn: Turn) -> list[tuple[str, Call]]:
    """The calls that may run, under their ids in the conversation; none of a turn that ended the run."""
    said = [one.decision for one in turn.verdicts]
    if ending(said):
        return []
    rows = zip(turn.call_ids, turn.calls, said, strict=True)
    return [(id, call) for id, call, one in rows if isinstance(call, Call) and releases(one, said)]


def judged(turn: Turn) -> dict[str, Any]:
    """The record's id, the verdict on each call that was written, malformed ones among them, and why a call that was
    required is not there, where steering turned the model away from it."""
    verdicts = [
        {
            "id": id,
            "call": getattr(call, "name", None),
            "decision": one.decision,
            "rule": one.rule,
            "reason": one.reason,
        }
        for id, call, one in zip(turn.call_ids, turn.calls, turn.verdicts, strict=True)
    ]
    reason = "" if turn.constrained is None else turn.constrained.reason
    return {"record": turn.record_id, "verdicts": verdicts, **({"turned_away": reason} if reason else {})}


def why_not(turn: Turn) -> str:
    """Decision and reason of each call, for an agent that would else get neither a call nor text."""
    return "; ".join(f"{one.decision}: {one.reason}" for one in turn.verdicts)
