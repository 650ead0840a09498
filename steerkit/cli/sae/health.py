"""`steerkit sae health` and `calibrate`: what a set of SAEs keeps, and the units that policies use."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.loading import load_with_saes, progress
from steerkit.cli.options import Column, Data, Device, Dtype, Limit, Model, MostTokens, Saes
from steerkit.cli.sae.drift import Against, AgainstPolicies, Negative, Positive, check_against
from steerkit.cli.sae.drift import show as show_drift
from steerkit.report import console, print_json

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.lab import Corpus
    from steerkit.lab.train.health import CallFidelity, Fidelity
    from steerkit.sae import SaeSet

_COLUMNS = ("Layer", "MSE", "FVU", "L0", "Dead", "Always", "Outside\nclip", "Recovered", "against\nmean", "Same\ncalls")


def health(
    data: Data,
    model: Model = "tiny",
    saes: Saes = None,
    text_column: Column = None,
    max_tokens: MostTokens = None,
    limit: Limit = None,
    calls: Annotated[
        int, typer.Option(metavar="COUNT", min=0, help="Conversations to generate from; 0 for none.")
    ] = 32,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="TOKENS", min=1, help="Length of a generated reply at most.")
    ] = 128,
    clip: Annotated[
        float, typer.Option(metavar="NUMBER", min=0, help="The clip that the SAEs were trained with.")
    ] = 10.0,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the measures to this file, such as health.png.")
    ] = None,
    against: Against = None,
    policy: AgainstPolicies = None,
    positive: Positive = None,
    negative: Negative = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines: a line a layer, then the calls.")] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure a set of SAEs on held-out data: errors, firing, and what the model and its calls lose with each.

    With --against: what the set makes of another model on the same tokens, and whether a policy holds there.
    """
    from steerkit.lab.train.health import draw, fidelity

    reading = {"text_column": text_column, "max_tokens": max_tokens, "limit": limit}
    policies = check_against(against, policy or [], (positive, negative), figure)
    loaded, sae_set, corpus = _load(model, saes, data, device, dtype, reading)
    if against is not None:
        show_drift(loaded, sae_set, corpus, against, policies, (positive, negative), limit, json=json)
        return
    with progress(len(sae_set), "layers") as report:
        found = fidelity(loaded.model, sae_set, corpus.texts, clip=clip, report=report)
    kept = _same_calls(loaded, sae_set, corpus, calls, max_new_tokens)
    if figure is not None:
        draw(found, figure, f"SAEs of {sae_set.model_name}")
    if json:
        _print_json(found, kept)
    else:
        _show(found, kept, corpus)


def _same_calls(
    loaded: LoadedModel, saes: SaeSet, corpus: Corpus, count: int, max_new_tokens: int
) -> CallFidelity | None:
    """Calls that stay the same; None without conversations to generate from."""
    from steerkit.lab.train.health import call_fidelity

    if not count or not corpus.conversations:
        return None
    with progress(len(saes) + 3, "ways to generate") as report:
        some = corpus.conversations[:count]
        return call_fidelity(loaded, saes, some, max_new_tokens=max_new_tokens, report=report)


def calibrate(
    data: Data,
    model: Model = "tiny",
    saes: Saes = None,
    text_column: Column = None,
    max_tokens: MostTokens = None,
    limit: Limit = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write (default: stats.safetensors beside the SAEs).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace statistics that are there.")] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure each feature's max, mean, std, density and quantiles: the units in which policies give strengths."""
    from steerkit.errors import SaeError
    from steerkit.lab import calibrate as calibrated
    from steerkit.lab import save_statistics
    from steerkit.sae import STATISTICS_FILE

    if out is None and (saes is None or not Path(saes).is_dir()):
        raise SaeError("the SAEs are in no folder of yours; give --out FILE, and put it beside a copy of them")
    path = out or Path(str(saes)) / STATISTICS_FILE
    if path.exists() and not force:
        raise SaeError(f"{path}: already there; give --force to replace it, or --out another file")
    reading = {"text_column": text_column, "max_tokens": max_tokens, "limit": limit}
    loaded, sae_set, corpus = _load(model, saes, data, device, dtype, reading)
    save_statistics(calibrated(loaded.model, sae_set, corpus.texts), path, corpus.tokens, corpus.source)
    console().print(f"{corpus.tokens:,} tokens of {len(corpus.texts):,} texts; wrote {path}")


def _load(
    model: str, saes: str | None, data: Path, device: str | None, dtype: str | None, reading: dict[str, Any]
) -> tuple[LoadedModel, SaeSet, Corpus]:
    from steerkit.lab import check_sites, read_corpus

    loaded, sae_set = load_with_saes(model, saes, device, dtype)
    check_sites(sae_set)
    return loaded, sae_set, read_corpus(data, loaded, **reading)


def _print_json(found: list[Fidelity], kept: CallFidelity | None) -> None:
    for one in found:
        plain = {**asdict(one), "recovered": one.recovered, "recovered_mean": one.recovered_mean}
        del plain["rates"]
        print_json(plain)
    if kept is not None:
        by_layer = {str(site.compact): count for site, count in kept.by_layer.items()}
        print_json({"calls": {**vars(kept), "by_layer": by_layer}})


def _show(found: list[Fidelity], kept: CallFidelity | None, corpus: Corpus) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in _COLUMNS:
        table.add_column(title, justify="right")
    for one in found:
        same = "-" if kept is None else f"{kept.by_layer[one.site]} of {kept.calling}"
        table.add_row(
            str(one.site.compact),
            f"{one.mse:.4f}",
            f"{one.fvu:.3f}",
            f"{one.l0:.1f}",
            str(one.dead),
            str(one.always_on),
            f"{100 * one.outside:.3f} %",
            f"{one.recovered:.4f}",
            f"{one.recovered_mean:.4f}",
            same,
        )
    out = console()
    out.print(table)
    cut = f", {corpus.cut} texts cut" if corpus.cut else ""
    out.print(f"{found[0].tokens:,} tokens{cut}, {found[0].d_sae:,} features; loss of the model {found[0].loss:.4f}")
    if kept is not None:
        asked = f"{kept.calling} replies with calls ({kept.asked} asked for)"
        every = f"{kept.delta} under an empty delta, {kept.every_layer} with every layer reconstructed"
        out.print(f"calls exactly the same, of {asked}:")
        out.print(every)
