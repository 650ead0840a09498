"""`steerkit features direction`: from two files of example conversations to a direction that a policy can add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.loading import check_conversations, check_place, check_writable, progress
from steerkit.cli.options import Device, Dtype, Layers, Limit, Model, hook_point, layer_numbers
from steerkit.report import console, print_json, print_rows, say_line
from steerkit.sites import POINTS, Point, Site

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.lab import MadeDirection

_From = Annotated[
    Path, typer.Option("--from", metavar="FILE", help="JSONL file of conversations that it leads away from.")
]
_To = Annotated[
    Path,
    typer.Option("--to", metavar="FILE", help="JSONL file of conversations, as like them as can be, that it leads to."),
]
_Out = Annotated[Path, typer.Option(metavar="FILE", help="Direction file to write, such as away.safetensors.")]
_At = Annotated[
    str, typer.Option(metavar="PLACE", help="Place that is read, as in a policy; best the one that will be written to.")
]
_Point = Annotated[str, typer.Option(metavar="POINT", help=f"Hook point: {', '.join(POINTS)}.")]
_Longest = Annotated[
    int, typer.Option(metavar="NUMBER", min=1, help="Length at most of a reply that a file does not bring.")
]


def direction(
    away: _From,
    toward: _To,
    out: _Out,
    at: _At = "reply.start",
    site: _Point = "attn_out",
    layers: Layers = None,
    model: Model = "tiny",
    limit: Limit = None,
    max_new_tokens: _Longest = 128,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Write the difference of the means of two sets of conversations, at hook points and a place, as a direction.

    A policy adds it as it is: directions: {away: {file: away.safetensors}}, and in a rule edit: {away: {add: 1}}.
    """
    from steerkit.errors import PolicyError
    from steerkit.lab import make_direction, write_direction

    point, numbers = hook_point(site), layer_numbers(layers)
    check_place(at)
    if out.exists() and not force:
        raise PolicyError([f"{out}: already there; give --force to replace it, or --out another file"])
    check_writable(out, "--out")
    for file in (away, toward):
        check_conversations(file, limit)
    loaded = _loaded(model, device, dtype)
    read: dict[str, Any] = {"limit": limit, "max_new_tokens": max_new_tokens}
    with progress(1, "conversations") as report:
        made = make_direction(loaded, away, toward, at, _sites(loaded, point, numbers), report=report, **read)
    fingerprint = write_direction(out, made.vectors, made.origin, force=force)
    _show(made, out, fingerprint, json=json)


def _loaded(model: str, device: str | None, dtype: str | None) -> LoadedModel:
    from steerkit.engine import load_model

    return load_model(model, device=device, dtype=dtype)


def _sites(loaded: LoadedModel, point: Point, layers: list[int] | None) -> list[Site]:
    """The sites of a hook point at some layers, or at all that have it."""
    from steerkit.steer import find_sites

    sites = find_sites(loaded.model)
    found = sites.of(point) if layers is None else [Site(layer, point) for layer in layers]
    for site in found:
        sites.at(site)  # refuses what the model does not have
    return found


def _show(made: MadeDirection, out: Path, fingerprint: str, *, json: bool) -> None:
    lengths = {site: float(vector.norm()) for site, vector in made.vectors.items()}
    if json:
        sites = [{**site.content, "length": lengths[site], "spread": made.spread[site]} for site in lengths]
        print_json({"file": str(out), "fingerprint": fingerprint, "origin": made.origin.model_dump(), "sites": sites})
        return
    rows = [(site.name, f"{length:.3g}", f"{made.spread[site]:.3g}") for site, length in lengths.items()]
    print_rows(console(), ("Hook point", "Length", "Spread"), rows, main=2, words=("Hook point",))
    first, second = made.origin.sources
    say_line(f"wrote {out}: from {first.count} conversations to {second.count}, at {made.origin.place}; {fingerprint}")
