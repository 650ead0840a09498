"""`steerkit audit`: look at records, and check that none was changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from steerkit.cli.audit.explain import explain
from steerkit.cli.audit.keys import check, checkpoint, keygen, prove, verify
from steerkit.cli.audit.lines import (
    as_json,
    is_event,
    is_ledger,
    is_turn,
    meta_text,
    print_records,
    put,
    put_field,
    told,
)
from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.cli.audit.query import export, query
from steerkit.cli.audit.redact import redact, retain
from steerkit.cli.audit.replay import replay
from steerkit.report.out import console, print_json
from steerkit.report.text import bars, call_text, edit_text, event_word, ledger_text, reply_text, verdict_text

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
    from steerkit.audit import legible, read_content, unpack
    from steerkit.types import Trace

    log = opened(store)
    record = log.get(id)
    with legible(record):
        content = read_content(record)
        packed = log.trace_of(record)
        trace = unpack(packed) if packed else Trace()
        if json:
            head = {"sequence": record.sequence, "id": record.id, "time": record.time}
            chain = {"previous": record.previous, "hash": record.hash}
            watched = {key: list(values) for key, values in trace.watched.items()}
            print_json({**head, **chain, "watched": watched, "body": record.content})
            return
        out = console()
        put_field(out, "record", f"{record.sequence}  {record.id}  {record.time}")
        put_field(out, "hash", record.hash)
        _show(out, told(content), trace.watched)


def _show(out: Console, content: dict[str, Any], watched: Any) -> None:
    if "metadata" in content:
        put_field(out, "metadata", meta_text(content["metadata"]))
    if "conversation" in content:
        put_field(out, "chat", str(content["conversation"]))
    if is_ledger(content):
        put_field(out, content["kind"], ledger_text(content))
    elif is_event(content):
        _show_event(out, content)
    elif is_turn(content):
        _show_turn(out, content, watched)
    else:
        put_field(out, str(content.get("kind", "body")), as_json(content))


def _show_event(out: Console, content: dict[str, Any]) -> None:
    """An approval or an execution, and the turn that it belongs to."""
    put_field(out, "turn", f"{content['turn']}  {content['call_id']}")
    put_field(out, "call", call_text(content["call"]))
    if content["kind"] == "execution":
        put_field(out, "run", f"{content['status']} in {content['seconds']:.3g} s")
        put_field(out, "result", f"sha256 {content['result'] or 'of none'}")
        return
    put_field(out, event_word(content), f"by {content['by'] or 'somebody'}")
    for name in ("note", "error"):
        if content[name]:
            put_field(out, name, content[name])


def _show_turn(out: Console, content: dict[str, Any], watched: Any) -> None:
    """A turn: what was asked, what came out and how it was judged."""
    model = content["model"]
    put_field(out, "model", f"{model['name']}  {model['dtype']}  {model['fingerprint'][:23]}…")
    put_field(out, "policies", ", ".join(policy["name"] for policy in content["policies"]) or "none")
    messages = content["messages"] if isinstance(content["messages"], list) else []
    for message in messages:
        put_field(out, message["role"], str(message.get("content") or message.get("tool_calls"))[:140])
    if said := str(content["text"]).strip():
        put_field(out, "said", said)
    for call, verdict in zip(content["calls"], content["verdicts"], strict=True):
        put_field(out, "call", call_text(call))
        put_field(out, "", verdict_text(verdict))
        for reading in verdict["readings"]:
            text = f"{reading['name']} read {reading['value']:.4g} at token {reading['position']}"
            put_field(out, "", f"{text}, bound {reading['threshold']:.4g}")
    for edit in content["edits"]:
        put_field(out, "edited", edit_text(edit))
    if other := content.get("counterfactual"):
        put_field(out, "without", f"steering: {reply_text(other['calls'], str(other['text']))}")
    _show_watched(out, content, watched)


def _show_watched(out: Console, content: dict[str, Any], watched: Any) -> None:
    """The watched features over the reply's steps."""
    start = max(0, len(content["prompt_ids"]) - 1)
    width = max(map(len, watched), default=0)
    for name, values in watched.items():
        if reply := values[start:]:
            put(out, f"watched  {name:<{width}}  {bars(reply)}  {min(reply):.3g} to {max(reply):.3g}")


for command in (query, export, explain, replay, verify, keygen, checkpoint, prove, check, redact, retain):
    app.command()(command)
