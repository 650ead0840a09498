"""Records as `steerkit audit list` and `query` show them: one line each.

On a terminal a line is cut to its width, with an ellipsis, and a narrow one has no ids: a record's number names it too.
In a pipe lines are not cut.
"""

from __future__ import annotations

import json as jsons
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerkit.errors import AuditError
from steerkit.report.out import console, print_json
from steerkit.report.text import call_text, event_text, event_word, ledger_text
from steerkit.report.tokens import visible

_NARROW: Final = 110
"""Columns below which a line has no space for an id."""
_LABEL: Final = 8


def put(out: Console, text: str | Text) -> None:
    """One line: cut to a terminal's width, complete in a pipe."""
    if out.is_terminal:
        out.print(text, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        out.print(text, soft_wrap=True)


def put_field(out: Console, label: str, text: str | Text) -> None:
    """A value under its label: folded beside it on a terminal, in one line in a pipe."""
    shown = Text(visible(text)) if isinstance(text, str) else text
    if not out.is_terminal:
        out.print(Text.assemble(f"{label:<{_LABEL}} ", shown), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=_LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(label), shown)
    out.print(table)


def print_records(records: Iterable[Any], json: bool) -> int:
    """One line per record, for people or as JSON, also for one that cannot be read; how many there were."""
    from steerkit.audit import read_content

    out, count = console(), 0
    for record in records:
        count += 1
        head = {"sequence": record.sequence, "id": record.id, "time": record.time, "hash": record.hash}
        try:
            content = told(read_content(record))
            summary, (word, what) = summary_of(content), line_of(content)
        except AuditError as error:
            summary, word, what = {"kind": "damaged", "error": str(error)}, "damaged", str(error)
        if json:
            print_json({**head, **summary})
            continue
        id = "" if out.is_terminal and out.width < _NARROW else f"{record.id}  "
        put(out, f"{record.sequence:>5}  {id}{record.time[:19]}  {word:<10}  {' '.join(what.splitlines())}")
    return count


def told(content: Mapping[str, Any]) -> dict[str, Any]:
    """A content with a word in the place of each text that was redacted."""
    verdicts = [{**one, "reason": _or_word(one["reason"])} for one in content.get("verdicts", ())]
    texts = {key: _or_word(content[key]) for key in ("text", "by", "note", "error", "result") if key in content}
    return {**content, **texts, **({"verdicts": verdicts} if "verdicts" in content else {})}


def _or_word(value: Any) -> Any:
    return ("(redacted)" if "redacted" in value else "(missing)") if isinstance(value, Mapping) else value


def is_event(content: Mapping[str, Any]) -> bool:
    """True if a record is an approval or an execution of a call."""
    return content.get("kind") in ("approval", "execution")


def is_ledger(content: Mapping[str, Any]) -> bool:
    """True if a record is of a run, a redaction or a tombstone."""
    return content.get("kind") in ("run_opened", "run_closed", "redaction", "retention")


def is_turn(content: Mapping[str, Any]) -> bool:
    """True if a record is of a turn; the oldest have no kind."""
    return "calls" in content and "verdicts" in content


def summary_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record's line of `list --json`."""
    more = {"metadata": content["metadata"]} if "metadata" in content else {}
    if is_ledger(content):
        return {key: content[key] for key in ("kind", "run", "counts", "of", "count", "before") if key in content}
    if is_event(content):
        keys = ("kind", "turn", "call_id", "call", "decision", "by", "note", "error", "status", "seconds")
        return {key: content[key] for key in keys if key in content} | more
    if not is_turn(content):
        return {"kind": content.get("kind", "record"), "body": content}
    decisions = [verdict["decision"] for verdict in content["verdicts"]]
    return {"kind": "turn", "decisions": decisions, "calls": content["calls"], **more}


def line_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """A record in one word and one line."""
    if is_ledger(content):
        return content["kind"], ledger_text(content)
    if is_event(content):
        return event_word(content), event_text(content)
    if not is_turn(content):
        return str(content.get("kind", "record")), as_json(content)
    decisions = [verdict["decision"] for verdict in content["verdicts"]]
    calls = ", ".join(map(call_text, content["calls"])) or str(content["text"])
    word = "fabricated" if content.get("finish") == "fabricated" else "text"
    return ",".join(decisions) or word, calls


def meta_text(metadata: Any) -> str:
    """A record's metadata in the form that `--meta` takes."""
    if not isinstance(metadata, Mapping) or "redacted" in metadata or "missing" in metadata:
        return str(_or_word(metadata))
    listed = {key: value if isinstance(value, list) else [value] for key, value in metadata.items()}
    return "  ".join(f"{key}={','.join(map(str, values))}" for key, values in listed.items())


def as_json(value: Any) -> str:
    """A value in one line."""
    return jsons.dumps(value, ensure_ascii=False)
