"""`steerkit features labels`, `label` and `import`: what people call single features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerkit.cli.features.show import Index, Layer
from steerkit.cli.options import Layers, Saes, layer_numbers, load_named, named_site
from steerkit.errors import SaeError
from steerkit.report import print_json, say, say_line, visible

if TYPE_CHECKING:
    from steerkit.sae import SaeSet

Own = Annotated[Path, typer.Option(metavar="FOLDER", help="A folder of SAEs of yours; its labels.json is written.")]


def labels(
    saes: Saes = None,
    layers: Layers = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the labels of a set's features."""
    sae_set = load_named(saes or "tiny")
    wanted = layer_numbers(layers)
    found = {key: text for key, text in sorted(sae_set.labels.items()) if wanted is None or key.layer in wanted}
    if not found and not json:
        say_line(f"{sae_set.name}: no labels yet; steerkit features label gives one")
    for feature, text in found.items():
        if json:
            print_json({**feature.site.content, "index": feature.index, "label": text})
        else:
            say(f"{feature.site.compact:>3} {feature.index:>6}  {visible(text)}")


def label(
    layer: Layer,
    index: Index,
    saes: Own,
    text: Annotated[str | None, typer.Argument(help="What to call it, in place of what it is called.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take its label away.")] = False,
) -> None:
    """Label one feature of a set of yours."""
    from steerkit.sae import write_labels
    from steerkit.sites import Feature

    words = " ".join((text or "").split())
    if bool(words) == remove:
        raise SaeError("expected either a text, what to call the feature, or --remove")
    feature = Feature(named_site(layer), index)
    sae_set, path = _own(saes)
    sae_set.check(feature)
    named = {**sae_set.labels, feature: words}
    if remove:
        if feature not in sae_set.labels:
            raise SaeError(f"{path}: {feature} has no label to remove")
        del named[feature]
    write_labels(path, named)
    say(f"ok: {len(named):,} label{'s' * (len(named) != 1)} in {path}")


def import_labels(
    files: Annotated[list[Path], typer.Argument(help="Neuronpedia's explanations: batch-0.jsonl.gz and so on.")],
    saes: Own,
    model_id: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model as Neuronpedia names it (default: the set's, without its owner)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace labels that are there.")] = False,
) -> None:
    """Label features by Neuronpedia's explanations; labels that are there stay."""
    from steerkit.sae import read_explanations, write_labels

    sae_set, path = _own(saes)
    wanted = model_id or sae_set.model_name.rpartition("/")[2]
    found = read_explanations(files)
    if found.model.lower() != wanted.lower():
        raise SaeError(
            f"{files[0]}: explains features of {found.model}, expected those of {wanted}; where these are the same "
            f"model, give --model-id {found.model}"
        )
    for feature in found.labels:
        sae_set.check(feature)
    new = found.labels if force else {key: text for key, text in found.labels.items() if key not in sae_set.labels}
    write_labels(path, {**sae_set.labels, **new})
    sources = ", ".join(found.sources.values())
    left = len(found.labels) - len(new)
    kept = f"; {left:,} stayed what they were (--force replaces them)" if left else ""
    say(f"ok: {len(new):,} labels from {sources} in {path}{kept}")


def _own(folder: Path) -> tuple[SaeSet, Path]:
    """A set whose labels may be written, and their file. Raises SaeError."""
    from steerkit.sae import LABELS_FILE, load_set

    if not folder.is_dir():
        raise SaeError(
            f"{folder}: no folder of yours, so its labels cannot be written; steerkit sae convert {folder} DIR makes a "
            f"copy that is"
        )
    return load_set(folder), folder / LABELS_FILE
