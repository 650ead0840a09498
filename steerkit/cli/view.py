"""How values look on a terminal: calls, verdicts, and features as small bars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {
    "allow": "green",
    "flag": "yellow",
    "retry": "yellow",
    "hold": "dark_orange",
    "deny": "red",
    "stop": "red",
    "none": "dim",
}


def console() -> Console:
    """Standard output, wide enough in a pipe that nothing is folded."""
    out = Console(highlight=False, emoji=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, emoji=False, markup=False, width=160)


def print_json(value: object) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value, ensure_ascii=False))


def short(value: object) -> str:
    """A value as JSON in one short piece."""
    text = json.dumps(value, ensure_ascii=False)
    if text.startswith('"sha256:'):
        return f"{text[1:20]}…"
    return text if len(text) <= 60 else f"{text[:59]}…"


def call_text(call: Mapping[str, Any]) -> str:
    """A call as people write one; a malformed one as the model wrote it."""
    if "malformed" in call:
        return f"malformed: {call['raw']}"
    if set(call["arguments"]) == {"redacted"}:
        return f"{call['name']}(redacted)"
    arguments = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call["arguments"].items())
    return f"{call['name']}({arguments})"


def reply_text(calls: Sequence[Mapping[str, Any]], text: str) -> str:
    """What came out of a turn, in one line per call."""
    return "\n".join([*map(call_text, calls), *([f"“{text.strip()}”"] if text.strip() else [])]) or "(nothing)"


def verdict_text(verdict: Mapping[str, Any]) -> Text:
    """A verdict with its rule and reason."""
    text = Text()
    text.append(verdict["decision"].upper(), style=_STYLES[verdict["decision"]])
    text.append(f"  {verdict['policy'] + '/' if verdict['policy'] else ''}{verdict['rule']}: {verdict['reason']}")
    if verdict.get("shadowed"):
        text.append(f"  (in shadow: {verdict['shadowed']})", style="dim")
    return text


def event_text(content: Mapping[str, Any]) -> str:
    """What happened to a call after its turn: an approval or an execution, in one line."""
    call = call_text(content["call"])
    if content["kind"] == "execution":
        return f"{call}  in {content['seconds']:.3g} s"
    who = content["by"] or "somebody"
    why = content["error"] or content["note"]
    return f"{call}  by {who}{': ' + why if why else ''}"


def ledger_text(content: Mapping[str, Any]) -> str:
    """What a record says that is of no call: a run's beginning and end, a redaction, a tombstone."""
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


def bars(values: Sequence[float]) -> str:
    """Values as small bars from 0 to the largest; nothing below 0 rises."""
    high = max(0.0, *values) if values else 0.0
    return "".join(_BARS[min(7, max(0, int(8 * value / high)))] if high else _BARS[0] for value in values)


def edit_text(edit: Mapping[str, Any]) -> str:
    """What a steering rule changed."""
    positions = edit["positions"]
    where = f"token {positions[0]}" if len(positions) == 1 else f"{len(positions)} tokens from {positions[0]}"
    return f"{edit['policy']}/{edit['rule']} wrote layer {edit['layer']} at {where}, |change| {edit['norm']:.2f}"
