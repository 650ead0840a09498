"""A finished turn as plain data, for `--json` and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from steerkit.policy import Gate, GuardCondition, Policy, leaves_of, watch_key
from steerkit.report.text import bars
from steerkit.report.tokens import visible
from steerkit.types import Call, Edit, Turn


def turn_data(turn: Turn) -> dict[str, Any]:
    """The result of a turn as plain JSON."""
    return {
        **({} if turn.constrained is None else {"constrained": asdict(turn.constrained)}),
        "text": turn.text,
        "calls": [_call_data(call) for call in turn.calls],
        "released": [call.name for call in turn.released],
        "finish": turn.finish,
        "edits": [_edit_data(edit) for edit in turn.trace.edits],
        "counterfactual": _counterfactual(turn.counterfactual),
    }


def _edit_data(edit: Edit) -> dict[str, Any]:
    where = {**edit.site.content, "positions": list(edit.positions)}
    return {"rule": edit.rule, "policy": edit.policy, **where, "norm": edit.norm}


def _counterfactual(turn: Turn | None) -> dict[str, Any] | None:
    """The result without steering."""
    return None if turn is None else {"text": turn.text, "calls": [_call_data(call) for call in turn.calls]}


def constrained_text(turn: Turn) -> str:
    """What a grammar decided of a turn's reply; empty where none held it."""
    one = turn.constrained
    if one is None:
        return ""
    forced = sum(span.end - span.start for span in one.forced)
    said = f"of {len(turn.reply_ids)} tokens it left no choice about {forced}, and {len(one.masked)} were drawn again"
    return f"{said}; {one.reason}" if one.reason else said


def verdict_data(turn: Turn) -> list[dict[str, Any]]:
    """The turn's verdicts."""
    return [asdict(verdict) for verdict in turn.verdicts]


def watched_values(turn: Turn, steps: int = 24) -> dict[str, Sequence[float]]:
    """Each watched reading over the reply's first steps."""
    start = len(turn.prompt_ids) - 1
    return {name: values[start : start + steps] for name, values in turn.trace.watched.items()}


def highest(turns: Iterable[Turn]) -> float:
    """The largest watched reading of all turns, at least 0: what their bars rise to."""
    return max((0.0, *(value for turn in turns for values in watched_values(turn).values() for value in values)))


def watched_lines(turn: Turn, policies: Sequence[Policy], high: float) -> list[str]:
    """A line for each watched reading: its bars on one scale, its largest value, and the bounds that rules have."""
    bounds = bounds_of(policies)
    shown = watched_values(turn)
    width = max(map(len, shown), default=0)
    lines = []
    for name, values in shown.items():
        said = f"{visible(name):<{width}} {bars(values, high)}  max {max(values, default=0.0):+6.1f}"
        lines.append("  ".join([said, *map(str, bounds.get(name, ()))]))
    return lines


class Bound(NamedTuple):
    """A value of a feature or probe at which a rule begins to act."""

    does: str
    """`gate`, or the decision of a rule of the guard."""
    word: str
    """`above` or `below`."""
    value: float

    def __str__(self) -> str:
        return f"{self.does} {self.word} {self.value:+.1f}"


def bounds_of(policies: Sequence[Policy]) -> dict[str, list[Bound]]:
    """By watched name, what rules do above or below which reading, such as `gate above +1.9` or `deny above -1.8`."""
    found: dict[str, list[Bound]] = {}
    for policy in policies:
        gates = [("gate", rule.when) for rule in policy.steer]
        rules = [(rule.then, rule.when) for rule in policy.guard.rules] if policy.guard else []
        for does, when in (*gates, *rules):
            for one in leaves_of(when) if isinstance(when, (Gate, GuardCondition)) else ():
                given = [(word, getattr(one, word)) for word in ("above", "below")]
                bounds = [Bound(does, word, float(value)) for word, value in given if value is not None]
                found.setdefault(watch_key(policy, one.reads), []).extend(bounds)
    return {name: list(dict.fromkeys(bounds)) for name, bounds in found.items()}


def _call_data(call: Any) -> dict[str, Any]:
    if isinstance(call, Call):
        return {"name": call.name, "arguments": dict(call.arguments)}
    return {"malformed": call.error, "raw": call.raw, "position": call.position}
