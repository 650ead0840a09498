"""Values on a terminal: calls, verdicts, and features as small bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.text import Text

from steerkit.decisions import DECISIONS
from steerkit.report.out import json_text
from steerkit.report.tokens import visible
from steerkit.types import CallLike, Edit, MalformedCall, Verdict

_BARS = "▁▂▃▄▅▆▇█"
_STYLES: Final[Mapping[str, str]] = {name: row.style for name, row in DECISIONS.items()}


def short(value: object) -> str:
    """A value as JSON in one short piece."""
    text = json_text(value)
    if text.startswith('"sha256:'):
        return f"{text[1:20]}…"
    return text if len(text) <= 60 else f"{text[:59]}…"


def call_text(call: CallLike) -> str:
    """A call as people write one; a malformed one as the model wrote it."""
    from steerkit.audit import Gone  # a command that shows no call need not wait for it

    if isinstance(call, MalformedCall):
        return f"malformed: {visible(call.raw)}"
    if isinstance(call.arguments, Gone):
        return f"{visible(call.name)}{call.arguments.word}"
    arguments = ", ".join(f"{visible(key)}={json_text(value)}" for key, value in call.arguments.items())
    return f"{visible(call.name)}({arguments})"


def reply_lines(calls: Sequence[CallLike], text: str) -> list[str]:
    """The result of a turn: a line for each call, and one for the text beside them."""
    said = text.strip()
    return [*map(call_text, calls), *([f"“{visible(said)}”"] if said else [])] or ["(nothing)"]


def reply_text(calls: Sequence[CallLike], text: str) -> str:
    """The result of a turn in one line."""
    return "  ".join(reply_lines(calls, text))


def verdict_text(verdict: Verdict) -> Text:
    """A verdict with its rule and reason."""
    policy = f"{verdict.policy}/" if verdict.policy else ""
    text = Text()
    text.append(visible(verdict.decision.upper()), style=_STYLES.get(verdict.decision, ""))
    text.append(visible(f"  {policy}{verdict.rule}: {verdict.reason}"))
    if verdict.shadowed:
        text.append(visible(f"  (in shadow: {verdict.shadowed})"), style="dim")
    return text


def bars(values: Sequence[float], high: float | None = None) -> str:
    """Values as small bars from 0 to `high` (default: the largest of them); nothing below 0 rises."""
    top = max(0.0, *values) if high is None and values else high or 0.0
    return "".join(_BARS[min(7, max(0, int(8 * value / top)))] if top > 0 else _BARS[0] for value in values)


def edit_text(edit: Edit) -> str:
    """An edit of a steering rule: site, tokens and size."""
    positions = edit.positions
    where = f"token {positions[0]}" if len(positions) == 1 else f"{len(positions)} tokens from {positions[0]}"
    return f"{visible(edit.full_name)}: {edit.site.name}, {where}, |change| {edit.norm:.2f}"
