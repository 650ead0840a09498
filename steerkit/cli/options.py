"""Options and tables that the `steerkit sae` commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerkit.errors import SaeError
from steerkit.sites import POINTS, Point, Site

if TYPE_CHECKING:
    from rich.table import Table

    from steerkit.sae import LayerSummary, SaeSet

Model = Annotated[
    str, typer.Option(metavar="MODEL", envvar="STEERKIT_MODEL", help="'tiny', a folder, or a hub repository.")
]
Saes = Annotated[
    str | None,
    typer.Option(
        metavar="SAES", envvar="STEERKIT_SAES", help="Folder or hub repository of the SAEs (the box brings its own)."
    ),
]
Policies = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="POLICY",
        envvar="STEERKIT_POLICY",
        help="Policy file, or the name of one that ships; may be given several times.",
    ),
]
Tools = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSON file with a list of tools; 'box' for those of the demo.")
]
Data = Annotated[
    Path,
    typer.Option(
        metavar="DATA",
        help="JSONL file with messages and tools, or with texts; or a folder that `datasets` saved.",
    ),
]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="Column of the texts (default: messages, else text).")]
MostTokens = Annotated[int | None, typer.Option(min=1, metavar="COUNT", help="Cut longer texts at this many tokens.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="COUNT", help="Read at most this many rows of the data.")]
Layers = Annotated[str | None, typer.Option(metavar="LAYERS", help="Such as 0-5,11 (default: all).")]
Source = Annotated[
    str, typer.Argument(metavar="SAES", help="A folder or hub repository with SAEs in any known format, or 'tiny'.")
]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit on the hub.")]
Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="Where to compute, such as cuda (default: the CPU).")
]
Dtype = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="Of the model's weights, such as bfloat16 (default: as stored).")
]
Prepack = Annotated[
    bool | None,
    typer.Option(
        "--prepack/--no-prepack",
        help="Keep linear weights a second time as the CPU reads them fastest (default: where it is faster).",
    ),
]

Graphs = Annotated[
    Literal["auto", "on", "off", "compiled"],
    typer.Option(help="Decode with prepared steps, on a GPU in CUDA graphs (auto: on a GPU)."),
]


Generates = Annotated[
    Literal["transformers", "vllm"], typer.Option(help="What generates; vllm needs the extra of that name.")
]
VllmSettings = Annotated[
    list[str] | None,
    typer.Option("--vllm", metavar="NAME=VALUE", help="Argument of engine vllm, such as max_model_len=4096."),
]


def generated_by(name: str, settings: Sequence[str]) -> Any:
    """The argument `engine` of `load`. Raises SettingError."""
    from steerkit.engine import read_settings
    from steerkit.errors import SettingError

    if settings and name != "vllm":
        raise SettingError(f"--vllm: got {settings[0]!r:.80} for engine {name}, expected --engine vllm beside it")
    return read_settings(settings) if settings else name


def how_to_run(device: str | None, dtype: str | None, prepack: bool | None, graphs: str) -> dict[str, Any]:
    """Arguments of `load` for the options on device and decoding."""
    prepared = {"on": True, "off": False}.get(graphs, graphs)
    return {"device": device, "dtype": dtype, "prepack": "auto" if prepack is None else prepack, "graphs": prepared}


def layer_numbers(text: str | None) -> list[int] | None:
    """Numbers from ranges such as `0-5,11`. Raises SaeError."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", part)
        if match is None:
            raise SaeError(f"layers: got {text!r}, expected numbers and ranges such as 0-5,11")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def named_site(text: str) -> Site:
    """The site of a layer's number (its `attn_out`) or of a text such as resid_post.3. Raises SaeError."""
    try:
        return Site.of(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise SaeError(f"layer: {error}") from None


def hook_point(text: str) -> Point:
    """A hook point by its name. Raises SaeError."""
    found = next((point for point in POINTS if point == text), None)
    if found is None:
        raise SaeError(f"site: got {text!r}, expected one of {', '.join(POINTS)}")
    return found


def layer_table(rows: Sequence[LayerSummary], saes: SaeSet | None = None) -> Table:
    """The table of the published card, with the density beside it, and what is not a plain ReLU SAE of `attn_out`."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("Layer", "Final Loss", "Final MSE", "L0", "Density"):
        table.add_column(title, justify="right")
    kinds = {site: (sae.kind, site.point) for site, sae in (saes or {}).items()}
    special = any(kind != ("relu", "attn_out") for kind in kinds.values())
    for title in ("Kind", "Site") if special else ():
        table.add_column(title)
    for row in rows:
        density = "-" if row.density is None else f"{100 * row.density:.1f} %{' *' if row.dense else '  '}"
        more = kinds[row.site] if special else ()
        table.add_row(str(row.layer), _number(row.loss, 4), _number(row.mse, 4), _number(row.l0, 0), density, *more)
    return table


def load_named(source: str, revision: str | None = None) -> SaeSet:
    """The set of a name: the box's own, a folder's, or a repository's. Raises SaeError."""
    from steerkit.sae import load_set

    if "/" in source or Path(source).exists():
        return load_set(source, revision=revision)
    from steerkit.boxes import box_folder

    box = box_folder(source)
    return load_set(source if box is None else box / "saes", revision=revision)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
