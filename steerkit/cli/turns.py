"""A finished turn as plain data, for `--json` and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from steerkit.cli.view import bars
from steerkit.types import Call, Turn


def turn_data(turn: Turn) -> dict[str, Any]:
    """What came out of a turn."""
    return {
        "text": turn.text,
        "calls": [_call_data(call) for call in turn.calls],
        "released": [call.name for call in turn.released],
        "finish": turn.finish,
        "edits": [asdict(edit) for edit in turn.trace.edits],
        "counterfactual": _counterfactual(turn.counterfactual),
    }


def _counterfactual(turn: Turn | None) -> dict[str, Any] | None:
    """What would have come out of it without steering."""
    return None if turn is None else {"text": turn.text, "calls": [_call_data(call) for call in turn.calls]}


def verdict_data(turn: Turn) -> list[dict[str, Any]]:
    """The turn's verdicts."""
    return [asdict(verdict) for verdict in turn.verdicts]


def watched_bars(turn: Turn, steps: int = 24) -> Mapping[str, tuple[str, float]]:
    """Each watched feature over the reply's first steps as bars, with its largest value there."""
    start = len(turn.prompt_ids) - 1
    found = {}
    for name, values in turn.trace.watched.items():
        reply = values[start : start + steps]
        found[name] = (bars(reply), max(reply, default=0.0))
    return found


def _call_data(call: Any) -> dict[str, Any]:
    if isinstance(call, Call):
        return {"name": call.name, "arguments": dict(call.arguments)}
    return {"malformed": call.error, "raw": call.raw, "position": call.position}
