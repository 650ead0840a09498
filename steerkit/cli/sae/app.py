"""`steerkit sae`: train, measure, look at, convert, fetch and publish sets of SAEs."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.cli.options import Revision, Source, layer_table, load_named
from steerkit.cli.sae.files import convert, pull, push
from steerkit.cli.sae.health import calibrate, health
from steerkit.cli.sae.train import train
from steerkit.report import console, print_json, without_nan

app = typer.Typer(
    help="Train, measure, convert, fetch and publish sets of SAEs.", no_args_is_help=True, rich_markup_mode=None
)
for command in (train, health, calibrate, convert, pull, push):
    app.command()(command)


@app.callback()
def sae() -> None:
    """Train, measure, convert, fetch and publish sets of SAEs."""


@app.command()
def inspect(
    source: Source,
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show each layer's final loss, MSE and L0, from the checkpoints' own history, and how dense it is."""
    from steerkit.sae import summarize

    saes = load_named(source, revision)
    rows = summarize(saes)
    if json:
        for row in rows:
            said = {"layer": row.layer, **row._asdict(), "dense": row.dense, "kind": saes[row.site].kind}
            print_json(without_nan({**said, "site": row.site.point}))
        return
    out = console()
    out.print(layer_table(rows, saes))
    if any(row.dense for row in rows):
        out.print("* more than a quarter of the dictionary is active at a token: read nothing into single features")
