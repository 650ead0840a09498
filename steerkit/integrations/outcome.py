"""What the guard said of a turn, as libraries carry it beside a message."""

from __future__ import annotations

from typing import Any

from steerkit.types import Turn


def judged(turn: Turn) -> dict[str, Any]:
    """The record's id, and the verdict on each call that was written, malformed ones among them."""
    pairs = zip(turn.calls, turn.verdicts, strict=True)
    verdicts = [
        {"call": getattr(call, "name", None), "decision": one.decision, "rule": one.rule, "reason": one.reason}
        for call, one in pairs
    ]
    return {"record": turn.record_id, "verdicts": verdicts}


def why_not(turn: Turn) -> str:
    """Decision and reason of each call, for an agent that would else get neither a call nor text."""
    return "; ".join(f"{one.decision}: {one.reason}" for one in turn.verdicts)
