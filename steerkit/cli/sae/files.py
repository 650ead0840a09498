"""`steerkit sae convert`, `pull` and `push`: sets of SAEs from and to files and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.options import Revision, Source, load_named
from steerkit.report import say


def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    to: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="functiongemma, safetensors, saelens, dictionary-learning or sparsify."),
    ] = "safetensors",
    revision: Revision = None,
) -> None:
    """Write a set in another format, with its statistics and labels; the whole of it, or nothing."""
    from steerkit.sae import convert as write

    saes = load_named(source, revision)
    write(saes, target, to)
    say(f"ok: {len(saes)} layer{'s' * (len(saes) > 1)} of {saes.model_name} in {target} ({to})")


def pull(
    repo: Annotated[
        str,
        typer.Argument(
            metavar="REPOSITORY", help="A hub repository, or folders in one: owner/name/folder, * is anything."
        ),
    ],
    revision: Revision = None,
) -> None:
    """Fetch the SAEs of a hub repository into the hub's cache, check them, and print where they lie."""
    from steerkit.sae import load_set
    from steerkit.sae import pull as fetch

    folders = fetch(repo, revision=revision)
    load_set(repo, revision=revision)
    for folder in folders:
        say(str(folder))


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A set's folder, in any known format.")],
    repo: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="A hub repository: owner/name; it is made where it is missing.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Put a set on the hub in one commit, with its statistics, labels and README; log in with `hf auth login` first."""
    from steerkit.sae import push as publish

    say(publish(folder, repo, private=private))
