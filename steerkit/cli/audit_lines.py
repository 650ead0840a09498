"""Records as `steerkit audit list` and `query` show them: one line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from steerkit.cli.view import call_text, console, event_text, event_word, ledger_text, print_json


def print_records(records: Iterable[Any], json: bool) -> None:
    """One line per record, for people or as JSON."""
    out = console()
    for record in records:
        content = record.content
        if json:
            head = {"sequence": record.sequence, "id": record.id, "time": record.time, "hash": record.hash}
            print_json({**head, **summary_of(content)})
            continue
        word, what = line_of(content)
        out.print(f"{record.sequence:>5}  {record.id}  {record.time[:19]}  {word:<10}  {what}")


def is_event(content: Mapping[str, Any]) -> bool:
    """Whether a record is no turn, but an approval or an execution of one of its calls."""
    return content.get("kind") in ("approval", "execution")


def is_ledger(content: Mapping[str, Any]) -> bool:
    """Whether a record is of a run, a redaction or a tombstone."""
    return content.get("kind") in ("run_opened", "run_closed", "redaction", "retention")


def summary_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What `list --json` says of a record."""
    if is_ledger(content):
        return {key: content[key] for key in ("kind", "run", "counts", "of", "count", "before") if key in content}
    if is_event(content):
        keys = ("kind", "turn", "call_id", "call", "decision", "by", "note", "error", "status", "seconds")
        return {key: content[key] for key in keys if key in content}
    decisions = [verdict["decision"] for verdict in content["verdicts"]]
    return {"kind": "turn", "decisions": decisions, "calls": content["calls"]}


def line_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """A record in one word and one line."""
    if is_ledger(content):
        return content["kind"], ledger_text(content)[:80]
    if is_event(content):
        return event_word(content), event_text(content)[:80]
    decisions = [verdict["decision"] for verdict in content["verdicts"]]
    calls = ", ".join(map(call_text, content["calls"])) or str(content["text"])
    word = "fabricated" if content.get("finish") == "fabricated" else "text"
    return ",".join(decisions) or word, calls[:80]
