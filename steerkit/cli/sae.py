"""`steerkit sae`: train, measure and look at sets of SAEs."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.cli.sae_health import calibrate, health
from steerkit.cli.sae_options import layer_table
from steerkit.cli.sae_train import train
from steerkit.cli.view import console, print_json

app = typer.Typer(help="Train, measure and look at sets of SAEs.", no_args_is_help=True, rich_markup_mode=None)


app.command("train")(train)
app.command("health")(health)
app.command("calibrate")(calibrate)


@app.callback()
def sae() -> None:
    """Train, measure and look at sets of SAEs."""


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(help="A folder or hub repository with sae_layer_NN.pt files, or 'tiny'.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show each layer's final loss, MSE and L0, from the checkpoints' own history, and how dense it is."""
    from steerkit.engine import box_folder
    from steerkit.sae import load_set, summarize

    box = box_folder(source)
    rows = summarize(load_set(source if box is None else box / "saes"))
    if json:
        for row in rows:
            print_json({**row._asdict(), "dense": row.dense})
        return
    out = console()
    out.print(layer_table(rows))
    if any(row.dense for row in rows):
        out.print("* more than a quarter of the dictionary is active at a token: read nothing into single features")
