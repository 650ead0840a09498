"""`steerkit sae`: look at sets of SAEs."""

from __future__ import annotations

from typing import Annotated

import typer

from steerkit.cli.view import console, print_json

app = typer.Typer(help="Look at sets of SAEs.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def sae() -> None:
    """Look at sets of SAEs."""


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(help="A folder or hub repository with sae_layer_NN.pt files, or 'tiny'.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show each layer's final loss, MSE and L0, from the checkpoints' own history, and how dense it is."""
    from rich.table import Table

    from steerkit.engine import box_folder
    from steerkit.sae import load_set, summarize

    box = box_folder(source)
    rows = summarize(load_set(source if box is None else box / "saes"))
    if json:
        for row in rows:
            print_json({**row._asdict(), "dense": row.dense})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("Layer", "Final Loss", "Final MSE", "L0", "Density"):
        table.add_column(title, justify="right")
    for row in rows:
        density = "-" if row.density is None else f"{100 * row.density:.1f} %{' *' if row.dense else '  '}"
        table.add_row(str(row.layer), _number(row.loss, 4), _number(row.mse, 4), _number(row.l0, 0), density)
    out = console()
    out.print(table)
    if any(row.dense for row in rows):
        out.print("* more than a quarter of the dictionary is active at a token: read nothing into single features")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
