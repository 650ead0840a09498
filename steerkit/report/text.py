"""How values look on a terminal: calls, verdicts, and features as small bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from steerkit.decisions import DECISIONS
from steerkit.report.out import console, json_text, print_json
from steerkit.report.tokens import visible

__all__ = [
    "bars",
    "call_text",
    "console",
    "edit_text",
    "event_text",
    "event_word",
    "ledger_text",
    "print_json",
    "reply_lines",
    "reply_text",
    "short",
    "verdict_text",
]

_BARS = "▁▂▃▄▅▆▇█"
_STYLES: Final[Mapping[str, str]] = {name: row.style for name, row in DECISIONS.items()}


def short(value: object) -> str:
    """A value as JSON in one short piece."""
    text = json_text(value)
    if text.startswith('"sha256:'):
        return f"{text[1:20]}…"
    return text if len(text) <= 60 else f"{text[:59]}…"


def call_text(call: Mapping[str, Any]) -> str:
    """A call as people write one; a malformed one as the model wrote it."""
    if "malformed" in call:
        return f"malformed: {visible(call['raw'])}"
    if set(call["arguments"]) == {"redacted"}:
        return f"{visible(call['name'])}(redacted)"
    arguments = ", ".join(f"{visible(key)}={json_text(value)}" for key, value in call["arguments"].items())
    return f"{visible(call['name'])}({arguments})"


def reply_lines(calls: Sequence[Mapping[str, Any]], text: str) -> list[str]:
    """What came out of a turn: a line for each call, and one for what was said."""
    said = text.strip()
    return [*map(call_text, calls), *([f"“{visible(said)}”"] if said else [])] or ["(nothing)"]


def reply_text(calls: Sequence[Mapping[str, Any]], text: str) -> str:
    """The same in one line."""
    return "  ".join(reply_lines(calls, text))


def verdict_text(verdict: Mapping[str, Any]) -> Text:
    """A verdict with its rule and reason."""
    decision = str(verdict["decision"])
    policy = f"{verdict['policy']}/" if verdict["policy"] else ""
    text = Text()
    text.append(visible(decision.upper()), style=_STYLES.get(decision, ""))
    text.append(visible(f"  {policy}{verdict['rule']}: {verdict['reason']}"))
    if verdict.get("shadowed"):
        text.append(visible(f"  (in shadow: {verdict['shadowed']})"), style="dim")
    return text


def event_text(content: Mapping[str, Any]) -> str:
    """What happened to a call after its turn: an approval or an execution, in one line."""
    call = call_text(content["call"])
    if content["kind"] == "execution":
        return f"{call}  in {content['seconds']:.3g} s"
    who = content["by"] or "somebody"
    why = content["error"] or content["note"]
    return call + visible(f"  by {who}{f': {why}' if why else ''}")


def ledger_text(content: Mapping[str, Any]) -> str:
    """What a record says that is of no call, in one line: a run's beginning and end, a redaction, a tombstone."""
    return visible(_ledger_text(content))


def _ledger_text(content: Mapping[str, Any]) -> str:
    if content["kind"] == "run_opened":
        return f"run {content['run']} on {content['model']['name']}"
    if content["kind"] == "run_closed":
        said = ", ".join(f"{count} {name}" for name, count in content["counts"].items() if isinstance(count, int))
        return f"run {content['run']}: {said}"
    if content["kind"] == "redaction":
        return f"of record {content['of']}: {', '.join(content['fields'])}"
    return f"{content['count']} records from before {content['before'][:19]}"


def event_word(content: Mapping[str, Any]) -> str:
    """How it came out, in one word."""
    if content["kind"] == "execution":
        return f"run:{content['status']}"
    return "approved" if content["decision"] == "approve" else "refused"


def bars(values: Sequence[float], high: float | None = None) -> str:
    """Values as small bars from 0 to `high` (default: the largest of them); nothing below 0 rises."""
    top = max(0.0, *values) if high is None and values else high or 0.0
    return "".join(_BARS[min(7, max(0, int(8 * value / top)))] if top > 0 else _BARS[0] for value in values)


def _site(edit: Mapping[str, Any]) -> str:
    return visible(str(edit["site"])) if "site" in edit else f"layer {edit['layer']}"


def edit_text(edit: Mapping[str, Any]) -> str:
    """What a steering rule changed."""
    positions = edit["positions"]
    where = f"token {positions[0]}" if len(positions) == 1 else f"{len(positions)} tokens from {positions[0]}"
    rule = visible(f"{edit['policy']}/{edit['rule']}")
    return f"{rule}: {_site(edit)}, {where}, |change| {edit['norm']:.2f}"
