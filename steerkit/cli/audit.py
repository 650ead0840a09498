"""`steerkit audit`: look at records, and check that none was changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from steerkit.cli.audit_explain import explain
from steerkit.cli.audit_keys import check, checkpoint, keygen, prove, verify
from steerkit.cli.audit_lines import is_event, is_ledger, print_records
from steerkit.cli.audit_privacy import redact, retain
from steerkit.cli.audit_query import export, query
from steerkit.cli.audit_replay import replay
from steerkit.cli.audit_store import JsonOption, StoreOption, opened
from steerkit.cli.view import (
    bars,
    call_text,
    console,
    edit_text,
    event_word,
    ledger_text,
    print_json,
    reply_text,
    verdict_text,
)

app = typer.Typer(help="Look at records, and check that none was changed.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_records(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the newest records."""
    print_records(opened(store).records(limit, newest_first=True), json)


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="A record's id, its beginning, or its number.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show one record."""
    from steerkit.audit import unpack
    from steerkit.types import Trace

    log = opened(store)
    record = log.get(id)
    content = record.content
    packed = log.trace_of(record)
    trace = unpack(packed) if packed else Trace()
    if json:
        head = {"sequence": record.sequence, "id": record.id, "time": record.time}
        chain = {"previous": record.previous, "hash": record.hash}
        print_json({**head, **chain, "watched": {k: list(v) for k, v in trace.watched.items()}, "body": content})
        return
    out = console()
    out.print(f"record   {record.sequence}  {record.id}  {record.time}")
    out.print(f"hash     {record.hash}")
    if is_ledger(content):
        out.print(f"{content['kind']}  {ledger_text(content)}")
    elif is_event(content):
        _show_event(out, content)
    else:
        _show_turn(out, content, trace.watched)


def _show_event(out: Any, content: dict[str, Any]) -> None:
    """An approval or an execution, and the turn that it belongs to."""
    out.print(f"turn     {content['turn']}  {content['call_id']}")
    out.print(f"call     {call_text(content['call'])}")
    if content["kind"] == "execution":
        out.print(f"run      {content['status']} in {content['seconds']:.3g} s")
        out.print(f"result   sha256 {content['result'] or 'of none'}")
        return
    out.print(f"{event_word(content):<8} by {content['by'] or 'somebody'}")
    for name in ("note", "error"):
        if content[name]:
            out.print(f"{name:<8} {content[name]}")


def _show_turn(out: Any, content: dict[str, Any], watched: Any) -> None:
    """A turn: what was asked, what came out and how it was judged."""
    out.print(
        f"model    {content['model']['name']}  {content['model']['dtype']}  {content['model']['fingerprint'][:23]}…"
    )
    out.print(f"policies {', '.join(policy['name'] for policy in content['policies']) or 'none'}")
    messages = content["messages"] if isinstance(content["messages"], list) else []
    for message in messages:
        out.print(f"{message['role']:<8} {str(message.get('content') or message.get('tool_calls'))[:140]}")
    if said := str(content["text"]).strip():
        out.print(f"said     {said}")
    for call, verdict in zip(content["calls"], content["verdicts"], strict=True):
        out.print(f"call     {call_text(call)}")
        out.print(verdict_text(verdict))
        for reading in verdict["readings"]:
            text = f"{reading['name']} read {reading['value']:.4g} at token {reading['position']}"
            out.print(f"         {text}, bound {reading['threshold']:.4g}")
    for edit in content["edits"]:
        out.print(f"edited   {edit_text(edit)}")
    if other := content.get("counterfactual"):
        out.print(f"without  steering: {reply_text(other['calls'], str(other['text']))}")
    _show_watched(out, content, watched)


def _show_watched(out: Any, content: dict[str, Any], watched: Any) -> None:
    """The watched features over the reply's steps."""
    start = len(content["prompt_ids"]) - 1
    width = max(map(len, watched), default=0)
    for name, values in watched.items():
        reply = values[start:]
        out.print(f"watched  {name:<{width}}  {bars(reply)}  {min(reply):.3g} to {max(reply):.3g}")


for command in (query, export, explain, replay, verify, keygen, checkpoint, prove, check, redact, retain):
    app.command()(command)
