"""`steerkit features`: find features and directions, look at single features, and name them."""

from __future__ import annotations

import typer

from steerkit.cli.features.direction import direction
from steerkit.cli.features.find import find
from steerkit.cli.features.labels import import_labels, label, labels
from steerkit.cli.features.show import show

app = typer.Typer(
    help="Find features, look at single ones, and name them.", no_args_is_help=True, rich_markup_mode=None
)
for command in (find, direction, show, labels, label):
    app.command()(command)
app.command("import")(import_labels)


@app.callback()
def features() -> None:
    """Find features, look at single ones, and name them."""
