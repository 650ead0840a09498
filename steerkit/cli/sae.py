"""`steerkit sae`: look at sets of SAEs, convert them, fetch and publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.view import console, print_json

app = typer.Typer(
    help="Look at sets of SAEs, convert, fetch and publish them.", no_args_is_help=True, rich_markup_mode=None
)

SourceArgument = Annotated[
    str, typer.Argument(help="A folder or hub repository with SAEs in any known format, or 'tiny'.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]


@app.callback()
def sae() -> None:
    """Look at sets of SAEs, convert, fetch and publish them."""


@app.command()
def inspect(
    source: SourceArgument,
    revision: RevisionOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show each layer's final loss, MSE and L0, from the checkpoints' own history, and how dense it is."""
    from rich.table import Table

    from steerkit.sae import summarize

    saes = _load(source, revision)
    rows = summarize(saes)
    if json:
        for row in rows:
            print_json(
                {**row._asdict(), "dense": row.dense, "kind": saes[row.layer].kind, "site": saes[row.layer].site}
            )
        return
    special = any(one.kind != "relu" or one.site != "output" for one in saes.values())
    table = Table(box=None, pad_edge=False)
    for title in ("Layer", "Final Loss", "Final MSE", "L0", "Density"):
        table.add_column(title, justify="right")
    for title in ("Kind", "Site") if special else ():
        table.add_column(title)
    for row in rows:
        density = "-" if row.density is None else f"{100 * row.density:.1f} %{' *' if row.dense else '  '}"
        more = (saes[row.layer].kind, saes[row.layer].site) if special else ()
        table.add_row(str(row.layer), _number(row.loss, 4), _number(row.mse, 4), _number(row.l0, 0), density, *more)
    out = console()
    out.print(table)
    if any(row.dense for row in rows):
        out.print("* more than a quarter of the dictionary is active at a token: read nothing into single features")


@app.command()
def convert(
    source: SourceArgument,
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[
        str, typer.Option(help="functiongemma, safetensors, saelens, dictionary-learning or sparsify.")
    ] = "safetensors",
    revision: RevisionOption = None,
) -> None:
    """Write a set in another format, with its statistics and labels; the whole of it, or nothing."""
    from steerkit.sae import convert as write

    saes = _load(source, revision)
    write(saes, target, to)
    typer.echo(f"ok: {len(saes)} layer{'s' * (len(saes) > 1)} of {saes.model_name} in {target} ({to})")


@app.command()
def pull(
    repo: Annotated[
        str,
        typer.Argument(help="A hub repository, or folders in one: owner/name/folder, * is anything."),
    ],
    revision: RevisionOption = None,
) -> None:
    """Fetch the SAEs of a hub repository into the hub's cache, check them, and print where they lie."""
    from steerkit.sae import load_set
    from steerkit.sae import pull as fetch

    folders = fetch(repo, revision=revision)
    load_set(repo, revision=revision)
    for folder in folders:
        typer.echo(str(folder))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A set's folder, in any known format.")],
    repo: Annotated[str, typer.Argument(help="A hub repository: owner/name; it is made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Put a set on the hub in one commit, with its statistics, labels and README; log in with `hf auth login` first."""
    from steerkit.sae import push as publish

    typer.echo(publish(folder, repo, private=private))


def _load(source: str, revision: str | None) -> Any:
    """The set of a name; typed loosely, as naming its class would load torch for help."""
    from steerkit.sae import load_set

    if "/" in source or Path(source).exists():
        return load_set(source, revision=revision)
    from steerkit.engine import box_folder

    box = box_folder(source)
    return load_set(source if box is None else box / "saes", revision=revision)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
