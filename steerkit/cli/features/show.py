"""`steerkit features show`: what one feature reads and writes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.loading import load_with_saes, progress
from steerkit.cli.options import Column, Data, Device, Dtype, Limit, Model, MostTokens, Saes, named_site
from steerkit.errors import SaeError
from steerkit.report import console, print_json

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.lab import Corpus
    from steerkit.lab.find import FeatureContexts
    from steerkit.report import FeatureView
    from steerkit.sae import SaeSet
    from steerkit.sites import Feature

Layer = Annotated[str, typer.Argument(help="The feature's layer, from 0, or its site such as resid_post.3.")]
Index = Annotated[int, typer.Argument(min=0, help="Its index in the layer's dictionary, from 0.")]


def show(
    layer: Layer,
    index: Index,
    data: Data,
    model: Model = "tiny",
    saes: Saes = None,
    text_column: Column = None,
    max_tokens: MostTokens = None,
    limit: Limit = None,
    top: Annotated[int, typer.Option(min=1, metavar="COUNT", help="How many contexts and tokens.")] = 10,
    around: Annotated[
        int, typer.Option(min=0, metavar="COUNT", help="Tokens on each side of a context's strongest one.")
    ] = 12,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page to this file; it needs no network.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Show where a feature is strongest, how often it fires, and what it writes."""
    from steerkit.lab import read_corpus
    from steerkit.report import feature_json, show_feature
    from steerkit.sites import Feature

    feature = Feature(named_site(layer), index)
    loaded, sae_set = load_with_saes(model, saes, device, dtype)
    sae_set.check(feature)
    corpus = read_corpus(data, loaded, text_column=text_column, max_tokens=max_tokens, limit=limit)
    view = _view(loaded, sae_set, feature, corpus, {"top": top, "around": around})
    if html is not None:
        from steerkit.report import write_page

        write_page(html, feature_json(view))
    if json:
        print_json(feature_json(view))
        return
    out = console()
    show_feature(out, view)
    if html is not None:
        out.print()
        out.print(f"wrote {html}")


def _view(loaded: LoadedModel, sae_set: SaeSet, feature: Feature, corpus: Corpus, sizes: dict[str, Any]) -> FeatureView:
    from steerkit.lab.find import decoder_tokens, feature_contexts
    from steerkit.report import FeatureView

    model, tokenizer, sae = loaded.model, loaded.tokenizer, sae_set[feature.site]
    with progress(corpus.tokens, "tokens") as report:
        contexts = feature_contexts(model, tokenizer, sae_set, feature, corpus.texts, **sizes, report=report)
    statistics_from, statistics = _statistics(sae_set, contexts, corpus.source)
    return FeatureView(
        sae_set.labels.get(feature),
        loaded.name,
        sae_set.name,
        sae.kind,
        corpus.source,
        contexts,
        decoder_tokens(model, tokenizer, sae_set, feature, top=sizes["top"]),
        statistics,
        statistics_from,
        sae.numbers(feature.index),
    )


def _statistics(sae_set: SaeSet, contexts: FeatureContexts, data: str) -> tuple[str, dict[str, float]]:
    """The set's own where it has them all, those that policies' units use; else those of the data."""
    from steerkit.sae import STATISTICS_FILE, UNITS

    with suppress(SaeError):
        return STATISTICS_FILE, {unit: sae_set.statistic(contexts.feature, unit) for unit in UNITS}
    return data, {unit: contexts.statistics[unit] for unit in UNITS}
