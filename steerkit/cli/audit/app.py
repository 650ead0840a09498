"""`steerkit audit`: look at records, and check that none was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from steerkit.cli.audit.explain import explain
from steerkit.cli.audit.keys import check, checkpoint, keygen, prove, verify
from steerkit.cli.audit.lines import as_json, print_records, put, put_field
from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.cli.audit.query import export, query
from steerkit.cli.audit.redact import redact, retain
from steerkit.cli.audit.replay import replay
from steerkit.report import (
    bars,
    call_text,
    console,
    edit_text,
    event_word,
    ledger_text,
    meta_text,
    print_json,
    reply_text,
    verdict_text,
)

if TYPE_CHECKING:  # loaded when a command needs it
    from steerkit.audit import ApprovalRecord, ExecutionRecord, Record, TurnRecord

app = typer.Typer(help="Look at records, and check that none was changed.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_records(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="How many, newest first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the newest records."""
    print_records(opened(store).records(limit, newest_first=True), json)


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A record's id, its beginning, or its number.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show one record."""
    from steerkit.audit import named_errors, read_content, unpack
    from steerkit.types import Trace

    log = opened(store)
    stored = log.get(id)
    with named_errors(stored):
        record = read_content(stored)
        packed = log.trace_of(stored)
        trace = unpack(packed) if packed else Trace()
        if json:
            head = {"sequence": stored.sequence, "id": stored.id, "time": stored.time}
            chain = {"previous": stored.previous, "hash": stored.hash}
            watched = {key: list(values) for key, values in trace.watched.items()}
            print_json({**head, **chain, "watched": watched, "body": stored.content})
            return
        out = console()
        put_field(out, "record", f"{stored.sequence}  {stored.id}  {stored.time}")
        put_field(out, "hash", stored.hash)
        _show(out, record, trace.watched)


def _show(out: Console, record: Record, watched: Mapping[str, Sequence[float]]) -> None:
    from steerkit.audit import ApprovalRecord, ExecutionRecord, OtherRecord, TurnRecord, record_json

    if record.metadata is not None:
        put_field(out, "metadata", meta_text(record.metadata))
    if isinstance(record, (ApprovalRecord, ExecutionRecord, TurnRecord)) and record.conversation is not None:
        put_field(out, "chat", record.conversation)
    match record:
        case OtherRecord():
            put_field(out, record.kind or "body", as_json(record_json(record)))
        case TurnRecord():
            _show_turn(out, record, watched)
        case ApprovalRecord() | ExecutionRecord():
            _show_event(out, record)
        case _:
            put_field(out, record.kind, ledger_text(record))


def _show_event(out: Console, event: ApprovalRecord | ExecutionRecord) -> None:
    """An approval or an execution, and the turn that it belongs to."""
    from steerkit.audit import ExecutionRecord

    put_field(out, "turn", f"{event.turn}  {event.call_id}")
    put_field(out, "call", call_text(event.call))
    if isinstance(event, ExecutionRecord):
        put_field(out, "run", f"{event.status} in {event.seconds:.3g} s")
        put_field(out, "result", f"sha256 {event.result or 'of none'}")
        return
    put_field(out, event_word(event), f"by {event.by or 'somebody'}")
    for name, text in (("note", event.note), ("error", event.error)):
        if text:
            put_field(out, name, text)


def _show_turn(out: Console, turn: TurnRecord, watched: Mapping[str, Sequence[float]]) -> None:
    """A turn: what was asked, what came out and how it was judged."""
    model = turn.model
    put_field(out, "model", f"{model.name}  {model.dtype}  {model.fingerprint[:23]}…")
    put_field(out, "policies", ", ".join(policy.name for policy in turn.policies) or "none")
    for message in turn.messages:
        put_field(out, message["role"], str(message.get("content") or message.get("tool_calls"))[:140])
    if said := turn.text.strip():
        put_field(out, "said", said)
    for call, verdict in zip(turn.calls, turn.verdicts, strict=True):
        put_field(out, "call", call_text(call))
        put_field(out, "", verdict_text(verdict))
        for reading in verdict.readings:
            text = f"{reading.name} read {reading.value:.4g} at token {reading.position}"
            put_field(out, "", f"{text}, bound {reading.threshold:.4g}")
    for edit in turn.edits:
        put_field(out, "edited", edit_text(edit))
    if (other := turn.counterfactual) is not None:
        put_field(out, "without", f"steering: {reply_text(other.calls, other.text)}")
    _show_watched(out, turn, watched)


def _show_watched(out: Console, turn: TurnRecord, watched: Mapping[str, Sequence[float]]) -> None:
    """The watched features over the reply's steps."""
    start = max(0, len(turn.prompt_ids) - 1)
    width = max(map(len, watched), default=0)
    for name, values in watched.items():
        if reply := values[start:]:
            put(out, f"watched  {name:<{width}}  {bars(reply)}  {min(reply):.3g} to {max(reply):.3g}")


for command in (query, export, explain, replay, verify, keygen, checkpoint, prove, check, redact, retain):
    app.command()(command)
