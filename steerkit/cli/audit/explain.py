"""`steerkit audit explain`: why a recorded call was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit.options import (
    JsonOption,
    RecordedDevice,
    RecordedDtype,
    RecordedModel,
    RecordedSaes,
    StoreOption,
    opened,
)
from steerkit.errors import AuditError, SaeError
from steerkit.report import console, print_json, say_line

Top = Annotated[
    int, typer.Option(min=1, max=50, metavar="COUNT", help="Features to list for the choice, and against it.")
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page to this file; it needs no network.")]


def explain(
    id: Annotated[str, typer.Argument(metavar="ID", help="A turn's id, its beginning, or a record's number.")],
    store: StoreOption = None,
    call: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Which call of the turn, from 0.")] = 0,
    argument: Annotated[
        str | None, typer.Option(metavar="NAME", help="Explain this argument's value instead of the tool.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TOOL", help="Hold the tool against this declared one (default: the one that came closest)."
        ),
    ] = None,
    no_call: Annotated[
        bool, typer.Option("--no-call", help="Explain why there was a call at all, against not calling.")
    ] = False,
    top: Top = 5,
    seed: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Of the random features.")] = 0,
    html: Html = None,
    model: RecordedModel = None,
    saes: RecordedSaes = None,
    device: RecordedDevice = None,
    dtype: RecordedDtype = None,
    json: JsonOption = False,
) -> None:
    """Say why a call was made: the features it hangs on, each really taken away, and what they read."""
    if (argument is not None) + (against is not None) + no_call > 1:
        raise AuditError("explain: got several of --argument, --against and --no-call; expected one at most")
    turn = _turn(opened(store), id)
    from steerkit.agent import load_recorded
    from steerkit.lab.explain import Extent, Target
    from steerkit.lab.explain import explain as explain_turn
    from steerkit.report import ExplainView, explanation_json, show_explanation

    runtime = load_recorded(turn, model=model, saes=saes, device=device, dtype=dtype)
    found = explain_turn(runtime, turn, Target(call, argument, against, no_call), Extent(top, seed=seed))
    view = ExplainView(found, turn.record.calls[call], turn.record.verdicts[call])
    if html is not None:
        from steerkit.files import write_text_atomic
        from steerkit.report import explain_page

        write_text_atomic(html, explain_page(view), SaeError)
    if json:
        print_json(explanation_json(view))
        return
    out = console()
    show_explanation(out, view)
    if html is not None:
        say_line(f"wrote {html}")


def _turn(log: Any, id: str) -> Any:
    """The one turn with this id."""
    from steerkit.audit import read_turn, turns_of

    found = turns_of(log, id)
    if len(found) != 1:
        ids = ", ".join(record.id for record in found) or "none"
        raise AuditError(f"{log.path}: run {id} has {len(found)} turns; expected the id of one: {ids}")
    return read_turn(log, found[0])
