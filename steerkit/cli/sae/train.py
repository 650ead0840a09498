"""`steerkit sae train`: train a set of SAEs on a model's activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.options import (
    Column,
    Data,
    Device,
    Dtype,
    Layers,
    Model,
    MostTokens,
    hook_point,
    layer_numbers,
    layer_table,
)
from steerkit.report import console
from steerkit.sites import POINTS, Point

if TYPE_CHECKING:
    from steerkit.lab.train import Beat, Recipe

Option = typer.Option
HookPoint = Annotated[
    str, Option(metavar="POINT", help=f"The hook point to train on: {', '.join(POINTS)} (default: o_proj's output).")
]
Out = Annotated[
    Path, Option(metavar="FOLDER", help="New or empty folder; a run begun there with the same settings resumes.")
]
RecipeName = Annotated[
    str, Option(metavar="RECIPE", help="topk, seed (that of the published SAEs), normalised or jumprelu.")
]
Size = Annotated[int | None, Option(metavar="FEATURES", min=1, help="Features per layer (default: 4096).")]
Epochs = Annotated[int | None, Option(metavar="COUNT", min=1, help="Passes over the data (default: 5).")]
Batch = Annotated[
    int | None, Option(metavar="COUNT", min=1, help="Conversations or texts in a step (default: 1, for seed).")
]
BatchTokens = Annotated[
    int | None, Option(metavar="TOKENS", min=1, help="Random tokens in a step (default: 256, but for seed).")
]
Rate = Annotated[
    float | None, Option(metavar="NUMBER", help="Learning rate (default: 0.0001 for seed, 0.0005 for the others).")
]
Sparsity = Annotated[float | None, Option(metavar="NUMBER", help="Weight of the penalty (default: the recipe's).")]
Kept = Annotated[
    int | None, Option("--k", metavar="COUNT", min=1, help="Features kept at a token, in topk (default: 32).")
]
Clip = Annotated[float | None, Option(metavar="NUMBER", help="Activations are clipped to [-CLIP, CLIP] (default: 10).")]
MaxNorm = Annotated[float | None, Option(metavar="NUMBER", help="Largest norm of a step's gradient (default: 1).")]
Buffer = Annotated[
    int | None, Option(metavar="TOKENS", min=1, help="Tokens whose activations are in memory (default: 8192).")
]
Precision = Annotated[
    str,
    Option(
        metavar="DTYPE",
        help="Of the products: float32 (exact), bfloat16, or auto: bfloat16 where the device computes in it.",
    ),
]
Seed = Annotated[int, Option(metavar="NUMBER", min=0, help="Of first weights and order.")]
Safetensors = Annotated[bool, Option("--safetensors", help="Write a folder of .safetensors files, too.")]
SaveDtype = Annotated[str, Option(metavar="DTYPE", help="Of the saved weights: float32 or bfloat16.")]
SaveEvery = Annotated[int, Option(metavar="TOKENS", min=1, help="Tokens between checkpoints.")]


def train(
    data: Data,
    out: Out,
    model: Model = "tiny",
    text_column: Column = None,
    max_tokens: MostTokens = None,
    recipe: RecipeName = "topk",
    layers: Layers = None,
    site: HookPoint = "attn_out",
    d_sae: Size = None,
    epochs: Epochs = None,
    batch: Batch = None,
    batch_tokens: BatchTokens = None,
    rate: Rate = None,
    sparsity: Sparsity = None,
    kept: Kept = None,
    clip: Clip = None,
    max_norm: MaxNorm = None,
    buffer: Buffer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    safetensors: Safetensors = False,
    save_dtype: SaveDtype = "float32",
    save_every: SaveEvery = 200_000,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Train SAEs on one hook point of all layers at once, by default TopK with 32 features a token.

    Several processes share the work when `accelerate launch -m steerkit.cli.main sae train ...` starts them.
    """
    from steerkit.lab.train import recipe as named

    sizes = {"d_sae": d_sae, "epochs": epochs, "texts": batch, "tokens": batch_tokens, "buffer": buffer, "k": kept}
    rates = {"rate": rate, "sparsity": sparsity, "clip": clip, "max_norm": max_norm, "precision": precision}
    chosen = named(recipe, **sizes, **rates)  # type: ignore[arg-type]  # it checks the name
    read = {"text_column": text_column, "max_tokens": max_tokens}
    written = {"safetensors": safetensors, "save_every": save_every}
    at = (model, device, dtype)
    _train(chosen, data, read, out, save_dtype, written, *at, layer_numbers(layers), hook_point(site), seed)


def _train(
    recipe: Recipe,
    data: Path,
    read: dict[str, Any],
    out: Path,
    save_dtype: str,
    written: dict[str, Any],
    model: str,
    device: str | None,
    dtype: str | None,
    layers: list[int] | None,
    point: Point,
    seed: int,
) -> None:
    from steerkit.engine import load_model
    from steerkit.lab import read_corpus
    from steerkit.lab.train import Output, saved_dtype, train_set
    from steerkit.lab.workers import processes
    from steerkit.sae import summarize

    weights = saved_dtype(save_dtype)
    group = processes()
    loaded = load_model(model, device=device or group.device, dtype=dtype, prepack=False)
    corpus = read_corpus(data, loaded, **read)
    output = Output(out, loaded.published_name or model, weights, **written)
    with _progress(shown=group.first) as report:
        saes = train_set(
            loaded.model,
            corpus.texts,
            recipe,
            output,
            layers=layers,
            point=point,
            seed=seed,
            group=group,
            report=report,
        )
    if group.first:
        cut = f", {corpus.cut} of them cut" if corpus.cut else ""
        lines = console()
        lines.print(f"{len(corpus.texts):,} texts{cut}, {corpus.tokens:,} tokens; {len(saes)} SAEs in {out}")
        lines.print(layer_table(summarize(saes)))


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[Beat], None]]:
    """A bar with tokens per second, loss and time left, on a terminal; nothing in a pipe."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[speed]} tokens/s  loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, disable=not (shown and out.is_terminal)) as bar:
        task = bar.add_task("training", total=None, epoch=1, speed="-", loss="-")

        def report(beat: Beat) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task,
                total=beat.total,
                completed=beat.tokens,
                epoch=beat.epoch,
                loss=f"{beat.loss:.4g}",
                speed="-" if speed is None else f"{speed:,.0f}",
            )

        yield report
