"""`steerkit policy`: check policy files, and print their JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check policy files, and print their schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Policy files.")]) -> None:
    """Name every mistake of every file, with line and path."""
    from steerkit.errors import PolicyError
    from steerkit.policy import load

    problems: list[str] = []
    for file in files:
        try:
            load(file)
            typer.echo(f"ok: {file}")
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(problems)


@app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    from steerkit.policy import schema_text

    typer.echo(schema_text(), nl=False)
