"""`steerkit features`: what the features of a set of SAEs are about."""

from __future__ import annotations

import typer

from steerkit.cli.features_find import find

app = typer.Typer(help="Find features by what they tell apart and cause.", no_args_is_help=True, rich_markup_mode=None)
app.command()(find)


@app.callback()
def features() -> None:
    """Find features by what they tell apart and cause."""
