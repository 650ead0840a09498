"""`steerkit approvals`: held calls of a store, and decisions about them."""

from __future__ import annotations

import getpass
from typing import Annotated, Any

import typer

from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.report import call_text, console, print_json, say_line

app = typer.Typer(help="Held calls of a store: list them, let them run, or refuse them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the held call, as `approvals list` shows it.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides (default: you).")]
Note = Annotated[str, typer.Option(metavar="TEXT", help="Why; of a refusal, the model is told.")]
Wait = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="How long a held call waits, as the server has it.")
]


@app.command("list")
def list_command(store: StoreOption = None, approval_seconds: Wait = 3600.0, json: JsonOption = False) -> None:
    """List the held calls that wait for a decision, oldest first."""
    from steerkit.audit import Approvals

    approvals = Approvals(opened(store), approval_seconds)
    found = approvals.pending()
    for problem in approvals.damaged():
        say_line(f"{problem}; no call of it can be decided on")
    if json:
        for entry in found:
            print_json(entry.to_json())
        return
    out = console()
    for entry in found:
        out.print(entry.id)
        out.print(f"  {call_text(entry.call)}")
        out.print(f"  {entry.verdict.reason}; until {entry.expires:%Y-%m-%d %H:%M:%S} UTC")
    if not found:
        out.print("nothing waits")


@app.command("approve")
def approve(
    id: Id,
    by: By = None,
    note: Note = "",
    store: StoreOption = None,
    approval_seconds: Wait = 3600.0,
    json: JsonOption = False,
) -> None:
    """Let one held call run: once, and that very call."""
    _decide(id, True, by, note, store, approval_seconds, json)


@app.command("refuse")
def refuse(
    id: Id,
    by: By = None,
    note: Note = "",
    store: StoreOption = None,
    approval_seconds: Wait = 3600.0,
    json: JsonOption = False,
) -> None:
    """Refuse one held call."""
    _decide(id, False, by, note, store, approval_seconds, json)


def _decide(id: str, approve: bool, by: str | None, note: str, store: Any, seconds: float, json: bool) -> None:
    from steerkit.audit import Approvals

    approvals = Approvals(opened(store, writable=True), seconds)
    entry = approvals.decide(id, approve=approve, by=by or getpass.getuser(), note=note)
    if json:
        print_json(entry.to_json())
    else:
        console().print(f"{entry.state}: {call_text(entry.call)}")
